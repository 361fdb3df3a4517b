#include "heed/sampling/sample_counts.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "support/inputs.hpp"

namespace heed::test {
namespace {

TEST(PublishedCount, IsTheSquareOfTheWeightedImportanceRoundedAsAsked) {
  EXPECT_EQ(published_count(0.01, 100, 0.4, 256, Rounding::up), 7);  // 2.5^2 = 6.25
  EXPECT_EQ(published_count(0.01, 100, 0.4, 256, Rounding::published), 6);
  EXPECT_EQ(published_count(1e-4, 100, 0.4, 256, Rounding::up), 1);
  EXPECT_EQ(published_count(1e-4, 100, 0.4, 256, Rounding::published), 0);
  EXPECT_EQ(published_count(0.0, 100, 0.4, 256, Rounding::up), 0);
  EXPECT_EQ(published_count(1.0, 100, 0.4, 256, Rounding::up), 256);
  EXPECT_EQ(published_count(std::numeric_limits<double>::quiet_NaN(), 100, 0.4, 256, Rounding::up), 256);
}

TEST(ProportionalCounts, ShareTheTotalUpToACapWithoutSpendingMuchMore) {
  NumberStream numbers(3);
  std::vector<double> weights;
  for (int j = 0; j < 203; ++j) weights.push_back(j % 10 == 3 ? 0.0 : std::exp(1.5 * numbers.normal()));
  std::vector<Index> counts(weights.size());
  for (const double fraction : {0.05, 0.25, 0.5, 0.8}) {
    for (const Rounding rounding : {Rounding::up, Rounding::published}) {
      const double total = fraction * 183 * 64;
      proportional_counts(weights, total, 64, rounding, counts);
      const auto sum = static_cast<double>(std::accumulate(counts.begin(), counts.end(), Index{0}));
      // Rounding takes or gives half a product on average, but not where a token has all of them. Rounding up holds
      // half a product of every token back beforehand.
      const auto whole = static_cast<double>(std::count(counts.begin(), counts.end(), Index{64}));
      const double lost = 0.5 * (rounding == Rounding::up ? whole : 183 - whole);
      if (fraction > 0.2) {  // below, many tokens ask for less than one
        EXPECT_NEAR(sum, total - lost, 5 * std::sqrt(183.0 / 12) + 0.002 * total) << fraction;
      }
      double ratio = 0;
      for (std::size_t j = 0; j < counts.size(); ++j) {
        EXPECT_LE(counts[j], 64);
        if (weights[j] == 0) {
          EXPECT_EQ(counts[j], 0);
        }
        if (rounding == Rounding::up && weights[j] > 0) {
          EXPECT_GE(counts[j], 1);
        }
        if (counts[j] > 20 && counts[j] < 64) ratio = static_cast<double>(counts[j]) / weights[j];
      }
      for (std::size_t j = 0; j < counts.size() && ratio > 0; ++j) {
        if (counts[j] < 64) {
          EXPECT_NEAR(static_cast<double>(counts[j]), ratio * weights[j], 1.0 + 0.06 * ratio * weights[j]);
        }
      }
    }
  }
}

// The same by bisection: the factor at which min(d_in, factor * weight) add up to what is left after rounding.
TEST(ProportionalCounts, EqualThoseOfTheFactorFoundByBisection) {
  NumberStream numbers(4);
  std::vector<double> weights;
  for (int j = 0; j < 150; ++j) weights.push_back(std::exp(numbers.normal()));
  std::vector<Index> counts(weights.size());
  for (const double total : {300.0, 1000.0, 4000.0, 8000.0}) {
    for (const Rounding rounding : {Rounding::up, Rounding::published}) {
      proportional_counts(weights, total, 64, rounding, counts);
      const double wanted = rounding == Rounding::up ? total - 75 : total;
      double low = 0, high = 1e6;
      for (int step = 0; step < 200; ++step) {
        const double factor = (low + high) / 2;
        double sum = 0;
        for (const double weight : weights) sum += std::min(64.0, factor * weight);
        (sum < wanted ? low : high) = factor;
      }
      for (std::size_t j = 0; j < counts.size(); ++j) {
        const double share = std::min(64.0, high * weights[j]);
        EXPECT_EQ(counts[j], static_cast<Index>(rounding == Rounding::up ? std::ceil(share) : std::floor(share)))
            << "share " << share << " of " << total;
      }
    }
  }
}

TEST(ProportionalCounts, EqualWeightsGiveEqualCountsAndEverythingGivesTheExactProduct) {
  std::vector<Index> counts(10);
  proportional_counts(std::vector<double>(10, 0.3), 0.5 * 10 * 128, 128, Rounding::up, counts);
  for (const Index count : counts) EXPECT_EQ(count, 64);
  proportional_counts(std::vector<double>(10, 0.3), 10 * 128, 128, Rounding::up, counts);
  for (const Index count : counts) EXPECT_EQ(count, 128);
  std::vector<double> spoiled(10, 1.0);
  spoiled[3] = std::numeric_limits<double>::quiet_NaN();
  proportional_counts(spoiled, 9 * 16, 128, Rounding::published, counts);
  for (std::size_t j = 0; j < 10; ++j) EXPECT_EQ(counts[j], j == 3 ? 128 : 16);
}

}  // namespace
}  // namespace heed::test
