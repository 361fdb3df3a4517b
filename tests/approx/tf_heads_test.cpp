// TF-attention over heads whose masks, biases, slopes, sinks and keys differ: no head may stand in for another.
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/tf_formula.hpp"
#include "support/trees.hpp"

namespace heed::test::tf_heads {
namespace {

constexpr Index n_heads = 4, n_kv_heads = 2, n_q = 37, n_k = 61, d = 5, d_v = 3;
constexpr HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv_heads};

/// Masks that leave every head other keys, and other queries none.
struct Masks {
  OptionStore::BoolMatrix allowed{n_heads * n_q, n_k};
  Matrix<double> masking_bias = random_matrix<double>(n_heads * n_q, n_k, 4);
  Matrix<float> bias = random_matrix<float>(n_heads * n_q, n_k, 5);
  std::vector<double> slopes{0.1, 0.7, 0.0, 0.3};
  std::vector<float> sinks{-1.0f, 2.0f, 0.5f, 200.0f};

  Masks() {
    NumberStream numbers(6);
    for (Index h = 0; h < n_heads; ++h) {
      for (Index i = 0; i < n_q; ++i) {
        for (Index j = 0; j < n_k; ++j) {
          allowed(h * n_q + i, j) = numbers.uniform() < 0.3 && j % n_heads != h && i % 9 != h;
          if (numbers.uniform() < 0.6 || j % 5 == h || i % 7 == h)
            masking_bias(h * n_q + i, j) = minus_infinity_of<double>();
        }
      }
    }
  }
  std::vector<std::pair<std::string, AttentionOptions>> options() const {
    return {
        {"allowed", {.mask = {.allowed = allowed}}},
        {"masking bias", {.mask = {.bias = masking_bias}}},
        {"bias", {.mask = {.bias = bias}}},
        {"slopes", {.mask = {.alibi_slope = slopes}}},
        {"sinks", {.sinks = sinks}},
        {"allowed, bias and sinks", {.mask = {.allowed = allowed, .bias = bias}, .sinks = sinks}},
        {"allowed and masking bias", {.mask = {.allowed = allowed, .bias = masking_bias}, .softcap = 2.0}},
        {"padding and all", {.mask = {.n_real_keys = 50, .allowed = allowed, .bias = bias, .alibi_slope = slopes}}},
        {"window and all", {.mask = {.window_left = 20, .allowed = allowed, .bias = bias, .alibi_slope = slopes}}},
        {"causal and allowed", {.mask = {.causal = Causal::bottom_right, .allowed = allowed}}},
        {"causal and all", {.mask = {.causal = Causal::top_left, .bias = masking_bias, .alibi_slope = slopes}}},
    };
  }
};

DecisionTree<double> stored_tree() { return random_tree<double>(3, d, 2); }
DecisionTree<double> median_tree() {
  return random_tree<double>(3, d, 2, {.biases = TreeBiases::key_medians, .lift = random_lift<double>(3, d)});
}

/// q, k, v of one head.
Inputs<double> head_of(const Inputs<double>& packed, Index h) {
  const Index kv = h / (n_heads / n_kv_heads);
  return {packed.q.middleCols(h * d, d), packed.k.middleCols(kv * d, d), packed.v.middleCols(kv * d_v, d_v)};
}

const Inputs<double> packed{random_matrix<double>(n_q, n_heads* d, 1), random_matrix<double>(n_k, n_kv_heads* d, 2),
                            random_matrix<double>(n_k, n_kv_heads* d_v, 3)};

TEST(TfAttentionHeads, EachHasItsOwnMasksBiasesSlopesSinksAndMedians) {
  const Masks masks;
  for (const DecisionTree<double>& tree : {stored_tree(), median_tree()}) {
    for (const TfOptions& tf : {TfOptions{}, TfOptions{.window_left = 4, .n_sinks = 2}, TfOptions{.leaf_cap = 2},
                                TfOptions{.window_left = 9, .leaf_cap = 1}}) {
      for (const auto& [name, options] : masks.options()) {
        const bool medians = tree.bias_rule() == TreeBiases::key_medians;
        if (medians && options.mask.causal != Causal::none) continue;
        SCOPED_TRACE(name + (medians ? ", medians" : "") + (tf.leaf_cap ? ", capped" : "") +
                     (tf.window_left ? ", united" : ""));
        for (const Index threads : {1, 3}) {
          const auto got = multi_head_attend(packed.q, packed.k, packed.v, heads, options,
                                             TfAttention<double>(tree, tf), {.threads = threads});
          for (Index h = 0; h < n_heads; ++h) {
            SCOPED_TRACE("head " + std::to_string(h));
            const auto want = tf_formula(tree, tf, head_of(packed, h), options, h).result;
            EXPECT_MATRIX_NEAR(got.out.middleCols(h * d_v, d_v).eval(), want.out, 1e-13);
            EXPECT_MATRIX_NEAR(got.lse.col(h).eval(), want.lse, 1e-13);
          }
        }
      }
    }
  }
}

/// The largest weight any query of the heads that share a key gives it.
TEST(TfAttentionHeads, ImportanceIsOfTheirOwnPairs) {
  const Masks masks;
  const Matrix<double> x = random_matrix<double>(n_k, 8, 7), w_v = random_matrix<double>(8, n_kv_heads * d_v, 8);
  for (const DecisionTree<double>& tree : {stored_tree(), median_tree()}) {
    for (const TfOptions& tf : {TfOptions{}, TfOptions{.window_left = 4, .n_sinks = 2}}) {
      for (const auto& [name, options] : masks.options()) {
        if (tree.bias_rule() == TreeBiases::key_medians && options.mask.causal != Causal::none) continue;
        SCOPED_TRACE(name);
        const auto plan = MonteCarloValues<double>(x, w_v).plan(packed.q, packed.k, options,
                                                                TfAttention<double>(tree, tf), {}, heads);
        for (Index kv = 0; kv < n_kv_heads; ++kv) {
          Vector<double> want = Vector<double>::Zero(n_k);
          for (Index h = 2 * kv; h < 2 * kv + 2; ++h) {
            const TfAnswer of_head = tf_formula(tree, tf, head_of(packed, h), options, h);
            for (Index j = 0; j < n_k; ++j) want(j) = std::max(want(j), of_head.weights.col(j).maxCoeff());
          }
          EXPECT_MATRIX_NEAR(Vector<double>(plan.importance.col(kv)), want, 1e-13);
        }
      }
    }
  }
}

}  // namespace
}  // namespace heed::test::tf_heads
