// Packed sequences whose queries and keys are divided at different rows, for everything that routes tokens.
#include <algorithm>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/importance.hpp"
#include "heed/trees/leaf_pattern.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/tc_formula.hpp"
#include "support/tf_formula.hpp"
#include "support/trees.hpp"

namespace heed::test::tf_sequences {
namespace {

constexpr Index n_q = 33, n_k = 47, d = 5, d_v = 4;

struct Packing {
  std::string name;
  std::vector<Index> queries, keys;
};

/// Sequences without keys, without queries, without either, of one token, and one that is all.
const Packing packings[] = {
    {"mixed", {0, 5, 5, 20, 33}, {0, 0, 12, 30, 47}},
    {"two", {0, 20, 33}, {0, 3, 47}},
    {"one", {0, 33}, {0, 47}},
    {"more queries than keys", {0, 30, 33}, {0, 2, 47}},
    {"empty ends", {0, 0, 14, 33, 33}, {0, 9, 9, 40, 47}},
    {"single tokens", {0, 1, 2, 3, 32, 33}, {0, 1, 1, 2, 46, 47}},
};

/// Calls check(options, name) for every packing under every causal mask and padding.
template <class Check>
void for_each_packing(const Check& check) {
  for (const Packing& packing : packings) {
    for (const Causal causal : {Causal::none, Causal::top_left, Causal::bottom_right}) {
      for (const Index n_real : {Mask::unlimited, Index(40), Index(11), Index(0)}) {
        SCOPED_TRACE(packing.name + ", causal " + std::to_string(static_cast<int>(causal)) + ", real keys " +
                     std::to_string(std::min(n_k, n_real)));
        check(AttentionOptions{.mask = {.causal = causal,
                                        .n_real_keys = n_real,
                                        .sequence_offsets = packing.queries,
                                        .key_sequence_offsets = packing.keys}});
      }
    }
  }
}

const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v});
DecisionTree<double> some_tree(bool lifted) {
  return random_tree<double>(3, d, 4,
                             lifted ? TreeOptions<double>{.lift = random_lift<double>(3, d)} : TreeOptions<double>{});
}
const TfOptions tf_kinds[] = {{},
                              {.window_left = 3},
                              {.n_sinks = 2},
                              {.window_left = 2, .n_sinks = 1},
                              {.leaf_cap = 1},
                              {.window_left = 3, .n_sinks = 2, .leaf_cap = 2}};

TEST(PackedSequences, TfAttentionSeesItsOwn) {
  for (const bool lifted : {false, true}) {
    const DecisionTree<double> tree = some_tree(lifted);
    for (const TfOptions& tf : tf_kinds) {
      for_each_packing([&](AttentionOptions options) {
        for (const bool more : {false, true}) {  // slopes and windows measure from the diagonal of the sequence
          if (more) options.mask.alibi_slope = 0.2;
          if (more) options.mask.window_left = 6;
          const TfAnswer want = tf_formula(tree, tf, in, options);
          FlopCounter flops;
          const auto got = attend(in.q, in.k, in.v, options, TfAttention<double>(tree, tf), {.flops = &flops});
          EXPECT_MATRIX_NEAR(got.out, want.result.out, 1e-13);
          EXPECT_MATRIX_NEAR(got.lse, want.result.lse, 1e-13);
          EXPECT_EQ(flops.exponentials(), want.pairs + want.centroids);
          if (tf.leaf_cap) continue;
          const auto importance = key_importance(in.q, in.k, options, TfAttention<double>(tree, tf));
          for (Index j = 0; j < n_k; ++j) {
            EXPECT_NEAR(importance.largest(j), want.weights.col(j).maxCoeff(), 1e-13);
            EXPECT_NEAR(importance.norm(j), want.weights.col(j).norm(), 1e-13);
          }
        }
      });
    }
  }
}

TEST(PackedSequences, TcAttentionSeesItsOwn) {
  const Vector<double> logits{{0.5, -1.0, 2.0, 0.0}};
  auto identity = in;  // A itself is the formula over the identity as values
  identity.v = Matrix<double>::Identity(n_k, n_k);
  for (const bool lifted : {false, true}) {
    for (const bool by_query : {false, true}) {
      const TcAttention<double> tc(some_tree(lifted), logits, {.by_query = by_query});
      for_each_packing([&](const AttentionOptions& options) {
        const PlainTc want(tc, in, options);
        FlopCounter flops;
        for (const Index threads : {1, 3}) {
          flops.reset();
          const auto got = attend(in.q, in.k, in.v, options, tc, {.flops = &flops, .threads = threads});
          EXPECT_MATRIX_NEAR(got.out, want.out(), 2e-14);
          EXPECT_EQ(flops.products(), want.flops().products());
        }
        const Matrix<double> weights = PlainTc(tc, identity, options).out();
        const auto importance = key_importance(in.q, in.k, options, tc);
        for (Index j = 0; j < n_k; ++j) {
          EXPECT_NEAR(importance.largest(j), weights.col(j).maxCoeff(), 1e-14);
          EXPECT_NEAR(importance.norm(j), weights.col(j).norm(), 1e-14);
        }
      });
    }
  }
}

TEST(PackedSequences, ALeafPatternHoldsThePairsOfItsDefinition) {
  const DecisionTree<double> tree = some_tree(true);
  for_each_packing([&](const AttentionOptions& options) {
    const PairMatrix want = pairs_of_tree(tree, in, options);
    const LeafPattern pattern(tree, in.q, in.k, options.mask);
    PairMatrix got = PairMatrix::Constant(n_q, n_k, false);
    for (Index g = 0; g < pattern.n_groups(); ++g) {
      const TokenSet queries = pattern.queries(g);
      for (Index s = 0; s < pattern.n_segments(g); ++s) {
        const TokenSet keys = pattern.keys(g, s);
        for (Index t = 0; t < queries.size; ++t) {
          for (Index u = 0; u < keys.size; ++u) got(queries[t], keys[u]) = true;
        }
      }
    }
    for (Index i = 0; i < n_q; ++i) {
      for (Index j = 0; j < n_k; ++j) {
        const bool kept = heed::detail::reference_pair(options.mask, i, j, n_q, n_k, 0).kept;
        EXPECT_EQ(got(i, j) && kept, want(i, j) && kept) << i << ", " << j;
        EXPECT_EQ(pattern.sees(i, j), got(i, j)) << i << ", " << j;
      }
    }
  });
}

/// What Monte-Carlo values would sample: by the weights of the method, for keys that it shows to some query.
TEST(PackedSequences, PlansOfSamplesFollowTheMethod) {
  const Matrix<double> x = random_matrix<double>(n_k, 8, 7), w_v = random_matrix<double>(8, d_v, 8);
  const MonteCarloValues<double> sampled(x, w_v);
  const DecisionTree<double> tree = some_tree(false);
  const TcAttention<double> tc(tree, Vector<double>{{0.5, -1.0, 2.0, 0.0}});
  auto identity = in;
  identity.v = Matrix<double>::Identity(n_k, n_k);
  for_each_packing([&](const AttentionOptions& options) {
    for (const TfOptions& tf : {tf_kinds[0], tf_kinds[3]}) {
      const auto plan = sampled.plan(in.q, in.k, options, TfAttention<double>(tree, tf));
      const Matrix<double> weights = tf_formula(tree, tf, in, options).weights;
      for (Index j = 0; j < n_k; ++j) EXPECT_NEAR(plan.importance(j, 0), weights.col(j).maxCoeff(), 1e-13);
    }
    const auto plan = sampled.plan(in.q, in.k, options, tc);
    const Matrix<double> weights = PlainTc(tc, identity, options).out();
    for (Index j = 0; j < n_k; ++j) EXPECT_NEAR(plan.importance(j, 0), weights.col(j).maxCoeff(), 1e-14);
  });
}

}  // namespace
}  // namespace heed::test::tf_sequences
