// Values made during the call, over every method that has pairs.
#include <string>

#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/values.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/importance.hpp"
#include "heed/trees/fit_tree.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::composition {
namespace {

constexpr Index n_q = 71, n_k = 113, d = 8, d_in = 40, d_v = 5;

// Keys [0, half) and every key: a union whose parts overlap.
struct FirstHalf {
  Index n_queries, n_keys;

  Index n_groups() const { return 1; }
  TokenSet queries(Index) const { return {0, n_queries}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, n_keys / 2}; }
};

// Calls check(name, method, options) for every method that weighs single keys.
template <class Check>
void with_methods(const Check& check) {
  const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v, .seed = 3});
  const DecisionTree<double> tree = fit_tree(in.k, in.q, {.height = 3});
  AttentionOptions causal;
  causal.mask.causal = Causal::bottom_right;
  AttentionOptions padded;
  padded.mask.n_real_keys = n_k - 20;
  check("exact", ExactAttention{}, padded);
  check("window", WindowAttention(9, 4), padded);
  check("bigbird", BigBirdAttention({.block = 16}), causal);
  check("tree", TfAttention<double>(tree), padded);
  check("tree, causal", TfAttention<double>(tree), causal);
  check("tree with window and sinks", TfAttention<double>(tree, {.window_left = 7, .n_sinks = 2}), causal);
  check("one leaf", TfAttention<double>(fit_tree(in.k, in.q, {.height = 0})), causal);
  check("tree, means of its nodes",
        TcAttention<double>(tree, Vector<double>::Constant(4, 0.5).eval(), {.by_query = true}), causal);
  check("union", PatternAttention{[](Index q, Index k) {
          return PatternUnion{FirstHalf{q, k}, DensePattern{q, k}};
        }},
        causal);
}

TEST(Composition, ImportanceIsThatOfTheWeightsOfTheMethod) {
  const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v, .seed = 3});
  const Matrix<double> identity = Matrix<double>::Identity(n_k, n_k);
  with_methods([&](const std::string& name, const auto& method, const AttentionOptions& options) {
    SCOPED_TRACE(name);
    const Matrix<double> weights = attend(in.q, in.k, identity, options, method).out;  // A itself
    const auto importance = key_importance(in.q, in.k, options, method);
    for (Index j = 0; j < n_k; ++j) {
      ASSERT_NEAR(importance.largest(j), weights.col(j).maxCoeff(), 1e-12) << "key " << j;
      ASSERT_NEAR(importance.norm(j), weights.col(j).norm(), 1e-12) << "key " << j;
    }
    EXPECT_GT(importance.norm.sum(), 1.0);
  });
}

TEST(Composition, ProjectedAndFullySampledValuesEqualStoredOnes) {
  const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v, .seed = 3});
  const Matrix<double> x = random_matrix<double>(n_k, d_in, 4), w_v = random_matrix<double>(d_in, d_v, 5);
  const Matrix<double> v = x * w_v;
  with_methods([&](const std::string& name, const auto& method, const AttentionOptions& options) {
    SCOPED_TRACE(name);
    const auto want = attend(in.q, in.k, v, options, method);
    const ProjectedValues<double> projected(x, w_v);
    // Every token a query sees is multiplied exactly.
    const MonteCarloValues<double> sampled(x, w_v, {.alpha = 1e-6, .path = ValuePath::sampled});
    EXPECT_LE((attend(in.q, in.k, projected, options, method).out - want.out).cwiseAbs().maxCoeff(), 1e-12);
    const auto got = attend(in.q, in.k, sampled, options, method);
    EXPECT_LE((got.out - want.out).cwiseAbs().maxCoeff(), 1e-12);
    ASSERT_EQ(got.lse.size(), want.lse.size());
    if (want.lse.size() > 0) {
      EXPECT_LE((got.lse - want.lse).cwiseAbs().maxCoeff(), 1e-12);
    }
  });
}

TEST(Composition, CentroidsHaveNoImportanceOfSingleKeys) {
  const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v, .seed = 3});
  const TfAttention<double> capped(fit_tree(in.k, in.q, {.height = 2}), {.leaf_cap = 4});
  EXPECT_THROW(key_importance(in.q, in.k, {}, capped), OptionError);
  const Matrix<double> x = random_matrix<double>(n_k, d_in, 4), w_v = random_matrix<double>(d_in, d_v, 5);
  EXPECT_THROW(attend(in.q, in.k, MonteCarloValues<double>(x, w_v), {}, capped), OptionError);
  EXPECT_NO_THROW(attend(in.q, in.k, MonteCarloValues<double>(x, w_v, {.budget = Budget::constant}), {}, capped));
}

}  // namespace
}  // namespace heed::test::composition
