#include "heed/approx/tf_attention.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "heed/trees/fit_tree.hpp"
#include "support/conformance.hpp"
#include "support/tf_formula.hpp"
#include "support/trees.hpp"

namespace heed::test::tf_attention {
namespace {

constexpr Index height = 3;
constexpr TfOptions near{.window_left = 5, .n_sinks = 2};

template <class S>
DecisionTree<S> tree_for(const Inputs<S>& in) {
  return random_tree<S>(height, in.q.cols());
}
template <class S>
DecisionTree<S> balanced_tree_for(const Inputs<S>& in) {
  return random_tree<S>(height, in.q.cols(), 2, {.biases = TreeBiases::key_medians});
}

constexpr auto small_tree = []<class S>(const Inputs<S>& in) { return TfAttention<S>(tree_for(in)); };
constexpr auto united = []<class S>(const Inputs<S>& in) { return TfAttention<S>(tree_for(in), near); };
constexpr auto balanced = []<class S>(const Inputs<S>& in) { return TfAttention<S>(balanced_tree_for(in)); };
template <class S>
DecisionTree<S> lifted_tree_for(const Inputs<S>& in) {
  return random_tree<S>(height, in.q.cols(), 3,
                        {.biases = TreeBiases::key_medians, .lift = random_lift<S>(height, in.q.cols())});
}
constexpr auto lifted = []<class S>(const Inputs<S>& in) { return TfAttention<S>(lifted_tree_for(in)); };
constexpr auto one_leaf = []<class S>(const Inputs<S>&) { return TfAttention<S>(DecisionTree<S>()); };
constexpr auto wide_window = []<class S>(const Inputs<S>& in) {
  return TfAttention<S>(tree_for(in), {.n_sinks = 100000});
};

constexpr auto same_leaf = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_of_tree(tree_for(in), in, options);
};
constexpr auto same_leaf_or_near = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  PairMatrix pairs = pairs_of_tree(tree_for(in), in, options);
  for (Index i = 0; i < pairs.rows(); ++i) {
    for (Index j = 0; j < pairs.cols(); ++j) {
      pairs(i, j) =
          pairs(i, j) || is_near(options.mask, i, j, pairs.rows(), pairs.cols(), *near.window_left, near.n_sinks);
    }
  }
  return pairs;
};
constexpr auto same_balanced_leaf = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_of_tree(balanced_tree_for(in), in, options);
};

constexpr auto same_lifted_leaf = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_of_tree(lifted_tree_for(in), in, options);
};

/// Two trees, of different heights.
template <class S>
std::vector<DecisionTree<S>> two_trees_for(const Inputs<S>& in) {
  return {tree_for(in), random_tree<S>(2, in.q.cols(), 5)};
}
constexpr auto two_trees = []<class S>(const Inputs<S>& in) { return TfAttention<S>(two_trees_for(in)); };
constexpr auto one_tree_sees_all = []<class S>(const Inputs<S>& in) {
  return TfAttention<S>(std::vector{tree_for(in), DecisionTree<S>()});
};
constexpr auto leaf_of_some_tree = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  const std::vector<DecisionTree<S>> trees = two_trees_for(in);
  return PairMatrix(pairs_of_tree(trees[0], in, options).array() || pairs_of_tree(trees[1], in, options).array());
};

/// Products of kept pairs, and the decisions of every token.
FlopCounter tf_flops(const FlopCase& sizes) {
  FlopCounter flops = exact_flops(sizes);
  flops.add_products(Phase::route, tree_flops(tree_for(sizes.in), sizes));
  return flops;
}
FlopCounter two_tree_flops(const FlopCase& sizes) {
  FlopCounter flops = exact_flops(sizes);
  for (const auto& tree : two_trees_for(sizes.in)) flops.add_products(Phase::route, tree_flops(tree, sizes));
  return flops;
}
FlopCounter lifted_flops(const FlopCase& sizes) {
  FlopCounter flops = exact_flops(sizes);
  flops.add_products(Phase::route, tree_flops(lifted_tree_for(sizes.in), sizes));
  return flops;
}

bool without_the_future(std::string_view option) {
  return option != "top_left" && option != "shifted" && option != "bottom_right" && option != "square" &&
         option != "sequences" && option != "same_sequences";
}

INSTANTIATE_METHOD_SUITE(TfAttention, {.make = small_tree,
                                       .exact_when = one_leaf,
                                       .keeps = same_leaf,
                                       .flops = tf_flops,
                                       .reads_keys_to_choose = true,
                                       .falls_back = true});
INSTANTIATE_METHOD_SUITE(TfAttentionWithWindowAndSinks, {.make = united,
                                                         .exact_when = wide_window,
                                                         .keeps = same_leaf_or_near,
                                                         .flops = tf_flops,
                                                         .positional = true,
                                                         .reads_keys_to_choose = true,
                                                         .falls_back = true});
INSTANTIATE_METHOD_SUITE(TfAttentionOfTwoTrees, {.make = two_trees,
                                                 .exact_when = one_tree_sees_all,
                                                 .keeps = leaf_of_some_tree,
                                                 .flops = two_tree_flops,
                                                 .reads_keys_to_choose = true,
                                                 .falls_back = true});
INSTANTIATE_METHOD_SUITE(TfAttentionBalancedByMedians, {.make = balanced,
                                                        .keeps = same_balanced_leaf,
                                                        .flops = tf_flops,
                                                        .supports = without_the_future,
                                                        .reads_keys_to_choose = true,
                                                        .falls_back = true});
INSTANTIATE_METHOD_SUITE(TfAttentionLiftedAndBalanced, {.make = lifted,
                                                        .keeps = same_lifted_leaf,
                                                        .flops = lifted_flops,
                                                        .supports = without_the_future,
                                                        .reads_keys_to_choose = true,
                                                        .falls_back = true});

TEST(TfAttention, WithOneLeafEqualsExactBitForBit) {
  const OptionStore store(65, 113);
  const auto in = random_inputs<float>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  for (const OptionKind& kind : option_kinds(store)) {
    SCOPED_TRACE(kind.name);
    const AttentionOptions options = options_of(store, kind);
    const auto want = attend(in.q, in.k, in.v, options);
    const auto got = attend(in.q, in.k, in.v, options, TfAttention<float>{DecisionTree<float>()});
    EXPECT_SAME_BITS(got.out, want.out);
    EXPECT_SAME_BITS(got.lse, want.lse);
  }
}

/// Every token goes to leaf `leaf`: zero planes, signs in the biases.
template <class S>
DecisionTree<S> tree_to_leaf(Index tree_height, Index leaf, Index d) {
  const Index n_nodes = (Index(1) << tree_height) - 1;
  Vector<Accumulator<S>> biases = Vector<Accumulator<S>>::Zero(n_nodes);
  for (Index v = 0, level = 0; level < tree_height; ++level) {
    const Index bit = leaf >> (tree_height - 1 - level) & 1;
    biases(v) = bit != 0 ? 1 : -1;
    v = 2 * v + 1 + bit;
  }
  return DecisionTree<S>(Matrix<Accumulator<S>>::Zero(n_nodes, d).eval(), biases);
}

TEST(TfAttention, WithEveryTokenInOneLeafOfManyEqualsExactBitForBit) {
  for (const Index n_q : {1, 2, 150}) {
    const auto in = random_inputs<float>({.n_q = n_q, .n_k = 5003, .d = 9, .d_v = 7});
    for (const Index leaf : {0, 5, 15}) {
      const TfAttention<float> tf{tree_to_leaf<float>(4, leaf, 9)};
      for (const Causal causal : {Causal::none, Causal::bottom_right}) {
        const AttentionOptions options{.mask = {.causal = causal}};
        const auto want = attend(in.q, in.k, in.v, options);
        const auto got = attend(in.q, in.k, in.v, options, tf);
        EXPECT_SAME_BITS(got.out, want.out);
        EXPECT_SAME_BITS(got.lse, want.lse);
      }
    }
  }
}

TEST(TfAttention, QueriesThatAreTheKeysAreRoutedOnce) {
  const Index n = 150, d = 8, levels = 3, n_heads = 2;
  const auto in = random_inputs<float>({.n_q = n, .d = n_heads * d, .d_v = n_heads * d});
  const Matrix<float> copy = in.q;
  const TfAttention<float> tf(fit_tree(in.q.leftCols(d), in.q.leftCols(d), {.height = levels}));
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> allowed =
      Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>::Constant(n, n, true);
  allowed.col(3).setConstant(false);  // a key that no query sees: as a query it is routed all the same
  for (const AttentionOptions& options : {AttentionOptions{}, AttentionOptions{.mask = {.allowed = allowed}}}) {
    FlopCounter once, twice;
    const auto got = multi_head_attend(in.q, in.q, in.v, {.n_heads = n_heads}, options, tf, {.flops = &once});
    const auto want = multi_head_attend(in.q, copy, in.v, {.n_heads = n_heads}, options, tf, {.flops = &twice});
    EXPECT_SAME_BITS(got.out, want.out);
    EXPECT_SAME_BITS(got.lse, want.lse);
    EXPECT_EQ(once.products(Phase::route), 2.0 * n * levels * d * n_heads);
    EXPECT_EQ(twice.products(Phase::route), 2 * once.products(Phase::route));
  }
  // The first rows alone are other queries than the keys.
  FlopCounter fewer;
  attend(in.q.topRows(9).leftCols(d), in.q.leftCols(d), in.v, {}, tf, {.flops = &fewer});
  EXPECT_EQ(fewer.products(Phase::route), 2.0 * (n + 9) * levels * d);
}

/// Queries turn one way and keys the other at the root.
TEST(TfAttention, QueriesInEmptyLeavesSeeTheDeepestAncestorWithKeys) {
  auto in = random_inputs<double>({.n_q = 40, .n_k = 70, .d = 3, .d_v = 4});
  Matrix<double> planes = Matrix<double>::Zero(7, 3);
  planes(0, 0) = planes(1, 1) = planes(2, 1) = 1;
  const DecisionTree<double> tree(planes, Vector<double>::Zero(7));
  in.q.col(0) = in.q.col(0).cwiseAbs();
  in.k.col(0) = -in.k.col(0).cwiseAbs().array() - 1.0;
  FlopCounter flops;
  const auto got = attend(in.q, in.k, in.v, {}, TfAttention<double>{tree}, {.flops = &flops});
  EXPECT_MATRIX_NEAR(got.out, attend(in.q, in.k, in.v).out, rounding_of(in).out);
  EXPECT_EQ(flops.exponentials(), 40.0 * 70.0) << "all keys, and not more";
}

TEST(TfAttention, DuplicateKeysAndZeroPlanesGiveExactAttention) {
  auto in = random_inputs<float>({.n_q = 50, .n_k = 90, .d = 8});
  for (Index j = 1; j < 90; ++j) in.k.row(j) = in.k.row(0);
  const auto want = attend(in.q, in.k, in.v);
  const DecisionTree<float> zero(Matrix<float>::Zero(7, 8).eval(), Vector<float>::Zero(7).eval());
  const auto of_zero = attend(in.q, in.k, in.v, {}, TfAttention<float>{zero});
  EXPECT_SAME_BITS(of_zero.out, want.out);
  const auto medians = random_tree<float>(3, 8, 4, {.biases = TreeBiases::key_medians});
  in.q = in.k.topRows(50);
  const auto duplicates = attend(in.q, in.k, in.v, {}, TfAttention<float>{medians});
  EXPECT_MATRIX_NEAR(duplicates.out, attend(in.q, in.k, in.v).out, rounding_of(in).out);
}

TEST(TfAttention, UnitesTheLeavesOfThreeTreesAndEveryPairCountsOnce) {
  for (const auto& [n_q, n_k] : {std::array<Index, 2>{113, 203}, {1, 40}, {65, 65}, {0, 5}, {5, 0}}) {
    const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = 9, .d_v = 7});
    const std::vector<DecisionTree<double>> trees{random_tree<double>(3, 9, 1), random_tree<double>(2, 9, 2),
                                                  random_tree<double>(4, 9, 3)};
    const OptionStore store(n_q, n_k);
    for (const TfOptions& tf : {TfOptions{}, near}) {
      const TfAttention<double> method{trees, tf};
      EXPECT_EQ(method.trees().size(), 3u);
      EXPECT_SAME_BITS(method.tree().planes(), trees[0].planes());
      for (const OptionKind& kind : option_kinds(store)) {
        SCOPED_TRACE(std::string(kind.name));
        const AttentionOptions options = options_of(store, kind);
        PairMatrix pairs = PairMatrix::Constant(n_q, n_k, false);
        for (const auto& tree : trees) pairs = PairMatrix(pairs.array() || pairs_of_tree(tree, in, options).array());
        double kept = 0;
        for (Index i = 0; i < n_q; ++i) {
          for (Index j = 0; j < n_k; ++j) {
            pairs(i, j) = pairs(i, j) || is_near(options.mask, i, j, n_q, n_k, tf.window_left.value_or(-1), tf.n_sinks);
            pairs(i, j) = pairs(i, j) && heed::detail::reference_pair(options.mask, i, j, n_q, n_k, 0).kept;
            kept += pairs(i, j) ? 1 : 0;
          }
        }
        AttentionOptions allowed = options;
        allowed.mask.allowed = pairs;
        const auto want = reference_attention(in.q, in.k, in.v, allowed);
        FlopCounter flops;
        const auto got = attend(in.q, in.k, in.v, options, method, {.flops = &flops});
        EXPECT_MATRIX_NEAR(got.out, want.out, 1e-13);
        EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-13);
        EXPECT_EQ(flops.exponentials(), kept);
      }
      EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, method, {.threads = 3}).out,
                       attend(in.q, in.k, in.v, {}, method, {.threads = 1}).out);
    }
    // The same tree twice is that tree, and a tree of one leaf sees all.
    const TfAttention<double> twice{std::vector{trees[0], trees[0]}},
        dense{std::vector{trees[0], DecisionTree<double>()}};
    EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, twice).out,
                     attend(in.q, in.k, in.v, {}, TfAttention<double>{trees[0]}).out);
    EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, dense).out, attend(in.q, in.k, in.v).out);
  }
}

TEST(TfAttention, ImportanceAndMonteCarloValuesGoOverAUnion) {
  const auto in = random_inputs<double>({.n_q = 37, .n_k = 53, .d = 8, .d_v = 6});
  const std::vector<DecisionTree<double>> trees{random_tree<double>(3, 8, 1), random_tree<double>(2, 8, 2)};
  const TfAttention<double> tf{trees, near};
  PairMatrix pairs = PairMatrix(pairs_of_tree(trees[0], in, {}).array() || pairs_of_tree(trees[1], in, {}).array());
  for (Index i = 0; i < 37; ++i) {
    for (Index j = 0; j < 53; ++j)
      pairs(i, j) = pairs(i, j) || is_near({}, i, j, 37, 53, *near.window_left, near.n_sinks);
  }
  const AttentionOptions allowed{.mask = {.allowed = pairs}};
  const Matrix<double> identity = Matrix<double>::Identity(53, 53);
  const Matrix<double> weights = reference_attention(in.q, in.k, identity, allowed).out;
  const auto importance = key_importance(in.q, in.k, {}, tf);
  EXPECT_MATRIX_NEAR(importance.largest, weights.colwise().maxCoeff().transpose().eval(), 1e-13);
  const Matrix<double> x = random_matrix<double>(53, 12, 4), w_v = random_matrix<double>(12, 6, 5);
  const MonteCarloValues<double> all(x, w_v, {.budget = Budget::column_norm, .fraction = 1.0});
  EXPECT_MATRIX_NEAR(attend(in.q, in.k, all, {}, tf).out,
                     reference_attention(in.q, in.k, (x * w_v).eval(), allowed).out, 1e-12);
}

TEST(TfAttention, TakesATreePerHeadAndChecksAllBeforeItWrites) {
  const Index n_heads = 3, d = 6;
  const auto in = random_inputs<float>({.n_q = 41, .n_k = 77, .d = n_heads * d, .d_v = n_heads * 5});
  std::vector<TfAttention<float>> methods;
  for (Index h = 0; h < n_heads; ++h) methods.emplace_back(random_tree<float>(h, d, static_cast<std::uint64_t>(h)));
  const auto got = multi_head_attend(in.q, in.k, in.v, {.n_heads = n_heads}, {}, methods);
  for (Index h = 0; h < n_heads; ++h) {
    const auto want = attend(in.q.middleCols(h * d, d), in.k.middleCols(h * d, d), in.v.middleCols(h * 5, 5), {},
                             methods[static_cast<std::size_t>(h)]);
    EXPECT_SAME_BITS(got.out.middleCols(h * 5, 5).eval(), want.out);
    EXPECT_SAME_BITS(got.lse.col(h).eval(), want.lse);
  }
  methods.back() = TfAttention<float>(random_tree<float>(2, d + 1));
  Matrix<float> out = Matrix<float>::Constant(41, n_heads * 5, 7.0f), lse = Matrix<float>::Constant(41, n_heads, 7.0f);
  EXPECT_THROW(multi_head_attend_into(out, lse, in.q, in.k, in.v, {.n_heads = n_heads}, {}, methods), ShapeError);
  EXPECT_TRUE((out.array() == 7.0f).all() && (lse.array() == 7.0f).all());
}

TEST(TfAttention, TakesATreePerKeyHead) {
  const Index n_heads = 6, n_kv_heads = 2, d = 6, d_in = 10;
  const Matrix<float> q = random_matrix<float>(41, n_heads * d, 1), k = random_matrix<float>(77, n_kv_heads * d, 2),
                      v = random_matrix<float>(77, n_kv_heads * 5, 3), x = random_matrix<float>(77, d_in, 4),
                      w_v = random_matrix<float>(d_in, n_kv_heads * 5, 5);
  const HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv_heads};
  const std::vector<TfAttention<float>> trees{TfAttention<float>(random_tree<float>(2, d, 1)),
                                              TfAttention<float>(random_tree<float>(3, d, 2))};
  std::vector<TfAttention<float>> repeated;
  for (Index h = 0; h < n_heads; ++h) repeated.push_back(trees[static_cast<std::size_t>(h / 3)]);
  FlopCounter shared, apart;
  const auto got = multi_head_attend(q, k, v, heads, {}, trees, {.flops = &shared}),
             want = multi_head_attend(q, k, v, heads, {}, repeated, {.flops = &apart});
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
  EXPECT_EQ(shared.products(Phase::scores), apart.products(Phase::scores));
  // Keys are routed once for the heads that share them, and counted for each.
  for (const FlopCounter* flops : {&shared, &apart})
    EXPECT_EQ(flops->products(Phase::route), 2.0 * d * 3 * (2 + 3) * (41 + 77));
  const MonteCarloOptions options{.budget = Budget::column_norm, .fraction = 0.5, .path = ValuePath::sampled};
  const MonteCarloValues<float> sampled(x, w_v, options);
  EXPECT_SAME_BITS(multi_head_attend(q, k, sampled, heads, {}, trees).out,
                   multi_head_attend(q, k, sampled, heads, {}, repeated).out);
  // A list of equals is the method itself; TC-attention also says what its keys weigh.
  const TcAttention<float> path{random_tree<float>(2, d, 3), random_matrix<float>(3, 1, 6).col(0).eval()};
  EXPECT_SAME_BITS(multi_head_attend(q, k, v, heads, {}, std::vector{trees[0], trees[0]}).out,
                   multi_head_attend(q, k, v, heads, {}, trees[0]).out);
  EXPECT_SAME_BITS(multi_head_attend(q, k, sampled, heads, {}, std::vector{path, path}).out,
                   multi_head_attend(q, k, sampled, heads, {}, path).out);
  KeyValueCache<float> cache(d, 5, n_kv_heads);
  cache.append(k, v);
  EXPECT_SAME_BITS(attend(q, cache, {}, trees).out, want.out);
  EXPECT_THROW(attend(q, cache, {}, std::vector<TfAttention<float>>(3, trees[0])), OptionError);
  EXPECT_THROW(multi_head_attend(q, k, v, heads, {}, std::vector<TfAttention<float>>(3, trees[0])), OptionError);
}

TEST(TfAttention, AFloatTreeServesSixteenBitTokens) {
  const auto in = random_inputs<Eigen::bfloat16>({.n_q = 41, .n_k = 77, .d = 8});
  const DecisionTree<float> tree = random_tree<float>(2, 8);
  const DecisionTree<Eigen::bfloat16> own(tree.planes(), tree.biases());
  const auto want = attend(in.q, in.k, in.v, {}, TfAttention<Eigen::bfloat16>{own});
  EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, TfAttention<float>{tree}).out, want.out);
}

TEST(TfAttention, RefusesWhatItCannotMean) {
  const auto in = random_inputs<float>({.n_q = 20, .n_k = 20, .d = 8});
  const auto said = [](const auto& run) -> std::string {
    try {
      run();
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
    return "nothing";
  };
  const DecisionTree<float> tree = random_tree<float>(2, 8);
  EXPECT_EQ(said([&] { TfAttention<float>(tree, {.window_left = -1}); }),
            "heed: TfOptions::window_left = -1 must be >= 0");
  EXPECT_EQ(said([&] { TfAttention<float>(tree, {.n_sinks = -2}); }), "heed: TfOptions::n_sinks = -2 must be >= 0");
  EXPECT_EQ(said([&] { TfAttention<float>(tree, {.leaf_cap = 0}); }), "heed: TfOptions::leaf_cap = 0 must be >= 1");
  EXPECT_EQ(said([&] { attend(in.q, in.k, in.v, {}, TfAttention<float>(random_tree<float>(2, 7))); }),
            "heed: cols(q) = 8 but the tree has planes of 7 entries");
  EXPECT_NE(said([&] { TfAttention<float>(std::vector<DecisionTree<float>>{}); }).find("at least 1"),
            std::string::npos);
  EXPECT_NE(said([&] {
              TfAttention<float>(std::vector{tree, tree}, {.leaf_cap = 4});
            }).find("leaf_cap = 4"),
            std::string::npos);
  EXPECT_NE(said([&] {
              TfAttention<float>(std::vector{tree, random_tree<float>(2, 7)});
            }).find("of 8 and of 7"),
            std::string::npos);
  const TfAttention<float> medians{random_tree<float>(2, 8, 1, {.biases = TreeBiases::key_medians})};
  EXPECT_NE(said([&] { attend(in.q, in.k, in.v, {.mask = {.causal = Causal::square}}, medians); }).find("Mask::causal"),
            std::string::npos);
  const std::vector<Index> offsets{0, 7, 20};
  EXPECT_NE(said([&] {
              attend(in.q, in.k, in.v, {.mask = {.sequence_offsets = offsets}}, medians);
            }).find("Mask::sequence_offsets"),
            std::string::npos);
}

TEST(TfAttention, OverflowOfALeafStandsAsOneCentroid) {
  const auto in = random_inputs<double>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  const OptionStore store(65, 113);
  const DecisionTree<double> tree = random_tree<double>(2, 9);
  std::vector<OptionKind> kinds = option_kinds(store);
  for (const TfOptions& tf : {TfOptions{.leaf_cap = 4}, TfOptions{.window_left = 6, .n_sinks = 3, .leaf_cap = 9}}) {
    for (const OptionKind& a : kinds) {
      for (const OptionKind& b : kinds) {
        if (!fit_together(a, b)) continue;
        SCOPED_TRACE(std::string(a.name) + " and " + std::string(b.name));
        const AttentionOptions options = options_of(store, a, b);
        const TfAnswer want = tf_formula(tree, tf, in, options);
        FlopCounter flops;
        const auto got = attend(in.q, in.k, in.v, options, TfAttention<double>(tree, tf), {.flops = &flops});
        EXPECT_MATRIX_NEAR(got.out, want.result.out, 1e-13);
        EXPECT_MATRIX_NEAR(got.lse, want.result.lse, 1e-13);
        EXPECT_EQ(flops.products(Phase::far_field), 2.0 * (9 + 7) * want.centroids);
        EXPECT_EQ(flops.exponentials(), want.pairs + want.centroids);
      }
    }
  }
}

TEST(TfAttention, ACapNoLeafReachesChangesNoBit) {
  const auto in = random_inputs<float>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  const auto want = attend(in.q, in.k, in.v, {}, TfAttention<float>{tree_for(in)});
  const auto got = attend(in.q, in.k, in.v, {}, TfAttention<float>{tree_for(in), {.leaf_cap = 113}});
  EXPECT_SAME_BITS(got.out, want.out);
}

TEST(TfAttention, CapsChangeNoBitWithThreadsAndAllocateNothingTwice) {
  const auto in = random_inputs<float>({.n_q = 613, .n_k = 933, .d = 40, .d_v = 24});
  const TfAttention<float> tf{random_tree<float>(3, 40), {.window_left = 20, .leaf_cap = 30}};
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
  Workspace workspace;
  const auto want = attend(in.q, in.k, in.v, options, tf, {.threads = 1});
  for (const Index threads : {1, 2, 5}) {
    const auto got = attend(in.q, in.k, in.v, options, tf, {.workspace = &workspace, .threads = threads});
    EXPECT_SAME_BITS(got.out, want.out);
    EXPECT_SAME_BITS(got.lse, want.lse);
  }
  const std::size_t bytes = workspace.bytes();
  attend(in.q, in.k, in.v, options, tf, {.workspace = &workspace, .threads = 5});
  EXPECT_EQ(workspace.bytes(), bytes);
}

}  // namespace
}  // namespace heed::test::tf_attention
