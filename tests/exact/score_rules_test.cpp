// Rule 8: scores of any finite size work; NaN in a kept row stays in the rows that see it.
// Also compiled with -ffast-math.
#include <algorithm>
#include <cmath>
#include <limits>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

/// Keys whose scores lie apart by 1/40 of the largest: from some size on the softmax is that key.
template <class S>
void expect_the_largest_score_wins(double scale) {
  for (const Index n_q : {1, 40}) {
    const Matrix<S> q = Matrix<S>::Constant(n_q, 1, S(1));
    Matrix<S> k(40, 1);
    for (Index j = 0; j < 40; ++j) k(j, 0) = static_cast<S>(static_cast<double>((j * 7) % 40 - 20) / 16.0);
    const Matrix<S> v = random_matrix<S>(40, 3, 1);
    const Index winner = scale > 0 ? 17 : 0;  // (17 * 7) % 40 = 39, and 0
    const auto engine = attend(q, k, v, {.scale = scale});
    const auto oracle = reference_attention(q, k, v, {.scale = scale});
    const double lse = scale * static_cast<double>(k(winner, 0));
    Index wrong = 0;
    const auto off = [](double got, double want, double tolerance) {
      return !heed::detail::is_finite(got) || std::abs(got - want) > tolerance * std::abs(want);
    };
    constexpr double epsilon = std::numeric_limits<S>::epsilon();
    for (Index i = 0; i < n_q; ++i) {
      for (const auto* result : {&engine, &oracle}) {
        wrong += off(static_cast<double>(result->lse(i)), lse, 8.0 * epsilon);
        for (Index c = 0; c < 3; ++c) {
          wrong += off(static_cast<double>(result->out(i, c)), static_cast<double>(v(winner, c)), 4.0 * epsilon);
        }
      }
    }
    EXPECT_EQ(wrong, 0) << "numbers with scale " << scale << " and " << n_q << " queries";
  }
}

TEST(RuleEight, ScoresOfAnySizeWork) {
  for (const double scale : {1e4, 1e6, 1e9, 1e15, 1e30, 1e37}) {
    expect_the_largest_score_wins<float>(scale);
    expect_the_largest_score_wins<float>(-scale);
    expect_the_largest_score_wins<double>(scale);
  }
  for (const double scale : {1e100, 1e300}) {
    expect_the_largest_score_wins<double>(scale);
    expect_the_largest_score_wins<double>(-scale);
  }
}

TEST(RuleEight, ARowOfVeryNegativeScoresIsNotEmpty) {
  const auto in = random_inputs<float>({.n_q = 33, .n_k = 70, .d = 4, .d_v = 3});
  const Matrix<float> bias = Matrix<float>::Constant(33, 70, -1e30f);
  for (const Index n_q : {1, 33}) {
    // The bias swallows the scores: all weights are equal.
    const Matrix<float> own = bias.topRows(n_q);
    const auto result = attend(in.q.topRows(n_q), in.k, in.v, {.mask = {.bias = own}});
    const Eigen::RowVectorXf mean = in.v.colwise().mean();
    for (Index i = 0; i < n_q; ++i) {
      EXPECT_NEAR(result.lse(i) / -1e30f, 1.0f, 1e-6f);
      for (Index c = 0; c < 3; ++c) EXPECT_NEAR(result.out(i, c), mean(c), 1e-6f);
    }
  }
}

TEST(RuleEight, ScoresThatAreMaskedMayBeTheLargest) {
  auto in = random_inputs<float>({.n_q = 33, .n_k = 70, .d = 4, .d_v = 3});
  for (const Index j : {0, 31, 69}) in.k.row(j) *= 1e18f;
  Matrix<bool> allowed = Matrix<bool>::Constant(33, 70, true);
  for (const Index j : {0, 31, 69}) allowed.col(j).setConstant(false);
  const auto exact = in.cast<double>();
  const auto want = reference_attention(exact.q, exact.k, exact.v, {.mask = {.allowed = allowed}});
  const auto got = attend(in.q, in.k, in.v, {.mask = {.allowed = allowed}});
  EXPECT_MATRIX_NEAR(got.out, want.out, 4e-6);
  EXPECT_MATRIX_NEAR(got.lse, want.lse, 4e-6);
}

TEST(RuleEight, NanInAKeptKeyReachesTheRowsThatSeeItAndNoOther) {
  for (const Index n_q : {1, 5, 70}) {
    const auto clean_in = random_inputs<float>({.n_q = n_q, .n_k = 90, .d = 4, .d_v = 3});
    const AttentionOptions options{.mask = {.causal = Causal::top_left}};
    const auto clean = attend(clean_in.q, clean_in.k, clean_in.v, options);
    for (const Index j : {0, 3, 40, 69}) {
      auto in = clean_in;
      fill(in.k.block(j, 2, 1, 1), nan_of<float>());
      const auto got = attend(in.q, in.k, in.v, options);
      const auto oracle = reference_attention(in.q, in.k, in.v, options);
      for (Index i = 0; i < n_q; ++i) {
        EXPECT_EQ(is_nan(got.lse(i)), i >= j) << "query " << i << ", key " << j << ", " << n_q << " queries";
        EXPECT_EQ(is_nan(oracle.lse(i)), i >= j);
        for (Index c = 0; c < 3; ++c) {
          EXPECT_EQ(is_nan(got.out(i, c)), i >= j) << "query " << i << ", key " << j << ", " << n_q << " queries";
          EXPECT_EQ(is_nan(oracle.out(i, c)), i >= j);
          if (i < j) {
            EXPECT_TRUE(same_bits(got.out(i, c), clean.out(i, c)));
          }
        }
      }
    }
  }
}

TEST(RuleEight, NanInAValueReachesItsColumnOfTheRowsThatSeeIt) {
  for (const Index n_q : {1, 5, 70}) {
    auto in = random_inputs<float>({.n_q = n_q, .n_k = 90, .d = 4, .d_v = 3});
    fill(in.v.block(3, 1, 1, 1), nan_of<float>());
    const auto got = attend(in.q, in.k, in.v, {.mask = {.causal = Causal::top_left}});
    for (Index i = 0; i < n_q; ++i) {
      EXPECT_FALSE(is_nan(got.lse(i)));
      for (Index c = 0; c < 3; ++c)
        EXPECT_EQ(is_nan(got.out(i, c)), i >= 3 && c == 1) << "query " << i << ", " << n_q << " queries";
    }
  }
}

}  // namespace
}  // namespace heed::test
