#include "heed/sampling/alias_table.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

namespace heed::test {
namespace {

TEST(AliasTable, DrawsEachIndexAsOftenAsItsWeightSays) {
  for (const std::vector<double>& weights :
       {std::vector<double>{1}, {1, 2, 3, 4}, {0, 5, 0, 1e-3, 7}, {1e-300, 1e-300}, {1, 1, 1, 1, 1, 1, 1}}) {
    const AliasTable table(weights);
    CounterRng random(9, weights.size());
    double sum = 0;
    for (const double w : weights) sum += w;
    std::vector<double> counts(weights.size(), 0.0);
    constexpr double n = 200000;
    for (int t = 0; t < static_cast<int>(n); ++t) ++counts[static_cast<std::size_t>(table.draw(random))];
    for (std::size_t k = 0; k < weights.size(); ++k) {
      const double p = weights[k] / sum;
      EXPECT_NEAR(counts[k], n * p, 5 * std::sqrt(n * p * (1 - p)) + 1e-9) << "index " << k << " of " << weights.size();
      if (weights[k] == 0) {
        EXPECT_EQ(counts[k], 0);
      }
    }
  }
}

TEST(AliasTable, WithNoWeightAtAllDrawsAnything) {
  const AliasTable table(std::vector<double>{0, 0, 0});
  CounterRng random(1, 1);
  std::vector<int> seen(3, 0);
  for (int t = 0; t < 100; ++t) ++seen[static_cast<std::size_t>(table.draw(random))];
  for (const int count : seen) EXPECT_GT(count, 0);
}

TEST(AliasTable, RefusesWhatIsNoWeight) {
  EXPECT_THROW(AliasTable(std::vector<double>{}), OptionError);
  EXPECT_THROW(AliasTable(std::vector<double>{1, -1}), OptionError);
  EXPECT_THROW(AliasTable(std::vector<double>{1, NAN}), OptionError);
}

}  // namespace
}  // namespace heed::test
