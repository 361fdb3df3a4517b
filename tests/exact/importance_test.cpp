#include "heed/exact/importance.hpp"

#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/pattern.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/strided.hpp"

namespace heed::test {
namespace {

/// Column maxima and norms of the oracle's weights: attention over the identity as values.
template <class S>
KeyImportance<double> wanted(const Inputs<S>& in, const AttentionOptions& options) {
  const Matrix<double> q = in.q.template cast<double>(), k = in.k.template cast<double>();
  const Matrix<double> identity = Matrix<double>::Identity(k.rows(), k.rows());
  const Matrix<double> weights = reference_attention(q, k, identity, options).out;
  KeyImportance<double> want{Vector<double>::Zero(k.rows()), Vector<double>::Zero(k.rows())};
  for (Index j = 0; j < k.rows(); ++j) {
    for (Index i = 0; i < q.rows(); ++i) want.largest(j) = std::max(want.largest(j), weights(i, j));
    want.norm(j) = weights.col(j).norm();
  }
  return want;
}

template <class T, class S>
void expect_importance(const KeyImportance<T>& got, const Inputs<S>& in, const AttentionOptions& options) {
  const KeyImportance<double> want = wanted(in, options);
  // A weight is exp(s - lse): its relative error is that of the scores, a few units of them.
  const double tolerance = std::is_same_v<T, double> ? 1e-12 : 1e-5;
  EXPECT_MATRIX_NEAR(got.largest, want.largest, tolerance);
  EXPECT_MATRIX_NEAR(got.norm, want.norm, tolerance * std::sqrt(static_cast<double>(in.q.rows())));
}

template <class S>
void expect_importance_under_every_option(const Sizes& sizes) {
  const auto in = random_inputs<S>(sizes);
  const OptionStore store(in.q.rows(), in.k.rows());
  const auto kinds = option_kinds(store);
  expect_importance(key_importance(in.q, in.k), in, {});
  for (std::size_t a = 0; a < kinds.size(); ++a) {
    SCOPED_TRACE(std::string(kinds[a].name));
    expect_importance(key_importance(in.q, in.k, options_of(store, kinds[a])), in, options_of(store, kinds[a]));
    for (std::size_t b = a + 1; b < kinds.size(); ++b) {
      if (!fit_together(kinds[a], kinds[b])) continue;
      const AttentionOptions options = options_of(store, kinds[a], kinds[b]);
      SCOPED_TRACE(std::string(kinds[b].name));
      expect_importance(key_importance(in.q, in.k, options), in, options);
    }
  }
}

TEST(KeyImportance, EqualsTheOraclesColumnsUnderEveryOption) {
  expect_importance_under_every_option<float>({.n_q = 63, .n_k = 113, .d = 9});
  expect_importance_under_every_option<double>({.n_q = 65, .n_k = 65, .d = 16});
  expect_importance_under_every_option<Eigen::half>({.n_q = 5, .n_k = 131, .d = 8});
  expect_importance_under_every_option<Eigen::bfloat16>({.n_q = 1, .n_k = 40, .d = 8});
}

TEST(KeyImportance, OfBfloat16EqualsTheOraclesColumnsUnderEveryOption) {
  expect_importance_under_every_option<Eigen::bfloat16>({.n_q = 63, .n_k = 113, .d = 9});
  expect_importance_under_every_option<Eigen::bfloat16>({.n_q = 65, .n_k = 65, .d = 16});
}

TEST(KeyImportance, CrossesChunksOfKeysAndPanelsOfQueries) {
  const auto in = random_inputs<float>({.n_q = 203, .n_k = 1201, .d = 24});
  expect_importance(key_importance(in.q, in.k), in, {});
  const AttentionOptions causal{.mask = {.causal = Causal::bottom_right, .window_left = 300}};
  expect_importance(key_importance(in.q, in.k, causal), in, causal);
}

TEST(KeyImportance, SeesTheScoreFunctor) {
  const auto in = random_inputs<double>({.n_q = 37, .n_k = 53, .d = 8});
  const auto tilt = [](double s, Index i, Index j) { return s - 0.1 * std::abs(static_cast<double>(i - j)); };
  AttentionOptions alibi;
  alibi.mask.alibi_slope = 0.1;
  expect_importance(key_importance(in.q, in.k, {}, ExactAttention{tilt}), in, alibi);
}

/// Leaves of scattered tokens.
struct Leaves {
  std::vector<std::vector<Index>> queries_of, keys_of;
  Index n_groups() const { return static_cast<Index>(queries_of.size()); }
  TokenSet queries(Index g) const { return set(queries_of[static_cast<std::size_t>(g)]); }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index g, Index) const { return set(keys_of[static_cast<std::size_t>(g)]); }
  static TokenSet set(const std::vector<Index>& list) { return {0, static_cast<Index>(list.size()), list.data()}; }
};

/// Blocks of `size` queries over their own keys and, apart, the first three.
struct Blocks {
  Index n = 0, size = 20;
  Index n_groups() const { return (n + size - 1) / size; }
  TokenSet queries(Index g) const { return {g * size, std::min(size, n - g * size)}; }
  Index n_segments(Index g) const { return g == 0 ? 1 : 2; }
  TokenSet keys(Index g, Index s) const { return g > 0 && s == 0 ? TokenSet{0, 3} : queries(g); }
};

template <class Pattern>
OptionStore::BoolMatrix pairs_of(const Pattern& pattern, Index n_q, Index n_k) {
  OptionStore::BoolMatrix pairs = OptionStore::BoolMatrix::Constant(n_q, n_k, false);
  for (Index g = 0; g < pattern.n_groups(); ++g) {
    for (Index s = 0; s < pattern.n_segments(g); ++s) {
      for (Index t = 0; t < pattern.queries(g).size; ++t) {
        for (Index u = 0; u < pattern.keys(g, s).size; ++u) pairs(pattern.queries(g)[t], pattern.keys(g, s)[u]) = true;
      }
    }
  }
  return pairs;
}

template <class Pattern>
void expect_importance_over(const Pattern& pattern, const Sizes& sizes) {
  const auto in = random_inputs<float>(sizes);
  const OptionStore::BoolMatrix pairs = pairs_of(pattern, in.q.rows(), in.k.rows());
  AttentionOptions causal, both;
  causal.mask.causal = both.mask.causal = Causal::bottom_right;
  both.mask.allowed = pairs;
  AttentionOptions only;
  only.mask.allowed = pairs;
  expect_importance(key_importance_over(pattern, in.q, in.k), in, only);
  FlopCounter flops;
  expect_importance(key_importance_over(pattern, in.q, in.k, causal, {.flops = &flops}), in, both);
  double kept = 0;
  for (Index i = 0; i < in.q.rows(); ++i)
    for (Index j = 0; j < in.k.rows(); ++j) kept += pairs(i, j) && j <= i + in.k.rows() - in.q.rows() ? 1 : 0;
  EXPECT_EQ(flops.products(Phase::route), 4.0 * kept * static_cast<double>(in.q.cols()));
  EXPECT_EQ(flops.products(), flops.products(Phase::route));
  EXPECT_EQ(flops.exponentials(), 2.0 * kept);
}

TEST(KeyImportance, OverAPatternEqualsTheBooleanMaskOfItsPairs) {
  expect_importance_over(Blocks{113}, {.n_q = 113, .n_k = 113, .d = 8});
  Leaves leaves{{{}, {}, {}}, {{}, {}, {}}};
  for (Index t = 0; t < 203; ++t) {
    if (t < 150) leaves.queries_of[static_cast<std::size_t>(t * 7 / 5 % 3)].push_back(t);
    leaves.keys_of[static_cast<std::size_t>(t * 11 / 7 % 3)].push_back(t);
  }
  expect_importance_over(leaves, {.n_q = 150, .n_k = 203, .d = 8});
}

TEST(KeyImportance, IsTheSameBitsForAnyThreadsAndWorkspace) {
  const auto in = random_inputs<float>({.n_q = 213, .n_k = 2333, .d = 24});
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
  const auto want = key_importance(in.q, in.k, options, ExactAttention{}, {.threads = 1});
  Workspace workspace;
  for (const Index threads : {1, 2, 3, 7}) {
    const auto got =
        key_importance(in.q, in.k, options, ExactAttention{}, {.workspace = &workspace, .threads = threads});
    EXPECT_SAME_BITS(got.largest, want.largest);
    EXPECT_SAME_BITS(got.norm, want.norm);
  }
}

TEST(KeyImportance, ReadsAnyStridesAndNothingElse) {
  const auto in = random_inputs<float>({.n_q = 37, .n_k = 53, .d = 11});
  const auto want = key_importance(in.q, in.k);
  for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
    const Strided<float> q(in.q, layout), k(in.k, layout);
    const auto got = key_importance(q.map(), k.map());
    EXPECT_SAME_BITS(got.largest, want.largest);
    EXPECT_SAME_BITS(got.norm, want.norm);
  }
}

TEST(KeyImportance, NanInAMaskedKeyOrInAQueryTouchesNoOtherKey) {
  auto in = random_inputs<float>({.n_q = 70, .n_k = 90, .d = 8});
  const AttentionOptions padded{.mask = {.n_real_keys = 80}};
  const auto want = key_importance(in.q, in.k, padded);
  fill(in.k.bottomRows(10), nan_of<float>());
  const auto got = key_importance(in.q, in.k, padded);
  EXPECT_SAME_BITS(got.largest, want.largest);
  EXPECT_SAME_BITS(got.norm, want.norm);
  EXPECT_EQ(got.largest(85), 0.0f);

  const auto without_first = key_importance(in.q.bottomRows(69).eval(), in.k, padded);
  fill(in.q.row(0), nan_of<float>());
  const auto with_nan = key_importance(in.q, in.k, padded);
  EXPECT_MATRIX_NEAR(with_nan.largest, without_first.largest, 1e-6);
  EXPECT_MATRIX_NEAR(with_nan.norm, without_first.norm, 1e-6);
}

TEST(KeyImportance, OfNothingIsZeroOrEmpty) {
  const auto in = random_inputs<float>({.n_q = 5, .n_k = 7, .d = 8});
  EXPECT_EQ(key_importance(in.q.topRows(0), in.k).largest.size(), 7);
  EXPECT_EQ(key_importance(in.q.topRows(0), in.k).norm.sum(), 0.0f);
  EXPECT_EQ(key_importance(in.q, in.k.topRows(0)).largest.size(), 0);
  EXPECT_THROW(key_importance(in.q, in.k.leftCols(7).eval()), ShapeError);
}

}  // namespace
}  // namespace heed::test
