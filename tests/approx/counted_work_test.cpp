// Counted work by what is seen from outside: a functor's calls are the kept pairs, and value rows over the identity
// show their products.
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/core/pattern.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/option_kinds.hpp"

namespace heed::test::counted_work {
namespace {

/// Counts its calls pair by pair and changes nothing.
struct CountCalls {
  Matrix<Index>* calls;
  template <class T>
  T operator()(T s, Index i, Index j) const {
    ++(*calls)(i, j);
    return s;
  }
};

/// 1 for the pairs that the definitions keep.
Matrix<Index> kept_pairs(const AttentionOptions& options, Index n_q, Index n_k) {
  Matrix<Index> kept(n_q, n_k);
  for (Index i = 0; i < n_q; ++i) {
    for (Index j = 0; j < n_k; ++j)
      kept(i, j) = heed::detail::reference_pair(options.mask, i, j, n_q, n_k, 0).kept ? 1 : 0;
  }
  return kept;
}

template <class Check>
void for_every_option(Index n_q, Index n_k, const Check& check) {
  const OptionStore store(n_q, n_k);
  const auto kinds = option_kinds(store);
  for (std::size_t a = 0; a < kinds.size(); ++a) {
    SCOPED_TRACE(std::string(kinds[a].name));
    check(options_of(store, kinds[a]));
    for (std::size_t b = a + 1; b < kinds.size(); ++b) {
      if (!kinds[a].masks_pairs || !kinds[b].masks_pairs || !fit_together(kinds[a], kinds[b])) continue;
      SCOPED_TRACE(std::string(kinds[b].name));
      check(options_of(store, kinds[a], kinds[b]));
    }
  }
}

template <class S>
void expect_counts(Index n_q, Index n_k) {
  const Index d = 9, d_v = 7;
  const auto in = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v});
  for_every_option(n_q, n_k, [&](const AttentionOptions& options) {
    const Matrix<Index> kept = kept_pairs(options, n_q, n_k);
    const auto n_kept = static_cast<double>(kept.sum());
    Matrix<Index> calls = Matrix<Index>::Zero(n_q, n_k);
    FlopCounter flops;
    attend(in.q, in.k, in.v, options, ExactAttention{CountCalls{&calls}}, {.flops = &flops, .threads = 1});
    EXPECT_EQ(calls, kept);
    EXPECT_EQ(flops.products(Phase::scores), 2.0 * d * n_kept);
    EXPECT_EQ(flops.products(Phase::values), 2.0 * d_v * n_kept);
    EXPECT_EQ(flops.products(), 2.0 * (d + d_v) * n_kept);
    EXPECT_EQ(flops.exponentials(), n_kept);
    // The weights of keys take one pass for the denominators and one for the columns.
    calls.setZero();
    flops.reset();
    key_importance(in.q, in.k, options, ExactAttention{CountCalls{&calls}}, {.flops = &flops, .threads = 1});
    EXPECT_EQ(calls, (2 * kept).eval());
    EXPECT_EQ(flops.products(), 4.0 * d * n_kept);
    EXPECT_EQ(flops.exponentials(), 2.0 * n_kept);
  });
}

TEST(CountedPairs, AreThoseAFunctorIsCalledFor) {
  expect_counts<float>(65, 113);
  expect_counts<double>(40, 40);
  expect_counts<Eigen::bfloat16>(70, 33);
}

TEST(CountedPairs, AreThoseAFunctorIsCalledForWhereQueriesAreFew) {
  expect_counts<float>(1, 3000);
  expect_counts<Eigen::half>(1, 70);
  expect_counts<double>(3, 130);
}

/// Query i sees the keys with j % 3 == i % 3, by lists.
struct Classes {
  std::vector<std::vector<Index>> queries_of{3}, keys_of{3};
  Classes(Index n_q, Index n_k) {
    for (Index i = 0; i < n_q; ++i) queries_of[static_cast<std::size_t>(i % 3)].push_back(i);
    for (Index j = 0; j < n_k; ++j) keys_of[static_cast<std::size_t>(j % 3)].push_back(j);
  }
  static TokenSet set(const std::vector<Index>& list) { return {0, static_cast<Index>(list.size()), list.data()}; }
  Index n_groups() const { return 3; }
  TokenSet queries(Index g) const { return set(queries_of[static_cast<std::size_t>(g)]); }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index g, Index) const { return set(keys_of[static_cast<std::size_t>(g)]); }
};

/// The keys up to a distance, as a rule.
struct Band {
  static constexpr bool refines = true;
  Index n_q, n_k;
  Index n_groups() const { return 1; }
  TokenSet queries(Index) const { return {0, n_q}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, n_k}; }
  bool sees(Index i, Index j) const { return std::abs(i - j) < 6; }
};

TEST(CountedPairs, OfAUnionAreCountedOnce) {
  const Index n_q = 65, n_k = 113;
  const auto in = random_inputs<float>({.n_q = n_q, .n_k = n_k, .d = 9, .d_v = 7});
  const PatternUnion both{Classes(n_q, n_k), Band{n_q, n_k}};
  for_every_option(n_q, n_k, [&](const AttentionOptions& options) {
    Matrix<Index> kept = kept_pairs(options, n_q, n_k);
    for (Index i = 0; i < n_q; ++i) {
      for (Index j = 0; j < n_k; ++j) kept(i, j) *= i % 3 == j % 3 || std::abs(i - j) < 6 ? 1 : 0;
    }
    Matrix<Index> calls = Matrix<Index>::Zero(n_q, n_k);
    FlopCounter flops;
    attend_over(both, in.q, in.k, in.v, options, {.flops = &flops, .threads = 1}, CountCalls{&calls});
    EXPECT_EQ(calls, kept);
    EXPECT_EQ(flops.products(), 2.0 * (9 + 7) * static_cast<double>(kept.sum()));
    EXPECT_EQ(flops.exponentials(), static_cast<double>(kept.sum()));
  });
}

/// How many products row j of head kv was made of, from the row alone: over the identity entry k shows how often
/// product k was drawn.
Index products_of(const Matrix<double>& row, const Matrix<double>& x, Estimator estimator) {
  const Index d_in = x.cols();
  double least = std::numeric_limits<double>::max();  // of m_k / r, m_k draws of product k among r
  Index different = 0;
  for (Index k = 0; k < d_in; ++k) {
    if (row(0, k) == 0) continue;
    ++different;
    const double p = estimator == Estimator::with_replacement ? 1.0 / static_cast<double>(d_in)
                                                              : std::abs(x(0, k)) / x.cwiseAbs().sum();
    least = std::min(least, row(0, k) / x(0, k) * p);
  }
  const bool drawn = estimator == Estimator::with_replacement || estimator == Estimator::product_weighted;
  return drawn && different > 0 ? static_cast<Index>(std::lround(1 / least)) : different;
}

// Of products of one size the first are taken.
TEST(CountedProducts, OfEqualSizesAreThoseOfTheLowerPlaces) {
  const Index n_k = 70, d_in = 40;
  const auto q = random_matrix<double>(5, 8, 1), k = random_matrix<double>(n_k, 8, 2);
  Matrix<double> x = Matrix<double>::Constant(n_k, d_in, 0.5);
  for (Index j = 0; j < n_k; ++j) x(j, (7 * j) % d_in) = -3;  // one is larger
  const Matrix<double> w = Matrix<double>::Identity(d_in, d_in);
  const MonteCarloValues<double> values(
      x, w, {.estimator = Estimator::largest, .budget = Budget::constant, .fraction = 0.3, .path = ValuePath::sampled});
  Matrix<double> rows(n_k, d_in);
  values.value_rows_into(rows, q, k);
  for (Index j = 0; j < n_k; ++j) {
    Index left = 11;  // of 12 with the larger one
    for (Index c = 0; c < d_in; ++c) {
      const bool taken = c == (7 * j) % d_in || left-- > 0;
      EXPECT_EQ(rows(j, c), taken ? x(j, c) : 0.0) << "token " << j << ", product " << c;
    }
  }
}

TEST(CountedProducts, AreThoseThatValueRowsShow) {
  const Index n_q = 33, n_k = 70, d = 8, d_in = 40;
  const auto q = random_matrix<double>(n_q, 2 * d, 1), k = random_matrix<double>(n_k, 2 * d, 2);
  const auto x = random_matrix<double>(n_k, d_in, 3);
  const Matrix<double> w = Matrix<double>::Identity(d_in, d_in).replicate(1, 2);
  AttentionOptions padded;
  padded.mask.n_real_keys = 60;
  for (const Estimator estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement, Estimator::largest}) {
    for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
      SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)) + ", budget " +
                   std::to_string(static_cast<int>(budget)));
      const MonteCarloValues<double> values(x, w,
                                            {.alpha = 0.8,
                                             .seed = 7,
                                             .estimator = estimator,
                                             .budget = budget,
                                             .fraction = 0.2,
                                             .path = ValuePath::sampled});
      Matrix<double> rows(n_k, 2 * d_in);
      FlopCounter flops;
      values.value_rows_into(rows, q, k, padded, ExactAttention{}, {.flops = &flops}, {.n_heads = 2});
      double sampled = 0, sampled_rows = 0, exact_rows = 0;
      for (Index kv = 0; kv < 2; ++kv) {
        for (Index j = 0; j < 60; ++j) {
          const Matrix<double> row = rows.block(j, kv * d_in, 1, d_in), x_row = x.row(j);
          if (row == x_row) {
            ++exact_rows;
            continue;
          }
          const Index products = products_of(row, x_row, estimator);
          sampled += static_cast<double>(products);
          sampled_rows += products > 0 ? 1 : 0;
        }
      }
      EXPECT_GT(sampled_rows, 20);
      EXPECT_EQ(flops.products(Phase::sample), 2.0 * d_in * sampled);
      EXPECT_EQ(flops.products(Phase::project), 2.0 * d_in * d_in * exact_rows);
      EXPECT_EQ(flops.sampled_rows(), sampled_rows);
      EXPECT_EQ(flops.projected_rows(), exact_rows);
    }
  }
}

}  // namespace
}  // namespace heed::test::counted_work
