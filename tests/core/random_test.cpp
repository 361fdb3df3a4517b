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

/// Sum over the cells of (count - expected)^2 / expected, and where it must stay under: 5 standard deviations above its
/// mean.
double chi_square(const std::vector<double>& counts) {
  double n = 0, sum = 0;
  for (const double count : counts) n += count;
  const double expected = n / static_cast<double>(counts.size());
  for (const double count : counts) sum += (count - expected) * (count - expected) / expected;
  return sum;
}
double chi_square_limit(std::size_t cells) {
  const auto freedom = static_cast<double>(cells - 1);
  return freedom + 5 * std::sqrt(2 * freedom) + 10;
}

TEST(CounterRng, UniformFillsEveryPartOfTheIntervalAndEveryBit) {
  CounterRng random(4, 5);
  constexpr int n = 200000;
  std::vector<double> cells(256, 0.0), fine(256, 0.0), pairs(256, 0.0);
  double before = random.uniform();
  for (int t = 0; t < n; ++t) {
    const double u = random.uniform();
    ++cells[static_cast<std::size_t>(u * 256)];
    const auto bits = static_cast<std::uint64_t>(u * 0x1p53);
    EXPECT_EQ(static_cast<double>(bits) * 0x1p-53, u) << "a multiple of 2^-53";
    ++fine[bits & 255];
    ++pairs[static_cast<std::size_t>(before * 16) * 16 + static_cast<std::size_t>(u * 16)];
    before = u;
  }
  for (const auto* counts : {&cells, &fine, &pairs}) EXPECT_LT(chi_square(*counts), chi_square_limit(256));
}

TEST(CounterRng, BelowIsUniformForSmallRangesAndLarge) {
  for (const Index range : {2, 3, 5, 64, 1000}) {
    CounterRng random(11, static_cast<std::uint64_t>(range));
    std::vector<double> counts(static_cast<std::size_t>(range), 0.0);
    for (int t = 0; t < 300000; ++t) ++counts[static_cast<std::size_t>(random.below(range))];
    EXPECT_LT(chi_square(counts), chi_square_limit(counts.size())) << "below " << range;
  }
  // 2^64 is no multiple of these ranges: remainders of a plain draw would favour the low numbers by half, or a third.
  for (const Index range : {Index{3} << 61, (Index{1} << 62) + (Index{1} << 61) + (Index{1} << 60), Index{1} << 40}) {
    CounterRng random(12, static_cast<std::uint64_t>(range));
    std::vector<double> counts(16, 0.0);
    for (int t = 0; t < 100000; ++t) {
      const Index drawn = random.below(range);
      ASSERT_GE(drawn, 0);
      ASSERT_LT(drawn, range);
      ++counts[static_cast<std::size_t>(drawn / (range / 16))];
    }
    EXPECT_LT(chi_square(counts), chi_square_limit(counts.size())) << "below " << range;
  }
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
