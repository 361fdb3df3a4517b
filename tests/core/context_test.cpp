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

TEST(Context, ANegativeNumberOfThreadsIsRefusedByName) {
  for (const Index fine : {0, 1, 3, 100000}) detail::check_context({.threads = fine});
  try {
    detail::check_context({.threads = -2});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const OptionError& error) {
    EXPECT_STREQ(error.what(), "heed: Context::threads = -2 must be >= 0 (0: OpenMP's own maximum)");
  }
}

}  // namespace
}  // namespace heed
