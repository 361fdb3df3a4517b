#include "heed/core/random.hpp"

#include <cmath>
#include <cstdint>
#include <vector>

#include <gtest/gtest.h>

namespace heed::test {
namespace {

TEST(CounterRng, EqualsThePublishedVectorsOfPhilox) {
  // Random123's known answers for philox4x32-10: counter and key all zeros, and all ones.
  CounterRng zeros(0, 0);
  for (const std::uint32_t want : {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u})
    EXPECT_EQ(zeros.next_u32(), want);
  std::uint32_t ones[4];
  heed::detail::philox_block(~0ull, ~0ull, ~0ull, ones);
  const std::uint32_t want[4] = {0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu};
  for (int t = 0; t < 4; ++t) EXPECT_EQ(ones[t], want[t]);
}

TEST(CounterRng, IsAFunctionOfSeedStreamAndPlaceAlone) {
  CounterRng a(7, 11), b(7, 11), other_stream(7, 12), other_seed(8, 11);
  for (int t = 0; t < 100; ++t) {
    const std::uint32_t draw = a.next_u32();
    EXPECT_EQ(draw, b.next_u32());
    EXPECT_NE(draw, other_stream.next_u32());
    EXPECT_NE(draw, other_seed.next_u32());
  }
}

TEST(CounterRng, UniformHasTheMomentsOfTheUniformLaw) {
  CounterRng random(3, 5);
  constexpr int n = 100000;
  double sum = 0, square = 0;
  for (int t = 0; t < n; ++t) {
    const double u = random.uniform();
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
    square += u * u;
  }
  EXPECT_NEAR(sum / n, 0.5, 5 * std::sqrt(1.0 / 12 / n));
  EXPECT_NEAR(square / n, 1.0 / 3, 5 * std::sqrt(4.0 / 45 / n));
}

TEST(CounterRng, BelowReachesEveryNumberEquallyOften) {
  CounterRng random(3, 6);
  constexpr int n = 70000, sides = 7;
  std::vector<double> counts(sides, 0.0);
  for (int t = 0; t < n; ++t) {
    const Index k = random.below(sides);
    ASSERT_GE(k, 0);
    ASSERT_LT(k, sides);
    ++counts[static_cast<std::size_t>(k)];
  }
  for (const double count : counts) EXPECT_NEAR(count, n / 7.0, 5 * std::sqrt(n * 6.0 / 49));
  EXPECT_EQ(random.below(1), 0);
  EXPECT_LT(random.below(Index{1} << 40), Index{1} << 40);
}

}  // namespace
}  // namespace heed::test
