// What key importance and Monte-Carlo values cost over TF-attention: tokens are routed once a call, however many passes
// there are.
#include <algorithm>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/exact/importance.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/trees.hpp"

namespace heed::test::tf_importance {
namespace {

constexpr Index n_q = 41, n_k = 77, n_real = 70, d = 8, d_in = 30, d_v = 5;

struct Heads {
  HeadOptions options;
  Index per_kv() const { return options.n_heads / options.n_kv_heads.value_or(options.n_heads); }
};
const Heads heads_of_calls[] = {{{.n_heads = 1}}, {{.n_heads = 3}}, {{.n_heads = 6, .n_kv_heads = 2}}};

struct Operands {
  Matrix<float> q, k, x, w;
  explicit Operands(const Heads& heads)
      : q(random_matrix<float>(n_q, heads.options.n_heads * d, 1)),
        k(random_matrix<float>(n_k, heads.options.n_heads / heads.per_kv() * d, 2)),
        x(random_matrix<float>(n_k, d_in, 3)),
        w(random_matrix<float>(d_in, heads.options.n_heads / heads.per_kv() * d_v, 4)) {}
};

/// Products of routing the tokens of a call, each once a head, and the pairs its queries see, from the definition of
/// each head's tree.
struct Work {
  double route = 0, pairs = 0;
};

Work work_of(const Operands& in, const Heads& heads, const std::vector<TfAttention<float>>& of_heads,
             const AttentionOptions& options) {
  Work work;
  for (Index h = 0; h < heads.options.n_heads; ++h) {
    const Inputs<float> head{in.q.middleCols(h * d, d), in.k.middleCols(h / heads.per_kv() * d, d), {}};
    const TfAttention<float>& tf = of_heads[static_cast<std::size_t>(h)];
    const Index height = tf.tree().height();
    work.route += 2.0 * d * static_cast<double>(height * (n_q + n_real));
    const PairMatrix leaves =
        height == 0 ? PairMatrix(PairMatrix::Constant(n_q, n_k, true)) : pairs_of_tree(tf.tree(), head, options);
    for (Index i = 0; i < n_q; ++i) {
      for (Index j = 0; j < n_real; ++j) {
        const bool near =
            (tf.options().window_left || tf.options().n_sinks > 0) &&
            is_near(options.mask, i, j, n_q, n_k, tf.options().window_left.value_or(-1), tf.options().n_sinks);
        work.pairs += leaves(i, j) || near ? 1 : 0;
      }
    }
  }
  return work;
}

/// Checks what calls over `method` count; of_heads: the same method for each head.
template <class Method>
void expect_routed_once(const Heads& heads, const Method& method, const std::vector<TfAttention<float>>& of_heads) {
  const Operands in(heads);
  const AttentionOptions options{.mask = {.n_real_keys = n_real}};
  const Work want = work_of(in, heads, of_heads, options);
  ASSERT_GT(want.pairs, 0);
  for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
    for (const Estimator estimator : {Estimator::with_replacement, Estimator::largest}) {
      SCOPED_TRACE("budget " + std::to_string(static_cast<int>(budget)) + ", estimator " +
                   std::to_string(static_cast<int>(estimator)));
      const MonteCarloValues<float> values(
          in.x, in.w,
          {.alpha = 20, .estimator = estimator, .budget = budget, .fraction = 0.4, .path = ValuePath::sampled});
      const double importance = budget == Budget::constant ? 0.0 : 4.0 * d * want.pairs;
      const double exponentials = budget == Budget::constant ? 0.0 : 2.0 * want.pairs;
      // Each row that is sampled from its largest products first multiplies their sizes.
      const auto choice = [&](const FlopCounter& flops) {
        return estimator == Estimator::largest ? 2.0 * d_in * flops.sampled_rows() : 0.0;
      };
      FlopCounter flops;
      multi_head_attend(in.q, in.k, values, heads.options, options, method, {.flops = &flops});
      EXPECT_GT(flops.sampled_rows(), 0);
      EXPECT_EQ(flops.products(Phase::route), want.route + importance + choice(flops));
      EXPECT_EQ(flops.products(Phase::scores), 2.0 * d * want.pairs);
      EXPECT_EQ(flops.products(Phase::values), 2.0 * d_v * want.pairs);
      EXPECT_EQ(flops.exponentials(), exponentials + want.pairs);
      flops.reset();
      Matrix<float> rows(n_k, in.w.cols());
      values.value_rows_into(rows, in.q, in.k, options, method, {.flops = &flops}, heads.options);
      EXPECT_EQ(flops.products(Phase::route), (importance > 0 ? want.route : 0.0) + importance + choice(flops));
      EXPECT_EQ(flops.exponentials(), exponentials);
      flops.reset();
      values.plan(in.q, in.k, options, method, {.flops = &flops}, heads.options);
      EXPECT_EQ(flops.products(Phase::route), (importance > 0 ? want.route : 0.0) + importance);
    }
  }
  FlopCounter flops;
  multi_head_attend(in.q, in.k, ProjectedValues<float>(in.x, in.w), heads.options, options, method, {.flops = &flops});
  EXPECT_EQ(flops.products(Phase::route), want.route);
}

TEST(TfImportance, OfValuesRoutesEachTokenOnceForOneHeadAndForMany) {
  for (const Heads& heads : heads_of_calls) {
    SCOPED_TRACE(std::to_string(heads.options.n_heads) + " heads");
    const TfOptions tf_options[] = {{}, {.window_left = 4}, {.window_left = 4, .n_sinks = 3}};
    for (const TfOptions& near : tf_options) {
      const TfAttention<float> tf(random_tree<float>(3, d), near);
      expect_routed_once(heads, tf, std::vector(static_cast<std::size_t>(heads.options.n_heads), tf));
    }
    const TfAttention<float> root{DecisionTree<float>()};
    expect_routed_once(heads, root, std::vector(static_cast<std::size_t>(heads.options.n_heads), root));
  }
}

TEST(TfImportance, OfValuesRoutesEachTokenOnceForListsOfMethods) {
  for (const Heads& heads : heads_of_calls) {
    SCOPED_TRACE(std::to_string(heads.options.n_heads) + " heads");
    std::vector<TfAttention<float>> of_kv_heads, of_heads, repeated;
    for (Index h = 0; h < heads.options.n_heads; ++h) {
      const auto seed = static_cast<std::uint64_t>(h + 1);
      of_heads.emplace_back(random_tree<float>(1 + h % 3, d, seed));
      if (h % heads.per_kv() == 0) of_kv_heads.push_back(of_heads.back());
      repeated.push_back(of_kv_heads.back());
    }
    expect_routed_once(heads, of_heads, of_heads);
    expect_routed_once(heads, of_kv_heads, repeated);
  }
}

TEST(TfImportance, OfOneHeadRoutesEachTokenOnce) {
  const Operands in(heads_of_calls[0]);
  const AttentionOptions options{.mask = {.n_real_keys = n_real}};
  const TfAttention<float> tf(random_tree<float>(3, d));
  const Work want = work_of(in, heads_of_calls[0], {tf}, options);
  FlopCounter flops;
  key_importance(in.q, in.k, options, tf, {.flops = &flops});
  EXPECT_EQ(flops.products(), want.route + 4.0 * d * want.pairs);
  EXPECT_EQ(flops.exponentials(), 2.0 * want.pairs);
}

}  // namespace
}  // namespace heed::test::tf_importance
