#include "heed/sampling/inclusion.hpp"

#include <cmath>
#include <numeric>
#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "heed/core/random.hpp"
#include "support/inputs.hpp"

namespace heed::test {
namespace {

std::vector<double> some_sizes(Index n, std::uint64_t seed) {
  NumberStream numbers(seed);
  std::vector<double> sizes;
  for (Index k = 0; k < n; ++k) sizes.push_back(k % 9 == 4 ? 0.0 : std::exp(2 * numbers.normal()));
  return sizes;
}

TEST(InclusionProbabilities, SumToTheCountAreCappedAtOneAndElseProportional) {
  const auto sizes = some_sizes(113, 3);
  std::vector<double> pi(sizes.size());
  for (const Index count : {0, 1, 7, 50, 90, 99}) {
    inclusion_probabilities<double>(sizes, count, pi);
    EXPECT_NEAR(std::accumulate(pi.begin(), pi.end(), 0.0), static_cast<double>(count), 1e-9);
    double factor = 0;
    for (std::size_t k = 0; k < pi.size(); ++k) {
      EXPECT_LE(pi[k], 1.0);
      if (sizes[k] == 0) {
        EXPECT_EQ(pi[k], 0.0);
      }
      if (pi[k] > 0 && pi[k] < 1) factor = pi[k] / sizes[k];
    }
    for (std::size_t k = 0; k < pi.size() && factor > 0; ++k)
      EXPECT_NEAR(pi[k], std::min(1.0, factor * sizes[k]), 1e-12) << "count " << count;
  }
  inclusion_probabilities<double>(sizes, 113, pi);  // more than have a size
  for (std::size_t k = 0; k < pi.size(); ++k) EXPECT_EQ(pi[k], sizes[k] > 0 ? 1.0 : 0.0);
}

TEST(SystematicSample, TakesEveryIndexAsOftenAsItsProbabilityAndNoneTwice) {
  const auto sizes = some_sizes(61, 5);
  std::vector<double> pi(sizes.size()), counts(sizes.size(), 0.0);
  constexpr Index r = 13;
  inclusion_probabilities<double>(sizes, r, pi);
  std::vector<std::int32_t> list(sizes.size() + 1);
  constexpr int n = 50000;
  CounterRng random(4, 4);
  for (int t = 0; t < n; ++t) {
    const Index taken = systematic_sample<double>(pi, random.uniform(), list.data());
    ASSERT_EQ(taken, r);
    for (Index s = 0; s < taken; ++s) {
      ++counts[static_cast<std::size_t>(list[static_cast<std::size_t>(s)])];
      if (s > 0) {
        ASSERT_LT(list[static_cast<std::size_t>(s - 1)], list[static_cast<std::size_t>(s)]);
      }
    }
  }
  for (std::size_t k = 0; k < pi.size(); ++k)
    EXPECT_NEAR(counts[k], n * pi[k], 5 * std::sqrt(n * pi[k] * (1 - pi[k])) + 1e-6) << "index " << k;
}

}  // namespace
}  // namespace heed::test
