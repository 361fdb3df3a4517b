#include "heed/core/context.hpp"

#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(Context, ThreadsAskedForAreTaken) {
#ifdef _OPENMP
  EXPECT_EQ(detail::thread_count(1), 1);
  EXPECT_EQ(detail::thread_count(3), 3);
  EXPECT_EQ(detail::thread_count(0), omp_get_max_threads());
#else
  EXPECT_EQ(detail::thread_count(3), 1);
  EXPECT_EQ(detail::thread_count(0), 1);
#endif
}

TEST(Context, InsideAParallelRegionTheDefaultIsOneThread) {
#ifdef _OPENMP
  int counts[2] = {0, 0};
#pragma omp parallel num_threads(2)
  {
    if (omp_get_num_threads() == 2) {
      counts[omp_get_thread_num()] = detail::thread_count(0);
    } else {
      counts[0] = counts[1] = 1;  // the runtime gave one thread
    }
  }
  EXPECT_EQ(counts[0], 1);
  EXPECT_EQ(counts[1], 1);
#else
  GTEST_SKIP() << "built without OpenMP";
#endif
}

}  // namespace
}  // namespace heed
