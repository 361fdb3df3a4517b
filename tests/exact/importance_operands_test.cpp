// Importance looks at the weights of the forward pass: those of its lse, whatever operands are stored in.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/importance.hpp"
#include "support/cancelling.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::importance_operands {
namespace {

/// Each key is seen by one query, so that its importance is the weight that query gives it.
Matrix<bool> one_query_a_key(Index n_q, Index n_k) {
  Matrix<bool> allowed(n_q, n_k);
  for (Index i = 0; i < n_q; ++i) {
    for (Index j = 0; j < n_k; ++j) allowed(i, j) = j % n_q == i;
  }
  return allowed;
}

/// Of a weight 2^(s - lse) whose score is that of the forward pass to the last bit: the difference is rounded once, the
/// power is off by a few units, and so is the sum behind lse.
template <class S>
double tolerance_at(double lse) {
  return static_cast<double>(std::numeric_limits<Accumulator<S>>::epsilon()) * (16 + 4 * std::abs(lse));
}

template <class S>
void expect_sums_of_one(Index n_q, Index n_k) {
  SCOPED_TRACE(std::to_string(n_q) + " x " + std::to_string(n_k));
  const Cancelling<S> in(n_q, n_k);
  const Matrix<S> v = Matrix<S>::Constant(n_k, 1, S(1));
  const Matrix<bool> allowed = one_query_a_key(n_q, n_k);
  const AttentionOptions options{.scale = Cancelling<S>::scale, .mask = {.allowed = allowed}};
  const auto lse = attend(in.q, in.k, v, options).lse;
  const auto importance = key_importance(in.q, in.k, options);
  for (Index i = 0; i < n_q; ++i) {
    double sum = 0, plain = 0, most = -1e300;
    for (Index j = i; j < n_k; j += n_q) most = std::max(most, in.score(i, j));
    for (Index j = i; j < n_k; j += n_q) {
      sum += static_cast<double>(importance.largest(j));
      plain += std::exp(in.score(i, j) - most);
      EXPECT_NEAR(importance.norm(j), importance.largest(j), 1e-6 * static_cast<double>(importance.largest(j)));
    }
    EXPECT_NEAR(sum, 1.0, tolerance_at<S>(static_cast<double>(lse(i)))) << "query " << i;
    // Plain loops in double: what rounding does to such scores.
    EXPECT_NEAR(static_cast<double>(lse(i)), most + std::log(plain), 0.1) << "query " << i;
    for (Index j = i; j < n_k; j += n_q) {
      const double weight = std::exp(in.score(i, j) - most) / plain;
      EXPECT_NEAR(importance.largest(j), weight, 0.2 * weight) << "query " << i << ", key " << j;
    }
  }
}

template <class S>
void expect_sums_of_one_unmasked(Index n_q, Index n_k) {
  SCOPED_TRACE(std::to_string(n_q) + " equal queries x " + std::to_string(n_k));
  Cancelling<S> in(n_q, n_k);
  for (Index i = 1; i < n_q; ++i) in.q.row(i) = in.q.row(0);
  const Matrix<S> v = Matrix<S>::Constant(n_k, 1, S(1));
  const AttentionOptions options{.scale = Cancelling<S>::scale};
  const double lse = static_cast<double>(attend(in.q, in.k, v, options).lse(0));
  const auto importance = key_importance(in.q, in.k, options);
  EXPECT_NEAR(importance.largest.template cast<double>().sum(), 1.0, tolerance_at<S>(lse));
  const double root = std::sqrt(static_cast<double>(n_q));
  EXPECT_MATRIX_NEAR(importance.norm, (importance.largest * static_cast<Accumulator<S>>(root)).eval(), 1e-5 * root);
}

template <class S>
void expect_sums_of_one() {
  for (const Index n_q : {2, 7, 64, 65, 130}) {
    for (const Index n_k : {131, 700, 2100}) {
      expect_sums_of_one<S>(n_q, n_k);
      expect_sums_of_one_unmasked<S>(n_q, n_k);
    }
  }
}

TEST(KeyImportanceOperands, WeightsOfEveryQueryAddUpToOneWhateverItsScoresAreRoundedTo) {
  expect_sums_of_one<float>();
  expect_sums_of_one<double>();
  expect_sums_of_one<Eigen::half>();
}

TEST(KeyImportanceOperands, WeightsOfBfloat16QueriesAddUpToOneToo) { expect_sums_of_one<Eigen::bfloat16>(); }

}  // namespace
}  // namespace heed::test::importance_operands
