// Monte-Carlo values by their statistics: means, variances, slopes and bounds, over many seeds.
#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/sampling/error_bounds.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::monte_carlo_statistics {
namespace {

constexpr Index n_tokens = 37, d_in = 48, d_v = 20;

/// Rows of x have tails and a common part, as layer inputs do.
struct Layer {
  Matrix<double> q = random_matrix<double>(n_tokens, 8, 1), k = random_matrix<double>(n_tokens, 8, 2);
  Matrix<double> x = random_matrix<double>(n_tokens, d_in, 3), w = random_matrix<double>(d_in, d_v, 4);
  Layer() {
    x = x.array().cube() + 0.5;
    for (Index i = 0; i < d_in; ++i) w.row(i) *= 0.2 + 0.05 * static_cast<double>(i);
  }
  Matrix<double> exact() const { return x * w; }
  /// Value rows of one seed.
  Matrix<double> rows(const MonteCarloOptions& options) const {
    Matrix<double> rows(n_tokens, d_v);
    MonteCarloValues<double>(x, w, options).value_rows_into(rows, q, k, {}, ExactAttention{}, {.threads = 1});
    return rows;
  }
};

MonteCarloOptions of(Estimator estimator, Index samples, bool centred, std::uint64_t seed) {
  return {.seed = seed,
          .estimator = estimator,
          .budget = Budget::constant,
          .fraction = static_cast<double>(samples) / static_cast<double>(d_in),
          .centred = centred,
          .rounding = Rounding::published,  // exactly `samples`
          .path = ValuePath::sampled};
}

class Estimators : public testing::TestWithParam<std::tuple<Estimator, bool>> {};

TEST_P(Estimators, AreUnbiasedAndTheirVarianceIsTheFormula) {
  const auto [estimator, centred] = GetParam();
  const Layer layer;
  const Matrix<double> want = layer.exact();
  // The mean row's share of the budget is one row of n.
  const Index asked = 12, n_seeds = 4000;
  const MonteCarloValues<double> one(layer.x, layer.w, of(estimator, asked, centred, 1));
  const auto plan = one.plan(layer.q, layer.k);
  const Index samples = plan.counts(0, 0);
  EXPECT_GE(samples, asked - 2);
  Matrix<double> sum = Matrix<double>::Zero(n_tokens, d_v), square = sum;
  Vector<double> error = Vector<double>::Zero(n_tokens), error_square = error;
  for (Index seed = 0; seed < n_seeds; ++seed) {
    const Matrix<double> off = layer.rows(of(estimator, asked, centred, static_cast<std::uint64_t>(seed))) - want;
    sum += off;
    square += off.cwiseAbs2();
    error += off.rowwise().squaredNorm();
    error_square += off.rowwise().squaredNorm().cwiseAbs2();
  }
  const auto n = static_cast<double>(n_seeds);
  const Matrix<double> mean_row = centred ? Matrix<double>(layer.x.colwise().mean()) : Matrix<double>::Zero(1, d_in);
  for (Index j = 0; j < n_tokens; ++j) {
    for (Index c = 0; c < d_v; ++c) {
      const double deviation = std::sqrt(square(j, c) / n);
      EXPECT_LE(std::abs(sum(j, c) / n), 5 * deviation / std::sqrt(n) + 1e-12) << "token " << j << ", column " << c;
    }
    const Matrix<double> sampled = layer.x.row(j) - mean_row;
    const double formula = sampling_variance(estimator, sampled, layer.w, samples), mean = error(j) / n;
    const double deviation = std::sqrt(std::max(0.0, error_square(j) / n - mean * mean));
    EXPECT_LE(std::abs(mean - formula), 5 * deviation / std::sqrt(n) + 1e-9 * formula) << "token " << j;
    EXPECT_GT(formula, 0.0);
  }
}

INSTANTIATE_TEST_SUITE_P(All, Estimators,
                         testing::Combine(testing::Values(Estimator::with_replacement, Estimator::product_weighted,
                                                          Estimator::without_replacement),
                                          testing::Bool()));

double rms_error(const Layer& layer, Estimator estimator, Index samples, Index n_seeds) {
  const Matrix<double> want = layer.exact();
  double sum = 0;
  for (Index seed = 0; seed < n_seeds; ++seed)
    sum += (layer.rows(of(estimator, samples, false, static_cast<std::uint64_t>(100 + seed))) - want).squaredNorm();
  return std::sqrt(sum / static_cast<double>(n_seeds));
}

TEST(MonteCarloError, FallsWithTheSquareRootOfTheSamples) {
  const Layer layer;
  for (const auto estimator : {Estimator::with_replacement, Estimator::product_weighted}) {
    const double few = rms_error(layer, estimator, 2, 300), many = rms_error(layer, estimator, 32, 300);
    EXPECT_NEAR(std::log2(many / few) / 4, -0.5, 0.03);
  }
}

TEST(MonteCarloError, OrdersTheEstimatorsAsPublishedForHeavyTailedRows) {
  const Layer layer;
  const double draws = rms_error(layer, Estimator::with_replacement, 12, 50),
               product = rms_error(layer, Estimator::product_weighted, 12, 50),
               without = rms_error(layer, Estimator::without_replacement, 12, 50),
               largest = rms_error(layer, Estimator::largest, 12, 1);
  EXPECT_LT(product, draws);
  EXPECT_LT(without, product);
  EXPECT_LT(largest, without);
}

TEST(MonteCarloBounds, AreAlphaTimesTheMeanRowTimesTheNormOfTheWeights) {
  EXPECT_DOUBLE_EQ(published_bound(0.4, 2.5, 3.0), 3.0);
  EXPECT_DOUBLE_EQ(published_bound(0.4, 2.5, 3.0, Rounding::published), 3.0 * std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(published_bound_within(0.25, 0.4, 2.5, 3.0), 12.0);
  const std::vector<double> importance{0.1, 0.01, 0.02, 0.5}, norms{3, 5, 7, 11};
  EXPECT_DOUBLE_EQ(skip_bound(importance, norms, 2.0, 0.05), 2.0 * (0.01 * 5 + 0.02 * 7));
  EXPECT_DOUBLE_EQ(skip_bound(importance, norms, 2.0, 0.02), 2.0 * (0.01 * 5));  // a token of just that size is kept
}

TEST(MonteCarloBounds, HoldInTheMeanAndWithTheirProbability) {
  const Layer layer;
  const auto want = attend(layer.q, layer.k, layer.exact()).out;
  const double alpha = 1.5, beta = layer.x.rowwise().norm().mean(), w_norm = layer.w.norm(), delta = 0.2;
  for (const Rounding rounding : {Rounding::up, Rounding::published}) {
    const double bound = published_bound(alpha, beta, w_norm, rounding);
    const double within = published_bound_within(delta, alpha, beta, w_norm, rounding);
    EXPECT_DOUBLE_EQ(within, bound / delta);
    constexpr Index n_seeds = 400;
    Vector<double> mean = Vector<double>::Zero(n_tokens);
    Index exceeded = 0, sampled = 0;
    for (Index seed = 0; seed < n_seeds; ++seed) {
      const MonteCarloValues<double> values(
          layer.x, layer.w,
          {.alpha = alpha, .seed = static_cast<std::uint64_t>(seed), .rounding = rounding, .path = ValuePath::sampled});
      FlopCounter flops;
      const auto got = attend(layer.q, layer.k, values, {}, ExactAttention{}, {.flops = &flops}).out;
      sampled += flops.sampled_rows() > 0 ? 1 : 0;
      const Vector<double> error = (got - want).rowwise().norm();
      mean += error / static_cast<double>(n_seeds);
      for (Index i = 0; i < n_tokens; ++i) exceeded += error(i) > within ? 1 : 0;
    }
    EXPECT_EQ(sampled, n_seeds);
    EXPECT_LE(mean.maxCoeff(), bound);
    EXPECT_GT(mean.maxCoeff(), 0.02 * bound) << "the bound is not idle";
    EXPECT_LE(static_cast<double>(exceeded), delta * static_cast<double>(n_seeds * n_tokens));
  }
}

TEST(MonteCarloBounds, OfSkippedTokensHoldForEveryQuery) {
  const Layer layer;
  const auto want = attend(layer.q, layer.k, layer.exact()).out;
  const MonteCarloOptions options{.alpha = 1e-3, .skip_below = 0.06, .path = ValuePath::sampled};  // all others exact
  const MonteCarloValues<double> values(layer.x, layer.w, options);
  const auto plan = values.plan(layer.q, layer.k);
  std::vector<double> importance, norms;
  Index skipped = 0;
  for (Index j = 0; j < n_tokens; ++j) {
    importance.push_back(plan.importance(j, 0));
    norms.push_back(layer.x.row(j).norm());
    EXPECT_EQ(plan.counts(j, 0), importance.back() < 0.06 ? 0 : d_in);
    skipped += plan.counts(j, 0) == 0 ? 1 : 0;
  }
  EXPECT_GT(skipped, 0);
  EXPECT_LT(skipped, n_tokens);
  const double bound = skip_bound(importance, norms, layer.w.norm(), 0.06);
  const Vector<double> error = (attend(layer.q, layer.k, values).out - want).rowwise().norm();
  EXPECT_GT(error.maxCoeff(), 0.0);
  EXPECT_LE(error.maxCoeff(), bound);
}

TEST(MonteCarloBounds, VarianceIsZeroForAllProductsAndTheWholeRowForNone) {
  const Layer layer;
  const Matrix<double> row = layer.x.row(3);
  for (const auto estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement, Estimator::largest}) {
    EXPECT_EQ(sampling_variance(estimator, row, layer.w, d_in), 0.0);
    EXPECT_NEAR(sampling_variance(estimator, row, layer.w, 0), (row * layer.w).squaredNorm(), 1e-9);
  }
  EXPECT_THROW(sampling_variance(Estimator::largest, layer.x, layer.w, 3), ShapeError);
}

}  // namespace
}  // namespace heed::test::monte_carlo_statistics
