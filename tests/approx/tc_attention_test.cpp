#include "heed/approx/tc_attention.hpp"

#include <algorithm>
#include <cmath>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include <gtest/gtest.h>

#include "heed/approx/tc_state.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/conformance.hpp"
#include "support/tc_formula.hpp"
#include "support/trees.hpp"

namespace heed::test::tc_attention {
namespace {

constexpr Index height = 3;

template <class S>
Vector<Accumulator<S>> some_logits(Index levels) {
  Vector<Accumulator<S>> logits(levels);
  for (Index t = 0; t < levels; ++t) logits(t) = static_cast<Accumulator<S>>(0.3 * static_cast<double>(t * t) - 0.7);
  return logits;
}
template <class S>
TcAttention<S> tc_for(const Inputs<S>& in, const TcOptions& options) {
  return TcAttention<S>(random_tree<S>(height, in.q.cols()), some_logits<S>(height + 1), options);
}
constexpr auto published = []<class S>(const Inputs<S>& in) { return tc_for<S>(in, {}); };
constexpr auto by_query = []<class S>(const Inputs<S>& in) { return tc_for<S>(in, {.by_query = true}); };
constexpr auto lifted = []<class S>(const Inputs<S>& in) {
  const Index d = in.q.cols();
  return TcAttention<S>(random_tree<S>(height, d, 2, {.lift = random_lift<S>(height, d)}), some_logits<S>(height + 1),
                        {.by_query = true});
};

constexpr auto published_formula = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return tc_formula(published(in), in, options);
};
constexpr auto by_query_formula = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return tc_formula(by_query(in), in, options);
};
constexpr auto lifted_formula = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return tc_formula(lifted(in), in, options);
};

FlopCounter published_flops(const FlopCase& sizes) { return tc_flops(sizes, published(sizes.in)); }
FlopCounter published_backward_flops(const FlopCase& sizes) { return tc_backward_flops(sizes, published(sizes.in)); }
FlopCounter by_query_flops(const FlopCase& sizes) { return tc_flops(sizes, by_query(sizes.in)); }
FlopCounter by_query_backward_flops(const FlopCase& sizes) { return tc_backward_flops(sizes, by_query(sizes.in)); }
FlopCounter lifted_flops(const FlopCase& sizes) { return tc_flops(sizes, lifted(sizes.in)); }
FlopCounter lifted_backward_flops(const FlopCase& sizes) { return tc_backward_flops(sizes, lifted(sizes.in)); }

INSTANTIATE_METHOD_SUITE(TcAttention, {.make = published,
                                       .expected = published_formula,
                                       .flops = published_flops,
                                       .backward_flops = published_backward_flops,
                                       .supports = tc_supports,
                                       .has_softmax = false,
                                       .reads_keys_to_choose = true,
                                       .shows_nan_of_queries = false});
INSTANTIATE_METHOD_SUITE(TcAttentionByQuery, {.make = by_query,
                                              .expected = by_query_formula,
                                              .flops = by_query_flops,
                                              .backward_flops = by_query_backward_flops,
                                              .supports = tc_supports,
                                              .has_softmax = false,
                                              .reads_keys_to_choose = true});
INSTANTIATE_METHOD_SUITE(TcAttentionLifted, {.make = lifted,
                                             .expected = lifted_formula,
                                             .flops = lifted_flops,
                                             .backward_flops = lifted_backward_flops,
                                             .supports = tc_supports,
                                             .has_softmax = false,
                                             .reads_keys_to_choose = true});

/// The suite's tolerance is that of softmax attention, which TC is not.
TEST(TcAttention, EqualsItsFormulaToRounding) {
  for (const bool query : {false, true}) {
    for (const Sizes& sizes : {Sizes{.n_q = 65, .n_k = 113, .d = 9, .d_v = 7}, Sizes{.n_q = 1, .n_k = 1, .d = 4},
                               Sizes{.n_q = 203, .n_k = 64, .d = 33, .d_v = 40}, Sizes{.n_q = 64, .n_k = 64}}) {
      const auto in = random_inputs<double>(sizes);
      const OptionStore store(in.q.rows(), in.k.rows());
      const TcAttention<double> tc = tc_for(in, {.by_query = query});
      for (const OptionKind& a : option_kinds(store)) {
        for (const OptionKind& b : option_kinds(store)) {
          if (!tc_supports(a.name) || !tc_supports(b.name) || !fit_together(a, b)) continue;
          SCOPED_TRACE(std::string(a.name) + " and " + std::string(b.name));
          const AttentionOptions options = options_of(store, a, b);
          for (const Index threads : {1, 3}) {
            const auto got = attend(in.q, in.k, in.v, options, tc, {.threads = threads});
            EXPECT_MATRIX_NEAR(got.out, tc_formula(tc, in, options).out, 2e-14);
            EXPECT_EQ(got.lse.size(), 0);
          }
        }
      }
    }
  }
}

/// Medians are those of the keys that some query sees, lifted where the tree has a lift.
TEST(TcAttention, TakesMediansOfTheKeysOfTheCall) {
  const auto in = random_inputs<double>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  for (const bool lift : {false, true}) {
    TreeOptions<double> of_tree{.biases = TreeBiases::key_medians};
    if (lift) of_tree.lift = random_lift<double>(height, 9);
    for (const bool query : {false, true}) {
      const TcAttention<double> tc(random_tree<double>(height, 9, 5, of_tree), some_logits<double>(height + 1),
                                   {.by_query = query});
      for (const Index n_real : {Mask::unlimited, Index(70), Index(1), Index(0)}) {
        const AttentionOptions options{.mask = {.n_real_keys = n_real}};
        EXPECT_MATRIX_NEAR(attend(in.q, in.k, in.v, options, tc).out, tc_formula(tc, in, options).out, 2e-14);
      }
    }
  }
}

TEST(TcAttention, HeightZeroIsMeanPooling) {
  const auto in = random_inputs<double>({.n_q = 20, .n_k = 30, .d = 5, .d_v = 6});
  const TcAttention<double> tc{DecisionTree<double>(), Vector<double>::Zero(1).eval()};
  const auto got = attend(in.q, in.k, in.v, {}, tc);
  const Eigen::RowVectorXd mean = in.v.colwise().mean();
  for (Index i = 0; i < 20; ++i) EXPECT_MATRIX_NEAR(got.out.row(i).eval(), mean, 1e-15);
}

TEST(TcAttention, ALevelOfMinusInfinityIsOff) {
  const auto in = random_inputs<double>({.n_q = 40, .n_k = 60, .d = 5, .d_v = 6});
  const DecisionTree<double> tree = random_tree<double>(1, 5);
  Vector<double> logits(2);
  logits << 0.0, minus_infinity_of<double>();
  const auto root_alone = attend(in.q, in.k, in.v, {}, TcAttention<double>{tree, logits});
  const Eigen::RowVectorXd mean = in.v.colwise().mean();
  for (Index i = 0; i < 40; ++i) EXPECT_MATRIX_NEAR(root_alone.out.row(i).eval(), mean, 1e-14);
}

/// Published weights, by query, and what they make of keys: over trees with empty nodes, logits of every size and
/// levels that are off.
TEST(TcAttention, LevelLogitsOfAnySizeWeighTheNodesThatHoldKeys) {
  const double sizes[] = {0, 5, -200, 1e30, -1e30, 1e38, -1e38, minus_infinity_of<double>()};
  NumberStream numbers(3);
  for (int trial = 0; trial < 60; ++trial) {
    const Index tree_height = trial % 2 == 0 ? 3 : 5;
    const auto in = random_inputs<double>({.n_q = 40, .n_k = 2 + numbers.below(20), .d = 5, .d_v = 6});
    Vector<double> logits(tree_height + 1);
    for (Index t = 0; t <= tree_height; ++t) logits(t) = sizes[numbers.below(8)];
    const OptionStore store(40, in.k.rows());
    for (const bool query : {false, true}) {
      const TcAttention<double> tc(random_tree<double>(tree_height, 5), logits, {.by_query = query});
      const Inputs<float> single = in.cast<float>();
      const TcAttention<float> tc_single(random_tree<float>(tree_height, 5), logits.cast<float>(), {.by_query = query});
      for (const OptionKind& kind : option_kinds(store)) {
        if (!tc_supports(kind.name)) continue;
        std::ostringstream text;
        text << kind.name << (query ? ", by query, " : ", ") << logits.transpose();
        SCOPED_TRACE(text.str());
        const AttentionOptions options = options_of(store, kind);
        const Matrix<double> want = tc_formula(tc, in, options).out;
        EXPECT_MATRIX_NEAR(attend(in.q, in.k, in.v, options, tc).out, want, 2e-14);
        EXPECT_MATRIX_NEAR(attend(single.q, single.k, single.v, options, tc_single).out, want, 1e-5);
        Inputs<double> identity = in;  // A itself is the formula over the identity as values
        identity.v = Matrix<double>::Identity(in.k.rows(), in.k.rows());
        const Matrix<double> weights = tc_formula(tc, identity, options).out;
        const auto importance = key_importance(in.q, in.k, options, tc);
        for (Index j = 0; j < in.k.rows(); ++j) {
          EXPECT_NEAR(importance.largest(j), weights.col(j).maxCoeff(), 1e-14);
          EXPECT_NEAR(importance.norm(j), weights.col(j).norm(), 1e-14);
        }
      }
    }
  }
}

TEST(TcAttention, CountsWorkOnceHoweverManyThreadsShareIt) {
  const auto in = random_inputs<double>({.n_q = 300, .n_k = 400, .d = 5, .d_v = 70});
  for (const bool query : {false, true}) {
    const TcAttention<double> tc = tc_for(in, {.by_query = query});
    for (const Causal causal : {Causal::none, Causal::bottom_right, Causal::top_left}) {
      const AttentionOptions options{.mask = {.causal = causal, .n_real_keys = 390}};
      const FlopCounter want = PlainTc(tc, in, options).flops();
      for (const Index threads : {1, 2, 5}) {
        FlopCounter got;
        attend(in.q, in.k, in.v, options, tc, {.flops = &got, .threads = threads});
        for (const Phase phase : {Phase::route, Phase::scores, Phase::values})
          EXPECT_EQ(got.products(phase), want.products(phase)) << threads;
        EXPECT_EQ(got.exponentials(), want.exponentials()) << threads;
      }
    }
  }
}

/// A level that is off is not read, whatever its node holds; one whose weight rounds to 0 is.
TEST(TcAttention, NanShowsThroughAWeightThatUnderflowsButNotThroughALevelThatIsOff) {
  Matrix<float> q = Matrix<float>::Constant(6, 1, 1.0f), k = Matrix<float>::Constant(8, 1, 1.0f), v(8, 2);
  v.setRandom();
  k.topRows(3).setConstant(-1.0f);  // in the other leaf
  v(1, 0) = nan_of<float>();
  const DecisionTree<float> tree(Matrix<float>::Ones(1, 1), Vector<float>::Zero(1).eval());
  const Matrix<float> poisoned = [&] {
    Matrix<float> keys = k;
    keys(1, 0) = nan_of<float>();  // NaN goes to the first child: to where it was
    return keys;
  }();
  for (const bool query : {false, true}) {
    for (const Causal causal : {Causal::none, Causal::bottom_right}) {
      const AttentionOptions options{.mask = {.causal = causal}};
      const auto out = [&](const Matrix<float>& keys, double root_logit) {
        const Vector<float> logits{{static_cast<float>(root_logit), 0.0f}};
        return attend(q, keys, v, options, TcAttention<float>(tree, logits, {.by_query = query})).out;
      };
      const Matrix<float> underflows = out(k, -300), off = out(k, minus_infinity_of<double>());
      const Matrix<float> off_and_poisoned = out(poisoned, minus_infinity_of<double>());
      for (Index i = 0; i < 6; ++i) {
        EXPECT_TRUE(is_nan(underflows(i, 0)));
        EXPECT_FALSE(is_nan(underflows(i, 1)));
      }
      EXPECT_TRUE(off.allFinite());
      EXPECT_SAME_BITS(off_and_poisoned, off);
    }
  }
}

TEST(TcAttention, DecodingGivesTheRowsOfTheCausalPassBitForBit) {
  for (const bool query : {false, true}) {
    const auto in = random_inputs<float>({.n_q = 90, .n_k = 90, .d = 9, .d_v = 7});
    const TcAttention<float> tc = tc_for(in, {.by_query = query});
    const auto want = attend(in.q, in.k, in.v, {.mask = {.causal = Causal::square}}, tc, {.threads = 1});
    TcState<float> state(tc, 7);
    state.append(in.k.topRows(10), in.v.topRows(10));
    for (Index i = 9; i < 90; ++i) {
      if (i > 9) state.append(in.k.row(i), in.v.row(i));
      EXPECT_EQ(state.size(), i + 1);
      EXPECT_SAME_BITS(state.attend(in.q.row(i)), want.out.row(i).eval());
    }
    EXPECT_THROW(state.append(in.k.leftCols(8), in.v), ShapeError);
    EXPECT_EQ(state.size(), 90);
  }
}

TEST(TcAttention, LeavesLseEmptyOverHeadsToo) {
  const auto in = random_inputs<float>({.n_q = 12, .n_k = 20, .d = 8, .d_v = 6});
  const TcAttention<float> tc{random_tree<float>(2, 4), some_logits<float>(3)};
  const auto got = multi_head_attend(in.q, in.k, in.v, {.n_heads = 2}, {}, tc);
  EXPECT_EQ(got.lse.size(), 0);
  EXPECT_SAME_BITS(got.out.leftCols(3).eval(),
                   attend(in.q.leftCols(4), in.k.leftCols(4), in.v.leftCols(3), {}, tc).out);
}

TEST(TcAttention, RunsOverACacheWithoutAnLse) {
  const auto in = random_inputs<float>({.n_q = 3, .n_k = 40, .d = 8, .d_v = 8});
  KeyValueCache<Eigen::bfloat16> cache(8);
  cache.append(in.k, in.v);
  const TcAttention<float> tc{random_tree<float>(2, 8), some_logits<float>(3)};
  const auto got = attend(in.q, cache, {}, tc);
  EXPECT_EQ(got.lse.size(), 0);
  const Matrix<float> k = in.k.cast<Eigen::bfloat16>().cast<float>(), v = in.v.cast<Eigen::bfloat16>().cast<float>();
  EXPECT_SAME_BITS(got.out, attend(in.q, k, v, {}, tc).out);
  EXPECT_SAME_BITS(attend(in.q, cache, {}, TfAttention<float>{tc.tree()}).out,
                   attend(in.q, k, v, {}, TfAttention<float>{tc.tree()}).out);
}

TEST(TcAttention, RefusesWhatItCannotMean) {
  const auto in = random_inputs<float>({.n_q = 9, .n_k = 9, .d = 4});
  const DecisionTree<float> tree = random_tree<float>(2, 4);
  EXPECT_THROW((TcAttention<float>{tree, some_logits<float>(4)}), ShapeError);
  Vector<float> bad = some_logits<float>(3);
  bad(1) = nan_of<float>();
  EXPECT_THROW((TcAttention<float>{tree, bad}), OptionError);
  for (const double beyond : {1e39, -1e39, infinity_of<double>()}) {
    Vector<double> wide = some_logits<double>(3);
    wide(1) = beyond;
    EXPECT_THROW((TcAttention<float>{tree, wide}), OptionError);
    EXPECT_THROW((TcAttention<float>{tree, wide.transpose()}), OptionError);
  }
  TcAttention<float> tc{tree, some_logits<float>(3)};
  EXPECT_THROW(tc.set_numbers(tree.planes(), tree.biases(), bad), OptionError);
  EXPECT_THROW(tc.set_numbers(tree.planes(), tree.biases(), some_logits<float>(4)), ShapeError);
  EXPECT_THROW(tc.set_numbers(tree.planes().topRows(1), tree.biases().head(1), Vector<float>::Zero(3).eval()),
               ShapeError);
  EXPECT_EQ(tc.level_logits(), some_logits<float>(3));
  const OptionStore store(9, 9);
  for (const OptionKind& kind : option_kinds(store)) {
    SCOPED_TRACE(kind.name);
    if (tc_supports(kind.name)) {
      EXPECT_NO_THROW(attend(in.q, in.k, in.v, options_of(store, kind), tc));
    } else {
      EXPECT_THROW(attend(in.q, in.k, in.v, options_of(store, kind), tc), OptionError);
    }
  }
}

}  // namespace
}  // namespace heed::test::tc_attention
