// Packed sequences whose keys lie elsewhere than their queries: whatever is planned for one call is what each sequence
// alone would plan.
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/core/pattern.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/importance.hpp"
#include "heed/trees/leaf_pattern.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/trees.hpp"

namespace heed::test::packed_sequences {
namespace {

constexpr Index n_q = 97, n_k = 150, d = 8, d_in = 40, d_v = 6;

/// Five sequences: more keys than queries, no queries, more queries than keys, no keys, one of each.
const std::vector<Index> query_offsets{0, 20, 20, 66, 96, 97};
const std::vector<Index> key_offsets{0, 61, 90, 149, 149, 150};

struct Packed {
  Inputs<double> in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v, .seed = 3});
  Matrix<double> x = random_matrix<double>(n_k, d_in, 4), w = random_matrix<double>(d_in, d_v, 5);
};

/// Queries and keys of one sequence.
struct Part {
  Index q_first, n_queries, k_first, n_keys;
};
std::vector<Part> parts() {
  std::vector<Part> all;
  for (std::size_t b = 0; b + 1 < query_offsets.size(); ++b)
    all.push_back({query_offsets[b], query_offsets[b + 1] - query_offsets[b], key_offsets[b],
                   key_offsets[b + 1] - key_offsets[b]});
  return all;
}

AttentionOptions packed_options(Causal causal) {
  AttentionOptions options;
  options.mask.causal = causal;
  options.mask.alibi_slope = 0.05;
  options.mask.sequence_offsets = query_offsets;
  options.mask.key_sequence_offsets = key_offsets;
  return options;
}
AttentionOptions alone_options(Causal causal) {
  AttentionOptions options;
  options.mask.causal = causal;
  options.mask.alibi_slope = 0.05;
  return options;
}

/// Calls check(name, method, causal) for every method with a plan of its own.
template <class Check>
void with_methods(const Check& check) {
  const DecisionTree<double> tree = random_tree<double>(3, d);
  for (const Causal causal : {Causal::none, Causal::top_left, Causal::bottom_right}) {
    check("exact", ExactAttention{}, causal);
    check("window", WindowAttention(9, 4), causal);
    check("bigbird", BigBirdAttention({.block = 8, .n_near = 1, .n_global = 1, .n_random = 2, .seed = 5}), causal);
    check("bigbird, draws only", BigBirdAttention({.block = 4, .n_near = 0, .n_global = 0, .n_random = 2}), causal);
    check("tree", TfAttention<double>(tree), causal);
    check("tree with a window", TfAttention<double>(tree, {.window_left = 5}), causal);
    check("tree with sinks", TfAttention<double>(tree, {.n_sinks = 3}), causal);
    check("tree with both", TfAttention<double>(tree, {.window_left = 5, .n_sinks = 3}), causal);
    check("one leaf with both", TfAttention<double>(DecisionTree<double>{}, {.window_left = 5, .n_sinks = 3}), causal);
  }
}

TEST(PackedSequences, EverySequenceGetsTheAnswerItGetsAlone) {
  const Packed packed;
  with_methods([&](const std::string& name, const auto& method, Causal causal) {
    SCOPED_TRACE(name + ", causal " + std::to_string(static_cast<int>(causal)));
    const auto& in = packed.in;
    const auto all = attend(in.q, in.k, in.v, packed_options(causal), method);
    for (const Part& part : parts()) {
      const auto alone =
          attend(in.q.middleRows(part.q_first, part.n_queries), in.k.middleRows(part.k_first, part.n_keys),
                 in.v.middleRows(part.k_first, part.n_keys), alone_options(causal), method);
      EXPECT_MATRIX_NEAR(all.out.middleRows(part.q_first, part.n_queries).eval(), alone.out, 1e-12);
      EXPECT_MATRIX_NEAR(all.lse.segment(part.q_first, part.n_queries).eval(), alone.lse, 1e-12);
    }
  });
}

TEST(PackedSequences, EverySequenceWeighsItsKeysAsItDoesAlone) {
  const Packed packed;
  const auto check = [&](const std::string& name, const auto& method, const AttentionOptions& together,
                         const AttentionOptions& apart) {
    SCOPED_TRACE(name + ", causal " + std::to_string(static_cast<int>(apart.mask.causal)));
    const auto all = key_importance(packed.in.q, packed.in.k, together, method);
    for (const Part& part : parts()) {
      const auto alone = key_importance(packed.in.q.middleRows(part.q_first, part.n_queries),
                                        packed.in.k.middleRows(part.k_first, part.n_keys), apart, method);
      EXPECT_MATRIX_NEAR(all.largest.segment(part.k_first, part.n_keys).eval(), alone.largest, 1e-12);
      EXPECT_MATRIX_NEAR(all.norm.segment(part.k_first, part.n_keys).eval(), alone.norm, 1e-12);
    }
  };
  with_methods([&](const std::string& name, const auto& method, Causal causal) {
    check(name, method, packed_options(causal), alone_options(causal));
  });
  for (const Causal causal : {Causal::none, Causal::top_left, Causal::bottom_right}) {
    AttentionOptions together = packed_options(causal), apart = alone_options(causal);
    together.mask.alibi_slope = apart.mask.alibi_slope = PerHead();
    const Vector<double> logits = random_matrix<double>(4, 1, 6);
    for (const bool by_query : {false, true})
      check("means of nodes", TcAttention<double>(random_tree<double>(3, d), logits, {.by_query = by_query}), together,
            apart);
  }
}

/// Every way to share products among tokens, the largest taken: nothing is drawn, so that rows can be compared.
template <class Check>
void with_budgets(const Check& check) {
  for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
    for (const bool centred : {false, true}) {
      for (const Rounding rounding : {Rounding::up, Rounding::published}) {
        SCOPED_TRACE("budget " + std::to_string(static_cast<int>(budget)) + (centred ? ", centred" : "") +
                     (rounding == Rounding::up ? "" : ", published"));
        check(MonteCarloOptions{.alpha = 1.7,
                                .estimator = Estimator::largest,
                                .budget = budget,
                                .fraction = 0.4,
                                .centred = centred,
                                .rounding = rounding,
                                .path = ValuePath::sampled});
      }
    }
  }
}

TEST(PackedSequences, EverySequenceIsSampledAsItIsAlone) {
  const Packed packed;
  with_methods([&](const std::string& name, const auto& method, Causal causal) {
    SCOPED_TRACE(name + ", causal " + std::to_string(static_cast<int>(causal)));
    with_budgets([&](const MonteCarloOptions& options) {
      const MonteCarloValues<double> values(packed.x, packed.w, options);
      const auto plan = values.plan(packed.in.q, packed.in.k, packed_options(causal), method);
      const auto all = attend(packed.in.q, packed.in.k, values, packed_options(causal), method);
      for (const Part& part : parts()) {
        const Matrix<double> x = packed.x.middleRows(part.k_first, part.n_keys),
                             q = packed.in.q.middleRows(part.q_first, part.n_queries),
                             k = packed.in.k.middleRows(part.k_first, part.n_keys);
        const MonteCarloValues<double> own(x, packed.w, options);
        const auto alone = own.plan(q, k, alone_options(causal), method);
        // Last bits of the importance, and of the sums that share the budget, may move a count by one.
        const Matrix<Index> together = plan.counts.middleRows(part.k_first, part.n_keys);
        EXPECT_LE(part.n_keys == 0 ? 0 : (together - alone.counts).cwiseAbs().maxCoeff(), 1);
        EXPECT_LE((together - alone.counts).cwiseAbs().sum(), 1 + part.n_keys / 20);
        EXPECT_MATRIX_NEAR(plan.x_norm.segment(part.k_first, part.n_keys).eval(), alone.x_norm, 1e-12);
        for (Index j = 0; j < part.n_keys; ++j) EXPECT_EQ(plan.kept(part.k_first + j, 0), alone.kept(j, 0));
        if (together != alone.counts) continue;
        const auto out = attend(q, k, own, alone_options(causal), method).out;
        EXPECT_MATRIX_NEAR(all.out.middleRows(part.q_first, part.n_queries).eval(), out, 1e-11);
      }
    });
  });
}

TEST(PackedSequences, ProjectedValuesServeEverySequenceEitherWay) {
  const Packed packed;
  for (const ProjectionOrder order : {ProjectionOrder::project_first, ProjectionOrder::attend_first}) {
    const auto all = attend(packed.in.q, packed.in.k, ProjectedValues<double>(packed.x, packed.w, {.order = order}),
                            packed_options(Causal::bottom_right), WindowAttention(9, 4));
    for (const Part& part : parts()) {
      const Matrix<double> v = packed.x.middleRows(part.k_first, part.n_keys) * packed.w;
      const auto alone = attend(packed.in.q.middleRows(part.q_first, part.n_queries),
                                packed.in.k.middleRows(part.k_first, part.n_keys), v,
                                alone_options(Causal::bottom_right), WindowAttention(9, 4));
      EXPECT_MATRIX_NEAR(all.out.middleRows(part.q_first, part.n_queries).eval(), alone.out, 1e-12);
    }
  }
}

TEST(PackedSequences, LeafPatternsAndUnionsStayWithinTheSequence) {
  const Packed packed;
  const DecisionTree<double> tree = random_tree<double>(3, d);
  for (const Causal causal : {Causal::none, Causal::bottom_right}) {
    const AttentionOptions together = packed_options(causal), apart = alone_options(causal);
    const LeafPattern leaves(tree, packed.in.q, packed.in.k, together.mask);
    const auto all = attend_over(leaves, packed.in.q, packed.in.k, packed.in.v, together);
    for (const Part& part : parts()) {
      const Matrix<double> q = packed.in.q.middleRows(part.q_first, part.n_queries),
                           k = packed.in.k.middleRows(part.k_first, part.n_keys),
                           v = packed.in.v.middleRows(part.k_first, part.n_keys);
      const auto alone = attend_over(LeafPattern(tree, q, k, apart.mask), q, k, v, apart);
      EXPECT_MATRIX_NEAR(all.out.middleRows(part.q_first, part.n_queries).eval(), alone.out, 1e-12);
      EXPECT_MATRIX_NEAR(all.lse.segment(part.q_first, part.n_queries).eval(), alone.lse, 1e-12);
    }
  }
}

}  // namespace
}  // namespace heed::test::packed_sequences
