#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/tf_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/strided.hpp"
#include "support/tf_routing.hpp"
#include "support/trees.hpp"

namespace heed::test::tf_backward {
namespace {

class TfBackward : public testing::Test {
 protected:
  using Trees = std::vector<DecisionTree<double>>;

  /// Planes short enough that many projections pass the surrogate.
  static DecisionTree<double> small_tree(Index height, Index d, std::uint64_t seed, TreeOptions<double> options = {}) {
    const Index n_nodes = (Index(1) << height) - 1;
    if (options.lift) options.lift->weights *= 0.3;
    return DecisionTree<double>((0.3 * random_matrix<double>(n_nodes, d, 71 * seed)).eval(),
                                (0.2 * random_matrix<double>(n_nodes, 1, 71 * seed + 1)).eval(), options);
  }
  static BackwardOptions asked(RoutingGradient routing, bool bounded = true) {
    BackwardOptions backward;
    backward.routing = routing;
    backward.bounded = bounded;
    return backward;
  }
  /// Largest difference over the largest entry of what is wanted, at least 1e-3.
  template <class Got, class Want>
  static double off_by(const Got& got, const Want& want) {
    EXPECT_EQ(got.rows(), want.rows());
    EXPECT_EQ(got.cols(), want.cols());
    if (want.size() == 0 || got.size() != want.size()) return 0;
    const double most = (got.template cast<double>() - want.template cast<double>()).cwiseAbs().maxCoeff();
    return std::isfinite(most) ? most / std::max(1e-3, want.template cast<double>().cwiseAbs().maxCoeff()) : HUGE_VAL;
  }

  /// What the call returns less what it returns without routing, and the gradients of trees.
  template <class S>
  struct Routed {
    Matrix<double> d_q, d_k;
    std::vector<TreeGradient<Accumulator<S>>> trees;
  };
  template <class S>
  static Routed<S> routed(const std::vector<DecisionTree<S>>& trees, const TfOptions& tf, const Inputs<S>& in,
                          const Matrix<S>& d_out, const AttentionOptions& options, const BackwardOptions& backward,
                          FlopCounter* flops = nullptr) {
    const TfAttention<S> method(trees, tf);
    const auto r = attend(in.q, in.k, in.v, options, method);
    const auto all = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {.flops = flops}, backward);
    BackwardOptions leaf_local = backward;
    leaf_local.routing = RoutingGradient::none;
    const auto none = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {}, leaf_local);
    for (const auto& one : trees.size() > 1 ? none.d_trees : std::vector{none.d_tree})
      EXPECT_TRUE((one.planes.array() == 0).all() && (one.biases.array() == 0).all());
    EXPECT_SAME_BITS(all.d_v, none.d_v);
    EXPECT_EQ(all.d_tree.planes.size() > 0, trees.size() == 1);
    return {all.d_q.template cast<double>() - none.d_q.template cast<double>(),
            all.d_k.template cast<double>() - none.d_k.template cast<double>(),
            trees.size() > 1 ? all.d_trees : std::vector{all.d_tree}};
  }
  template <class S>
  static void expect_routing(const Routed<S>& got, const PlainRouting& want, double tolerance) {
    EXPECT_LT(off_by(got.d_q, want.d_q), tolerance);
    EXPECT_LT(off_by(got.d_k, want.d_k), tolerance);
    ASSERT_EQ(got.trees.size(), want.trees.size());
    for (std::size_t t = 0; t < want.trees.size(); ++t) {
      EXPECT_LT(off_by(got.trees[t].planes, want.trees[t].planes), tolerance);
      EXPECT_LT(off_by(got.trees[t].biases, want.trees[t].biases), tolerance);
    }
  }
  static PlainRouting formula(const Trees& trees, const TfOptions& tf, const Inputs<double>& in,
                              const Matrix<double>& d_out, const AttentionOptions& options,
                              const BackwardOptions& backward) {
    const PlainTfCall call(trees, tf, in, d_out, options, backward, 0);
    return plain_routing(call, backward.routing, [&](const PlainTfCall& own, std::size_t t) {
      return plain_signals(own, t, backward.bounded);
    });
  }
};

/// The soft form itself: sum_i d_out_i . out_i + d_lse_i lse_i where pairs are members by m = sum_l g_l(q_i) g_l(k_j).
double soft_loss(const PlainTfCall& call, const Matrix<double>& g_q, const Matrix<double>& g_k,
                 const Matrix<double>& d_lse, double sink) {
  double loss = 0;
  for (Index i = 0; i < call.q.rows(); ++i) {
    double sum = sink, product = 0;
    for (Index j = 0; j < call.k.rows(); ++j) {
      if (!call.kept(i, j)) continue;
      const double weight = g_q.row(i).dot(g_k.row(j)) * std::exp(call.scores(i, j));
      sum += weight;
      product += weight * call.d_out.row(i).dot(call.v.row(j));
    }
    loss += product / sum + d_lse(i, 0) * std::log(sum);
  }
  return loss;
}

TEST_F(TfBackward, UnboundedIsTheGradientOfTheSoftForm) {
  const auto in = random_inputs<double>({.n_q = 37, .n_k = 53, .d = 6, .d_v = 5});
  const Matrix<double> d_out = random_matrix<double>(37, 5, 7), d_lse = random_matrix<double>(37, 1, 8);
  const Trees trees{small_tree(2, 6, 3)};
  const std::vector<double> sinks{0.3};
  const AttentionOptions options{.softcap = 3.0, .sinks = sinks};
  for (const RoutingGradient routing : {RoutingGradient::flip, RoutingGradient::all_leaves}) {
    BackwardOptions backward = asked(routing, false);
    backward.d_lse = d_lse;
    const PlainTfCall call(trees, {}, in, d_out, options, backward, 0);
    const auto by_differences = [&](const PlainTfCall& own, std::size_t t) {
      const auto one_hot = [](const Vector<Index>& leaf) {
        Matrix<double> g = Matrix<double>::Zero(leaf.size(), 4);
        for (Index i = 0; i < leaf.size(); ++i) g(i, leaf(i)) = 1;
        return g;
      };
      Matrix<double> g_q = one_hot(own.query_leaf[t]), g_k = one_hot(own.key_leaf[t]);
      EXPECT_TRUE(((g_q * g_k.colwise().sum().transpose()).array() > 0).all()) << "a query falls back";
      const auto slopes = [&](Matrix<double>& g) {
        constexpr double step = 1e-5;
        Matrix<double> slope(g.rows(), g.cols());
        for (Index i = 0; i < g.rows(); ++i) {
          for (Index l = 0; l < g.cols(); ++l) {
            const double at = g(i, l);
            g(i, l) = at + step;
            const double above = soft_loss(own, g_q, g_k, d_lse, std::exp(0.3));
            g(i, l) = at - step;
            slope(i, l) = (above - soft_loss(own, g_q, g_k, d_lse, std::exp(0.3))) / (2 * step);
            g(i, l) = at;
          }
        }
        return slope;
      };
      const Matrix<double> of_queries = slopes(g_q);
      return PlainSignals{of_queries, slopes(g_k)};
    };
    const PlainRouting want = plain_routing(call, routing, by_differences);
    EXPECT_GT(want.trees[0].planes.cwiseAbs().maxCoeff(), 0.1) << "nothing passes the surrogate";
    // A central difference: step^2 times third derivatives, and rounding over the step.
    expect_routing(routed(trees, {}, in, d_out, options, backward), want, 1e-7);
  }
}

TEST_F(TfBackward, IsItsFormulaInPlainLoopsUnderEveryOption) {
  const TfOptions near{.window_left = 5, .n_sinks = 2};
  for (const auto& [n_q, n_k, d, d_v, h] : {std::array<Index, 5>{65, 65, 7, 4, 3}, {37, 113, 18, 19, 2}}) {
    const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v});
    const Matrix<double> d_out = random_matrix<double>(n_q, d_v, 7), d_lse = random_matrix<double>(n_q, 1, 8);
    const OptionStore store(n_q, n_k);
    const Trees one{small_tree(h, d, 3)}, two{small_tree(h, d, 4), small_tree(2, d, 5)};
    int number = 0;
    const auto check = [&](const AttentionOptions& options) {
      for (const Trees& trees : {one, two}) {
        for (const TfOptions& tf : {TfOptions{}, near}) {
          ++number;
          BackwardOptions backward =
              asked(number % 3 == 0 ? RoutingGradient::all_leaves : RoutingGradient::flip, number % 5 != 0);
          if (number % 2 == 0) backward.d_lse = d_lse;
          expect_routing(routed(trees, tf, in, d_out, options, backward),
                         formula(trees, tf, in, d_out, options, backward), 1e-12);
        }
      }
    };
    check({});
    for (const OptionKind& kind : option_kinds(store)) {
      SCOPED_TRACE(std::string(kind.name));
      check(options_of(store, kind));
    }
  }
}

TEST_F(TfBackward, AtHeightOneAFlipIsAllLeavesAndThreeTreesAreUnited) {
  const auto in = random_inputs<double>({.n_q = 113, .n_k = 203, .d = 9, .d_v = 7});
  const Matrix<double> d_out = random_matrix<double>(113, 7, 7);
  const Trees trees{small_tree(1, 9, 3), small_tree(1, 9, 4), small_tree(1, 9, 6)};
  const auto flips = routed(trees, {}, in, d_out, {}, asked(RoutingGradient::flip));
  const auto all = routed(trees, {}, in, d_out, {}, asked(RoutingGradient::all_leaves));
  expect_routing(flips, formula(trees, {}, in, d_out, {}, asked(RoutingGradient::flip)), 1e-12);
  for (std::size_t t = 0; t < 3; ++t) EXPECT_LT(off_by(flips.trees[t].planes, all.trees[t].planes), 1e-13);
}

/// Leaves of more queries than one round of panels takes.
TEST_F(TfBackward, IsItsFormulaWhereLeavesAreLong) {
  const auto in = random_inputs<double>({.n_q = 900, .n_k = 15, .d = 4, .d_v = 3});
  const Matrix<double> d_out = random_matrix<double>(900, 3, 7);
  const Trees trees{small_tree(1, 4, 3)};
  for (const RoutingGradient routing : {RoutingGradient::flip, RoutingGradient::all_leaves}) {
    for (const bool bounded : {false, true}) {
      expect_routing(routed(trees, {}, in, d_out, {}, asked(routing, bounded)),
                     formula(trees, {}, in, d_out, {}, asked(routing, bounded)), 1e-12);
    }
  }
}

TEST_F(TfBackward, MediansStandAsConstantsAndALiftReachesItsKeys) {
  const auto in = random_inputs<double>({.n_q = 65, .n_k = 90, .d = 6});
  const Matrix<double> d_out = random_matrix<double>(65, 6, 7);
  const DecisionTree<double> medians = small_tree(3, 6, 3, {.biases = TreeBiases::key_medians});
  const auto got = routed(Trees{medians}, {}, in, d_out, {}, asked(RoutingGradient::flip));
  expect_routing(got, formula({medians}, {}, in, d_out, {}, asked(RoutingGradient::flip)), 1e-12);
  const auto stored = routed(Trees{medians.with_biases_of(in.k)}, {}, in, d_out, {}, asked(RoutingGradient::flip));
  EXPECT_SAME_BITS(got.trees[0].planes, stored.trees[0].planes);
  const Trees lifted{small_tree(3, 6, 3, {.lift = random_lift<double>(3, 6)}),
                     small_tree(2, 6, 4, {.biases = TreeBiases::key_medians, .lift = random_lift<double>(2, 6)})};
  for (const RoutingGradient routing : {RoutingGradient::flip, RoutingGradient::all_leaves}) {
    expect_routing(routed(lifted, {}, in, d_out, {}, asked(routing)),
                   formula(lifted, {}, in, d_out, {}, asked(routing)), 1e-12);
  }
}

/// The answer lies in another leaf, far above what the query sees, and leaves are several tiles long: the running
/// maximum moves. Differences of scores whose exp does not fit: the formula in logarithms.
TEST_F(TfBackward, BoundedWeightsAreExactWhateverTheScores) {
  constexpr Index n_q = 40, n_k = 900;
  const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = 4});
  const Matrix<double> d_out = random_matrix<double>(n_q, 4, 7);
  const Trees trees{small_tree(2, 4, 3)};
  const BackwardOptions backward = asked(RoutingGradient::all_leaves);
  const auto in_logarithms = [&](const PlainTfCall& call, std::size_t t) {
    PlainSignals u{Matrix<double>::Zero(n_q, 4), Matrix<double>::Zero(n_k, 4)};
    for (Index i = 0; i < n_q; ++i) {
      const Index own = call.query_leaf[t](i);
      Vector<double> x(n_k), slope(n_k);
      for (Index j = 0; j < n_k; ++j) {
        x(j) = call.scores(i, j) - call.lse(i);
        slope(j) = call.d_out.row(i).dot(call.v.row(j)) - call.mean(i);
        const double weight = call.key_leaf[t](j) == own ? std::exp(x(j)) : 1 / (1 + std::exp(-x(j)));
        u.of_keys(j, own) += weight * slope(j);
      }
      for (Index l = 0; l < 4; ++l) {
        double top = 0;
        for (Index j = 0; j < n_k; ++j) top = call.key_leaf[t](j) == l ? std::max(top, x(j)) : top;
        double sum = 0, mass = l == own ? 0 : std::exp(-top);
        for (Index j = 0; j < n_k; ++j) {
          if (call.key_leaf[t](j) != l) continue;
          sum += std::exp(x(j) - top) * slope(j);
          mass += std::exp(x(j) - top);
        }
        u.of_queries(i, l) = l == own ? sum : sum / mass;
      }
    }
    return u;
  };
  for (const double scale : {2.0, 40.0, 300.0, 3000.0}) {
    const AttentionOptions options{.scale = scale};
    PlainTfCall call(trees, {}, in, d_out, options, backward, 0);
    for (Index i = 0; i < n_q; ++i) {  // without the exp of a score
      double top = minus_infinity_of<double>(), sum = 0, product = 0;
      for (Index j = 0; j < n_k; ++j) top = call.seen(i, j) ? std::max(top, call.scores(i, j)) : top;
      for (Index j = 0; j < n_k; ++j) {
        if (!call.seen(i, j)) continue;
        const double weight = std::exp(call.scores(i, j) - top);
        sum += weight;
        product += weight * d_out.row(i).dot(in.v.row(j));
      }
      call.lse(i) = top + std::log(sum);
      call.mean(i) = product / sum;
    }
    // Weights are as good as scores: their rounding, some 20 scale units in the last place, goes through exp.
    expect_routing(routed(trees, {}, in, d_out, options, backward),
                   plain_routing(call, RoutingGradient::all_leaves, in_logarithms),
                   1e-12 + 50 * scale * std::numeric_limits<double>::epsilon());
  }
}

TEST_F(TfBackward, AnyThreadsAndLayoutsGiveTheSameBitsAndNothingIsAllocatedTwice) {
  const auto in = random_inputs<double>({.n_q = 700, .n_k = 900, .d = 12, .d_v = 5});
  const Matrix<double> d_out = random_matrix<double>(700, 5, 7);
  const TfAttention<double> tf(Trees{small_tree(3, 12, 3), small_tree(4, 12, 4)}, {.window_left = 30});
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
  const auto r = attend(in.q, in.k, in.v, options, tf);
  auto want = attend_backward(d_out, in.q, in.k, in.v, r, options, tf, {.threads = 1});
  for (const int threads : {2, 3}) {
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, tf, {.threads = threads});
    EXPECT_SAME_BITS(got.d_q, want.d_q);
    EXPECT_SAME_BITS(got.d_k, want.d_k);
    for (std::size_t t = 0; t < 2; ++t) {
      EXPECT_SAME_BITS(got.d_trees[t].planes, want.d_trees[t].planes);
      EXPECT_SAME_BITS(got.d_trees[t].biases, want.d_trees[t].biases);
    }
  }
  for (const Layout layout : {Layout::columns, Layout::spread}) {
    const Strided<double> q(in.q, layout), k(in.k, layout), v(in.v, layout), g(d_out, layout);
    const auto got = attend_backward(g.map(), q.map(), k.map(), v.map(), r, options, tf);
    EXPECT_SAME_BITS(got.d_q, want.d_q);
    EXPECT_SAME_BITS(got.d_k, want.d_k);
    EXPECT_SAME_BITS(got.d_trees[1].planes, want.d_trees[1].planes);
  }
  if (!counts_allocations()) return;
  Workspace workspace;
  const auto call = [&] {
    attend_backward_into(want, d_out, in.q, in.k, in.v, r.out, r.lse, options, tf,
                         {.workspace = &workspace, .threads = 1});
  };
  call();
  const auto before = allocations();
  call();
  EXPECT_EQ(allocations(), before);
}

TEST_F(TfBackward, HeadsAddUpAndEachMethodOfAListHasItsOwn) {
  constexpr Index n_q = 41, n_k = 57, d = 6, d_v = 4, n_heads = 4, n_kv = 2;
  const Matrix<double> q = random_matrix<double>(n_q, n_heads * d, 1), k = random_matrix<double>(n_k, n_kv * d, 2),
                       v = random_matrix<double>(n_k, n_kv * d_v, 3),
                       d_out = random_matrix<double>(n_q, n_heads * d_v, 4);
  const HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv};
  const OptionStore store(n_q, n_k, n_heads);
  const AttentionOptions options{.mask = {.allowed = store.allowed, .alibi_slope = store.slopes}};
  const Trees tree{small_tree(3, d, 3)};
  const TfAttention<double> tf{tree[0]};
  const auto r = multi_head_attend(q, k, v, heads, options, tf);
  const auto all = multi_head_attend_backward(d_out, q, k, v, r, heads, options, tf, {.threads = 2});
  const auto none = multi_head_attend_backward(d_out, q, k, v, r, heads, options, tf, {}, asked(RoutingGradient::none));
  PlainRouting want{Matrix<double>::Zero(n_q, n_heads * d),
                    Matrix<double>::Zero(n_k, n_kv * d),
                    {{Matrix<double>::Zero(7, d), Vector<double>::Zero(7)}}};
  for (Index h = 0; h < n_heads; ++h) {
    const Index kv = h / (n_heads / n_kv);
    const Inputs<double> in{q.middleCols(h * d, d), k.middleCols(kv * d, d), v.middleCols(kv * d_v, d_v)};
    const PlainTfCall call(tree, {}, in, d_out.middleCols(h * d_v, d_v), options, {}, h);
    const PlainRouting one = plain_routing(
        call, RoutingGradient::flip, [](const PlainTfCall& own, std::size_t t) { return plain_signals(own, t, true); });
    want.d_q.middleCols(h * d, d) = one.d_q;
    want.d_k.middleCols(kv * d, d) += one.d_k;
    want.trees[0].planes += one.trees[0].planes;
    want.trees[0].biases += one.trees[0].biases;
  }
  expect_routing(Routed<double>{all.d_q - none.d_q, all.d_k - none.d_k, {all.d_tree}}, want, 1e-12);
  const std::vector<TfAttention<double>> list{tf, TfAttention<double>(small_tree(2, d, 9))};
  const auto listed = multi_head_attend(q, k, v, heads, {}, list);
  const auto got = multi_head_attend_backward(d_out, q, k, v, listed, heads, {}, list);
  ASSERT_EQ(got.d_methods.size(), 2u);
  EXPECT_EQ(got.d_methods[0].d_tree.planes.rows(), 7);
  EXPECT_EQ(got.d_methods[1].d_tree.planes.rows(), 3);
  EXPECT_GT(got.d_methods[1].d_tree.planes.norm(), 0);
}

/// Masks of their own make pairs of their own: heads that share keys are then gone through one by one.
TEST_F(TfBackward, HeadsOfOwnMasksThatShareKeysAddUp) {
  constexpr Index n_q = 41, n_k = 57, d = 6, d_v = 4, n_heads = 4, n_kv = 2;
  const Matrix<double> q = random_matrix<double>(n_q, n_heads * d, 1), k = random_matrix<double>(n_k, n_kv * d, 2),
                       v = random_matrix<double>(n_k, n_kv * d_v, 3),
                       d_out = random_matrix<double>(n_q, n_heads * d_v, 4);
  const HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv};
  const OptionStore store(n_q, n_k, n_heads);
  const TfAttention<double> tf(small_tree(3, d, 3));
  const BackwardOptions leaves_only = asked(RoutingGradient::none);
  const AttentionOptions options{.mask = {.allowed = store.allowed}};
  const auto got = multi_head_attend_backward(d_out, q, k, v, multi_head_attend(q, k, v, heads, options, tf), heads,
                                              options, tf, {.threads = 2}, leaves_only);
  Matrix<double> d_q(n_q, n_heads * d), d_k = Matrix<double>::Zero(n_k, n_kv * d),
                                        d_values = Matrix<double>::Zero(n_k, n_kv * d_v);
  for (Index h = 0; h < n_heads; ++h) {
    const auto allowed = store.allowed.middleRows(h * n_q, n_q).eval();
    const AttentionOptions own{.mask = {.allowed = allowed}};
    const Inputs<double> in{q.middleCols(h * d, d), k.middleCols(h / 2 * d, d), v.middleCols(h / 2 * d_v, d_v)};
    const Matrix<double> d_own = d_out.middleCols(h * d_v, d_v);
    const auto one =
        attend_backward(d_own, in.q, in.k, in.v, attend(in.q, in.k, in.v, own, tf), own, tf, {}, leaves_only);
    d_q.middleCols(h * d, d) = one.d_q;
    d_k.middleCols(h / 2 * d, d) += one.d_k;
    d_values.middleCols(h / 2 * d_v, d_v) += one.d_v;
  }
  EXPECT_GT(d_q.norm(), 0.1);
  EXPECT_LT(off_by(got.d_q, d_q), 1e-12);
  EXPECT_LT(off_by(got.d_k, d_k), 1e-12);
  EXPECT_LT(off_by(got.d_v, d_values), 1e-12);
}

TEST_F(TfBackward, CountsThePairsAndNodesItLooksAt) {
  const auto in = random_inputs<double>({.n_q = 65, .n_k = 90, .d = 7, .d_v = 4});
  const Matrix<double> d_out = random_matrix<double>(65, 4, 7);
  const Trees trees{small_tree(3, 7, 3), small_tree(2, 7, 4)};
  const TfOptions tf{.n_sinks = 3};
  for (const RoutingGradient routing : {RoutingGradient::flip, RoutingGradient::all_leaves}) {
    for (const auto& [causal, left] : {std::pair<Causal, Index>{Causal::none, Mask::unlimited},
                                       {Causal::bottom_right, Mask::unlimited},
                                       {Causal::bottom_right, 4}}) {  // of these windows the first keys are in none
      const AttentionOptions options{.mask = {.causal = causal, .window_left = left, .n_real_keys = 80}};
      FlopCounter flops;
      routed(trees, tf, in, d_out, options, asked(routing), &flops);
      const PlainRouting want = formula(trees, tf, in, d_out, options, asked(routing));
      const PlainTfCall call(trees, tf, in, d_out, options, {}, 0);
      double seen = 0;
      for (Index i = 0; i < 65; ++i) {
        for (Index j = 0; j < 90; ++j) seen += call.seen(i, j) ? 1 : 0;
      }
      const double routes = 2.0 * 7 * (3 + 2) * (65 + 80);
      EXPECT_EQ(flops.products(Phase::route), 2 * routes + 2 * 7 * (want.token_nodes + want.rerouted));
      EXPECT_EQ(flops.products(Phase::backward_scores), 6 * 7 * seen + 2 * 7 * want.pairs + 4 * 7 * want.token_nodes);
      EXPECT_EQ(flops.products(Phase::backward_values), 4 * 4 * seen + 2 * 4 * want.pairs);
      EXPECT_EQ(flops.exponentials(), seen + want.pairs);
    }
  }
}

TEST_F(TfBackward, MaskedRowsOfNanGoNowhereAndEmptyInputsGiveZero) {
  const Index n_q = 60, n_k = 80;
  const OptionStore store(n_q, n_k);
  const Matrix<double> d_out = random_matrix<double>(n_q, 8, 7);
  const TfAttention<double> tf(Trees{small_tree(3, 8, 3), small_tree(2, 8, 4)}, {.window_left = 3});
  for (const OptionKind& kind : option_kinds(store)) {
    SCOPED_TRACE(std::string(kind.name));
    const AttentionOptions options = options_of(store, kind);
    const auto clean = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = 8});
    Inputs<double> in = clean;
    const std::vector<bool> seen = keys_seen(options.mask, n_q, n_k);
    for (Index j = 0; j < n_k; ++j) {
      if (seen[static_cast<std::size_t>(j)]) continue;
      fill(in.k.row(j), nan_of<double>());
      fill(in.v.row(j), nan_of<double>());
    }
    const auto r = attend(clean.q, clean.k, clean.v, options, tf);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, tf);
    const auto want = attend_backward(d_out, clean.q, clean.k, clean.v, r, options, tf);
    EXPECT_LT(off_by(got.d_q, want.d_q), 1e-13);
    EXPECT_LT(off_by(got.d_k, want.d_k), 1e-13);
    for (std::size_t t = 0; t < 2; ++t) EXPECT_LT(off_by(got.d_trees[t].planes, want.d_trees[t].planes), 1e-13);
    for (Index j = 0; j < n_k; ++j)
      EXPECT_TRUE(seen[static_cast<std::size_t>(j)] || (got.d_k.row(j).array() == 0).all());
  }
  for (const auto& [a, b] : {std::array<Index, 2>{0, 5}, {5, 0}, {1, 1}, {1, 40}}) {
    const auto in = random_inputs<double>({.n_q = a, .n_k = b, .d = 8});
    const auto r = attend(in.q, in.k, in.v, {}, tf);
    const auto got = attend_backward(random_matrix<double>(a, 8, 1), in.q, in.k, in.v, r, {}, tf);
    if (a == 0 || b == 0) {
      EXPECT_TRUE((got.d_trees[0].planes.array() == 0).all());
    }
    EXPECT_EQ(got.d_trees[1].planes.rows(), 3);
  }
}

template <class S>
class TfBackwardOfStorage : public TfBackward {};
using StoredScalars = testing::Types<float, Eigen::bfloat16>;
TYPED_TEST_SUITE(TfBackwardOfStorage, StoredScalars);

TYPED_TEST(TfBackwardOfStorage, SumsInFloat) {
  using S = TypeParam;
  const auto in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 16});
  const auto wide = in.template cast<double>();
  const Matrix<S> d_out = random_matrix<S>(65, 16, 7);
  const std::vector<DecisionTree<S>> trees{random_tree<S>(2, 16, 3)};
  std::vector<DecisionTree<double>> exact;
  for (const auto& tree : trees) {
    exact.emplace_back(tree.planes().template cast<double>().eval(), tree.biases().template cast<double>().eval());
  }
  const BackwardOptions backward = TfBackward::asked(RoutingGradient::flip);
  const auto got = TfBackward::routed(trees, {}, in, d_out, {}, backward);
  const PlainRouting want = TfBackward::formula(exact, {}, wide, d_out.template cast<double>().eval(), {}, backward);
  // float: rounding of sums; bfloat16: out, which mean is made from, has 8 bits.
  const double tolerance = std::is_same_v<S, float> ? 1e-4 : 0.05;
  EXPECT_LT(TfBackward::off_by(got.trees[0].planes, want.trees[0].planes), tolerance);
  EXPECT_LT(TfBackward::off_by(got.trees[0].biases, want.trees[0].biases), tolerance);
}

TEST_F(TfBackward, RefusesWhatItCannotMeanAndTouchesNothing) {
  const auto in = random_inputs<double>({.n_q = 20, .n_k = 30, .d = 6});
  const Matrix<double> d_out = random_matrix<double>(20, 6, 7);
  const Trees trees{small_tree(2, 6, 3), small_tree(1, 6, 4)};
  const auto said = [](const auto& run) -> std::string {
    try {
      run();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "nothing";
  };
  const TfAttention<double> capped(trees[0], {.leaf_cap = 3}), one(trees[0]), two(trees);
  const auto r = attend(in.q, in.k, in.v, {}, two);
  EXPECT_NE(said([&] { attend_backward(d_out, in.q, in.k, in.v, r, {}, capped); }).find("leaf_cap = 3"),
            std::string::npos);
  auto grads = attend_backward(d_out, in.q, in.k, in.v, r, {}, two);
  const auto untouched = grads.d_q;
  const auto into = [&](const TfAttention<double>& method) {
    return said([&] { attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse, {}, method); });
  };
  EXPECT_EQ(into(two), "nothing");
  EXPECT_NE(into(one).find("d_trees has 2 entries"), std::string::npos);
  grads.d_trees[0].planes.resize(3, 5);
  EXPECT_NE(into(two).find("d_trees.planes is 3 x 5 but must be as the tree's planes: 3 x 6"), std::string::npos);
  const HeadOptions two_heads{.n_heads = 2};
  const std::vector<TfAttention<double>> list{TfAttention<double>(small_tree(1, 3, 3)),
                                              TfAttention<double>(small_tree(1, 3, 4))};
  const auto of_heads = multi_head_attend(in.q, in.k, in.v, two_heads, {}, list);
  auto listed = multi_head_attend_backward(d_out, in.q, in.k, in.v, of_heads, two_heads, {}, list);
  for (const std::size_t size : {0, 1, 3}) {
    listed.d_methods.resize(size);
    const auto message = said([&] {
      multi_head_attend_backward_into(listed, d_out, in.q, in.k, in.v, of_heads.out, of_heads.lse, two_heads, {}, list);
    });
    EXPECT_NE(message.find("d_methods has " + std::to_string(size) + " entries"), std::string::npos) << message;
  }
  grads.d_trees.clear();
  grads.d_tree.biases.resize(4);
  EXPECT_NE(into(one).find("d_tree.biases is 4 x 1"), std::string::npos);
  EXPECT_NE(into(two).find("d_tree"), std::string::npos);
  EXPECT_SAME_BITS(grads.d_q, untouched);
  struct OperandsOnly {
    Matrix<double> d_q{20, 6}, d_k{30, 6}, d_v{30, 6};
  } operands;
  attend_backward_into(operands, d_out, in.q, in.k, in.v, r.out, r.lse, {}, two);
  EXPECT_SAME_BITS(operands.d_q, untouched) << "complete also where gradients of trees are not wanted";
  const auto whole = attend_backward(d_out, in.q, in.k, in.v, attend(in.q, in.k, in.v, {}, one), {}, one);
  Matrix<double> planes(3, 6);
  Vector<double> biases(3);
  struct Mapped : OperandsOnly {
    struct {
      Eigen::Map<Matrix<double>> planes;
      Eigen::Map<Vector<double>> biases;
    } d_tree;
  } mapped{{}, {{planes.data(), 3, 6}, {biases.data(), 3}}};
  const auto alone = attend(in.q, in.k, in.v, {}, one);
  attend_backward_into(mapped, d_out, in.q, in.k, in.v, alone.out, alone.lse, {}, one);
  EXPECT_SAME_BITS(planes, whole.d_tree.planes);
  EXPECT_SAME_BITS(biases, whole.d_tree.biases);
}

/// A gradient of no size is not wanted, whatever its number of rows.
TEST_F(TfBackward, MembersWithoutColumnsAreNotWritten) {
  const auto in = random_inputs<double>({.n_q = 20, .n_k = 30, .d = 4});
  const TfAttention<double> tf(small_tree(2, 4, 1));
  const auto r = attend(in.q, in.k, in.v, {}, tf);
  struct {
    Matrix<double> d_q, d_k, d_v;
    struct {
      Matrix<double> planes, biases;
    } d_tree;
  } grads;
  grads.d_q = in.q;
  grads.d_k = in.k;
  grads.d_v = in.v;
  grads.d_tree.planes.resize(5, 0);
  grads.d_tree.biases.resize(5, 0);
  const Matrix<double> d_out = random_matrix<double>(20, 4, 7);
  attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse, {}, tf);
  EXPECT_SAME_BITS(grads.d_q, attend_backward(d_out, in.q, in.k, in.v, r, {}, tf).d_q);
}

}  // namespace
}  // namespace heed::test::tf_backward
