#include "heed/core/random.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace heed::test {
namespace {

/// Known answers of Philox-4x32-10 (Salmon et al. 2011, the authors' kat_vectors): counter and key all zero.
TEST(CounterRng, GivesThePublishedNumbers) {
  CounterRng rng(0, 0);
  EXPECT_EQ(rng.next_u32(), 0x6627e8d5u);
  EXPECT_EQ(rng.next_u32(), 0xe169c58du);
  EXPECT_EQ(rng.next_u32(), 0xbc57ac4cu);
  EXPECT_EQ(rng.next_u32(), 0x9b00dbd8u);
}

TEST(CounterRng, IsAFunctionOfSeedStreamAndIndex) {
  CounterRng a(7, 3), b(7, 3), other_stream(7, 4), other_seed(8, 3);
  int same_stream = 0, same_seed = 0;
  for (int t = 0; t < 100; ++t) {
    const auto draw = a.next_u32();
    EXPECT_EQ(draw, b.next_u32());
    same_stream += draw == other_stream.next_u32();
    same_seed += draw == other_seed.next_u32();
  }
  EXPECT_LE(same_stream + same_seed, 1);
}

TEST(CounterRng, IsUniform) {
  CounterRng rng(1, 2);
  const int n = 100000;
  double sum = 0;
  std::vector<int> count(7, 0);
  for (int t = 0; t < n; ++t) {
    const double x = rng.uniform();
    EXPECT_TRUE(x >= 0.0 && x < 1.0);
    sum += x;
    ++count[static_cast<std::size_t>(rng.below(7))];
  }
  EXPECT_NEAR(sum / n, 0.5, 5.0 / std::sqrt(12.0 * n));
  for (const int c : count) EXPECT_NEAR(c, n / 7.0, 5.0 * std::sqrt(n * 6.0 / 49.0));
  EXPECT_EQ(CounterRng(5, 5).below(1), 0);
}

}  // namespace
}  // namespace heed::test
