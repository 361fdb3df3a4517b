#include <array>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference_backward.hpp"
#include "heed/trees/fit_tree.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/strided.hpp"

namespace heed::test {
namespace {

/// Largest difference over the largest entry: what rounding of sums in the scalar may make of it.
template <class Got, class Want>
double off(const Got& got, const Want& want) {
  double largest = 1e-3, difference = 0;
  EXPECT_EQ(got.rows(), want.rows());
  EXPECT_EQ(got.cols(), want.cols());
  for (Index i = 0; i < want.rows(); ++i) {
    for (Index c = 0; c < want.cols(); ++c) {
      const double x = static_cast<double>(got(i, c)), y = static_cast<double>(want(i, c));
      if (!std::isfinite(x)) return HUGE_VAL;
      largest = std::max(largest, std::abs(y));
      difference = std::max(difference, std::abs(x - y));
    }
  }
  return difference / largest;
}

/// A few units in the last place: of the stored gradient, and of weights that bfloat16 products round.
template <class S>
constexpr double tolerance() {
  if constexpr (std::is_same_v<S, double>) return 1e-13;
  if constexpr (std::is_same_v<S, float>) return 1e-5;
  if constexpr (std::is_same_v<S, Eigen::half>) return 2e-3;
  return 1.6e-2;
}

template <class S, class Grads>
void expect_gradients(const Grads& got, const AttentionGradients<double>& want) {
  EXPECT_LT(off(got.d_q, want.d_q), tolerance<S>());
  EXPECT_LT(off(got.d_k, want.d_k), tolerance<S>());
  EXPECT_LT(off(got.d_v, want.d_v), tolerance<S>());
}

/// Softens a score, and says how much.
struct SofteningFunctor {
  template <class T>
  T operator()(T s, Index i, Index j) const {
    return (i + j) % 5 == 0 ? s : s / 2 + std::sin(s) / 4;
  }
  template <class T>
  T derivative(T s, Index i, Index j) const {
    return (i + j) % 5 == 0 ? T(1) : T(0.5) + std::cos(s) / 4;
  }
};

template <class S>
class AttendBackward : public testing::Test {};
using Scalars = testing::Types<float, double, Eigen::half, Eigen::bfloat16>;
TYPED_TEST_SUITE(AttendBackward, Scalars);

TYPED_TEST(AttendBackward, AgreesWithTheOracleUnderEveryOptionAndPairOfOptions) {
  using S = TypeParam;
  for (const auto& [n_q, n_k, d, d_v] : {std::array<Index, 4>{65, 65, 17, 9}, {113, 203, 8, 33}, {1, 130, 4, 4}}) {
    const auto in = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v});
    const auto wide = in.template cast<double>();
    const Matrix<S> d_out = random_matrix<S>(n_q, d_v, 77);
    const Matrix<Accumulator<S>> d_lse = random_matrix<Accumulator<S>>(n_q, 1, 78);
    const OptionStore store(n_q, n_k);
    const auto check = [&](const AttentionOptions& options) {
      BackwardOptions backward;
      backward.d_lse = d_lse;
      backward.bias = true;
      const auto r = attend(in.q, in.k, in.v, options);
      const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, ExactAttention<>{}, {}, backward);
      const auto want = reference_attention_backward(d_out.template cast<double>().eval(), wide.q, wide.k, wide.v,
                                                     options, NoScoreMod{}, backward);
      expect_gradients<S>(got, want);
      ASSERT_EQ(got.d_bias.size(), want.d_bias.size());
      if (want.d_bias.size() > 0) {
        EXPECT_LT(off(got.d_bias, want.d_bias), tolerance<S>());
      }
      ASSERT_EQ(got.d_sinks.size(), want.d_sinks.size());
      if (want.d_sinks.size() > 0) {
        // A sum of sink weights, e^(sink - lse) <= 1, times d_out . out - d_lse. out and lse were rounded: terms may
        // cancel, their rounding does not.
        const double terms =
            (d_out.template cast<double>().array() * r.out.template cast<double>().array()).abs().sum() +
            d_lse.template cast<double>().array().abs().sum();
        const double of_lse = static_cast<double>(std::numeric_limits<Accumulator<S>>::epsilon()) *
                              r.lse.template cast<double>().cwiseAbs().maxCoeff();
        EXPECT_NEAR(got.d_sinks(0), want.d_sinks(0), (0.25 * tolerance<S>() + of_lse) * terms);
      }
    };
    check({});
    const auto kinds = option_kinds(store);
    for (const OptionKind& kind : kinds) {
      SCOPED_TRACE(std::string(kind.name));
      check(options_of(store, kind));
      for (const OptionKind& other : kinds) {
        if (n_q == 65 && kind.name < other.name && fit_together(kind, other)) {
          SCOPED_TRACE(std::string(other.name));
          check(options_of(store, kind, other));
        }
      }
    }
  }
}

TYPED_TEST(AttendBackward, AFunctorBringsItsDerivative) {
  using S = TypeParam;
  const auto in = random_inputs<S>({.n_q = 70, .n_k = 90, .d = 8});
  const auto wide = in.template cast<double>();
  const Matrix<S> d_out = random_matrix<S>(70, 8, 7);
  const ExactAttention method{SofteningFunctor{}};
  for (const AttentionOptions& options :
       {AttentionOptions{}, AttentionOptions{.mask = {.causal = Causal::bottom_right}, .softcap = 2.0}}) {
    const auto r = attend(in.q, in.k, in.v, options, method);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method);
    expect_gradients<S>(got, reference_attention_backward(d_out.template cast<double>().eval(), wide.q, wide.k, wide.v,
                                                          options, SofteningFunctor{}));
  }
}

TYPED_TEST(AttendBackward, ManyBlocksGiveTheSameBitsForAnyThreads) {
  using S = TypeParam;
  const auto in = random_inputs<S>({.n_q = 700, .n_k = 900, .d = 12, .d_v = 5});
  const auto wide = in.template cast<double>();
  const Matrix<S> d_out = random_matrix<S>(700, 5, 7);
  for (const Causal causal : {Causal::none, Causal::bottom_right}) {
    const AttentionOptions options{.mask = {.causal = causal}};
    const auto r = attend(in.q, in.k, in.v, options);
    const auto one = attend_backward(d_out, in.q, in.k, in.v, r, options, ExactAttention<>{}, {.threads = 1});
    expect_gradients<S>(
        one, reference_attention_backward(d_out.template cast<double>().eval(), wide.q, wide.k, wide.v, options));
    for (const int threads : {2, 3, 4}) {
      const auto many = attend_backward(d_out, in.q, in.k, in.v, r, options, ExactAttention<>{}, {.threads = threads});
      EXPECT_SAME_BITS(many.d_q, one.d_q);
      EXPECT_SAME_BITS(many.d_k, one.d_k);
      EXPECT_SAME_BITS(many.d_v, one.d_v);
    }
  }
}

TYPED_TEST(AttendBackward, AnyLayoutGivesTheSameBitsAndTouchesNothingElse) {
  using S = TypeParam;
  const auto in = random_inputs<S>({.n_q = 50, .n_k = 70, .d = 9, .d_v = 11});
  const Matrix<S> d_out = random_matrix<S>(50, 11, 7);
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
  const auto r = attend(in.q, in.k, in.v, options);
  const auto want = attend_backward(d_out, in.q, in.k, in.v, r, options);
  struct Maps {
    HeadMap<S> d_q, d_k, d_v;
  };
  for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
    const Strided<S> q(in.q, layout), k(in.k, layout), v(in.v, layout), g(d_out, layout), out(r.out, layout);
    Strided<S> d_q(50, 9, layout), d_k(70, 9, layout), d_v(70, 11, layout);
    Maps grads{d_q.map(), d_k.map(), d_v.map()};
    attend_backward_into(grads, g.map(), q.map(), k.map(), v.map(), out.map(), r.lse, options);
    EXPECT_SAME_BITS(d_q.map(), want.d_q);
    EXPECT_SAME_BITS(d_k.map(), want.d_k);
    EXPECT_SAME_BITS(d_v.map(), want.d_v);
    EXPECT_TRUE(d_q.surroundings_untouched() && d_k.surroundings_untouched() && d_v.surroundings_untouched());
  }
}

TYPED_TEST(AttendBackward, GroupedHeadsGiveTheirKeysTheSumOfAll) {
  using S = TypeParam;
  constexpr Index n_q = 40, n_k = 60, d = 8, d_v = 4, n_heads = 6, n_kv = 2;
  const Matrix<S> q = random_matrix<S>(n_q, n_heads * d, 1), k = random_matrix<S>(n_k, n_kv * d, 2),
                  v = random_matrix<S>(n_k, n_kv * d_v, 3), d_out = random_matrix<S>(n_q, n_heads * d_v, 4);
  const OptionStore store(n_q, n_k, n_heads);
  const Matrix<float> shared = store.bias.topRows(n_q), rows = store.bias.topRows(n_heads);
  const auto tensor = [](const Matrix<float>& m, Index heads, Index n_rows) {
    return BiasView(heads_first<const float>(m.data(), 1, heads, n_rows, n_k));
  };
  // Each with how many rows a head has and how many heads have rows of their own.
  const std::vector<std::tuple<BiasView, Index, Index>> biases{{shared, n_q, 1},
                                                               {store.bias, n_q, n_heads},
                                                               {store.bias_row, 1, 1},
                                                               {tensor(store.bias, n_heads, n_q), n_q, n_heads},
                                                               {tensor(rows, n_heads, 1), 1, n_heads},
                                                               {tensor(shared, 1, n_q), n_q, 1},
                                                               {tensor(shared, 1, 1), 1, 1}};
  for (const auto& [bias, n_rows, own_heads] : biases) {
    SCOPED_TRACE(testing::Message() << n_rows << " rows of the bias for each of " << own_heads << " heads");
    const AttentionOptions options{.mask = {.bias = bias, .alibi_slope = store.slopes}, .sinks = store.sinks};
    const HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv};
    BackwardOptions backward;
    backward.bias = true;
    const auto r = multi_head_attend(q, k, v, heads, options);
    const auto got =
        multi_head_attend_backward(d_out, q, k, v, r, heads, options, ExactAttention<>{}, {.threads = 2}, backward);
    AttentionGradients<double> want;
    want.d_q.setZero(n_q, n_heads * d);
    want.d_k.setZero(n_k, n_kv * d);
    want.d_v.setZero(n_k, n_kv * d_v);
    want.d_bias.setZero(n_rows * own_heads, n_k);
    want.d_sinks.setZero(n_heads);
    const auto wide = [](const Matrix<S>& m, Index first, Index n) {
      return Matrix<double>(m.middleCols(first, n).template cast<double>());
    };
    for (Index h = 0; h < n_heads; ++h) {
      const Index kv = h / (n_heads / n_kv);
      const auto one = reference_attention_backward(wide(d_out, h * d_v, d_v), wide(q, h * d, d), wide(k, kv * d, d),
                                                    wide(v, kv * d_v, d_v), options, NoScoreMod{}, backward, h);
      want.d_q.middleCols(h * d, d) = one.d_q;
      want.d_k.middleCols(kv * d, d) += one.d_k;
      want.d_v.middleCols(kv * d_v, d_v) += one.d_v;
      want.d_bias.middleRows(own_heads > 1 ? h * n_rows : 0, n_rows) += one.d_bias;
      want.d_sinks(h) = one.d_sinks(0);
    }
    expect_gradients<S>(got, want);
    ASSERT_EQ(got.d_bias.rows(), want.d_bias.rows());
    EXPECT_LT(off(got.d_bias, want.d_bias), tolerance<S>());
    const auto alone =
        multi_head_attend_backward(d_out, q, k, v, r, heads, options, ExactAttention<>{}, {.threads = 1}, backward);
    EXPECT_SAME_BITS(alone.d_bias, got.d_bias);
    EXPECT_LT(off(got.d_sinks, want.d_sinks), tolerance<S>());
  }
}

/// Operands whose scores, with scale 1, are a huge number plus a few quarters, every sum of products being exact.
template <class S>
Inputs<S> inputs_of_huge_scores(Index n_q, Index n_k, bool negative) {
  auto in = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = 24, .d_v = 8});
  NumberStream numbers(11);
  const double huge = std::is_same_v<S, double> ? 0x1p22 : 0x1p8;
  for (Index c = 0; c < 24; ++c) {
    for (Index i = 0; i < n_q; ++i)
      in.q(i, c) = static_cast<S>(c < 16 ? huge : static_cast<double>(numbers.below(5) - 2));
    for (Index j = 0; j < n_k; ++j)
      in.k(j, c) = static_cast<S>(c < 16 ? (negative ? -huge : huge) : static_cast<double>(numbers.below(5) - 2) / 4);
  }
  return in;
}

TYPED_TEST(AttendBackward, ScoresMayBeHuge) {
  using S = TypeParam;
  for (const auto& [n_q, n_k, causal, negative, sunk] :
       {std::tuple(37, 150, false, false, false), std::tuple(70, 70, true, true, false),
        std::tuple(1, 90, false, true, true), std::tuple(33, 40, false, false, true)}) {
    const Inputs<S> in = inputs_of_huge_scores<S>(n_q, n_k, negative);
    const double top = (std::is_same_v<S, double> ? 0x1p48 : 0x1p20) * (negative ? -1 : 1);
    AttentionOptions options{.scale = 1.0, .mask = {.causal = causal ? Causal::square : Causal::none}};
    if (sunk && std::is_same_v<S, double>) continue;  // it is brought to the units of scores, and rounded
    if (sunk) options.sinks = top + 1.5;
    const Matrix<S> d_out = random_matrix<S>(n_q, 8, 7);
    const auto r = attend(in.q, in.k, in.v, options);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options);
    const auto wide = in.template cast<double>();
    const Matrix<double> d_wide = d_out.template cast<double>();
    const auto want = reference_attention_backward(d_wide, wide.q, wide.k, wide.v, options);
    // Columns of huge entries hold sums of what cancels; the others tell whether weights are right.
    EXPECT_LT(off(got.d_q.rightCols(8), want.d_q.rightCols(8)), 2 * tolerance<S>());
    EXPECT_LT(off(got.d_k.rightCols(8), want.d_k.rightCols(8)), 2 * tolerance<S>());
    EXPECT_LT(off(got.d_v, want.d_v), 2 * tolerance<S>());
    if (!sunk) continue;
    EXPECT_NEAR(static_cast<double>(got.d_sinks(0)), want.d_sinks(0), 2 * tolerance<S>() * std::abs(want.d_sinks(0)));
  }
}

TYPED_TEST(AttendBackward, NanInMaskedRowsGoesNowhereAndMaskedKeysGetZero) {
  using S = TypeParam;
  const Index n_q = 60, n_k = 80;
  const OptionStore store(n_q, n_k);
  for (const OptionKind& kind : option_kinds(store)) {
    SCOPED_TRACE(std::string(kind.name));
    const AttentionOptions options = options_of(store, kind);
    const auto clean = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = 8});
    Inputs<S> in = clean;
    const Matrix<S> d_out = random_matrix<S>(n_q, 8, 7);
    std::vector<Index> unseen;
    for (Index j = 0; j < n_k; ++j) {
      bool seen = false;
      for (Index i = 0; i < n_q; ++i) seen = seen || heed::detail::reference_pair(options.mask, i, j, n_q, n_k, 0).kept;
      if (seen) continue;
      unseen.push_back(j);
      fill(in.k.row(j), nan_of<S>());
      fill(in.v.row(j), nan_of<S>());
    }
    const auto r = attend(clean.q, clean.k, clean.v, options);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options);
    const auto want = attend_backward(d_out, clean.q, clean.k, clean.v, r, options);
    const double rounding = tolerance<S>();
    EXPECT_LT(off(got.d_q, want.d_q), rounding);
    EXPECT_LT(off(got.d_k, want.d_k), rounding);
    EXPECT_LT(off(got.d_v, want.d_v), rounding);
    for (const Index j : unseen)
      EXPECT_TRUE((got.d_k.row(j).array() == S(0)).all() && (got.d_v.row(j).array() == S(0)).all());
  }
}

TEST(AttendBackwardOfHalves, MergedByLseIsTheGradientOfTheWhole) {
  const auto in = random_inputs<double>({.n_q = 33, .n_k = 90, .d = 8});
  const Matrix<double> d_out = random_matrix<double>(33, 8, 7);
  const auto whole = attend(in.q, in.k, in.v);
  const auto want = attend_backward(d_out, in.q, in.k, in.v, whole);
  Matrix<double> d_q = Matrix<double>::Zero(33, 8);
  for (const Index first : {Index(0), Index(50)}) {
    const Index n = first == 0 ? 50 : 40;
    const Matrix<double> k = in.k.middleRows(first, n), v = in.v.middleRows(first, n);
    const auto part = attend(in.q, k, v);
    // out = sum of e^(lse_p - lse) out_p: what the merged answer says of each part.
    Matrix<double> d_part(33, 8), d_lse(33, 1);
    for (Index i = 0; i < 33; ++i) {
      const double share = std::exp(part.lse(i) - whole.lse(i));
      d_part.row(i) = share * d_out.row(i);
      d_lse(i, 0) = share * d_out.row(i).dot(part.out.row(i) - whole.out.row(i));
    }
    BackwardOptions backward;
    backward.d_lse = d_lse;
    const auto got = attend_backward(d_part, in.q, k, v, part, {}, ExactAttention<>{}, {}, backward);
    d_q += got.d_q;
    EXPECT_LT(off(got.d_k, want.d_k.middleRows(first, n)), 1e-13);
    EXPECT_LT(off(got.d_v, want.d_v.middleRows(first, n)), 1e-13);
  }
  EXPECT_LT(off(d_q, want.d_q), 1e-13);
}

/// Every third key, by lists.
class ThirdPattern {
 public:
  ThirdPattern(Index n_q, Index n_k) : n_q_(n_q) {
    for (Index j = 0; j < n_k; j += 3) list_.push_back(j);
  }
  Index n_groups() const { return 2; }  // which share their keys
  TokenSet queries(Index g) const { return g == 0 ? TokenSet{0, n_q_ / 2} : TokenSet{n_q_ / 2, n_q_ - n_q_ / 2}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, static_cast<Index>(list_.size()), list_.data()}; }

 private:
  Index n_q_;
  std::vector<Index> list_;
};

TEST(AttendBackwardOfPatterns, IsThatOfTheirPairs) {
  const Index n = 300;
  const auto in = random_inputs<double>({.n_q = n, .n_k = n, .d = 8});
  const Matrix<double> d_out = random_matrix<double>(n, 8, 7), identity = Matrix<double>::Identity(n, n);
  const auto check = [&](const auto& method, const AttentionOptions& options) {
    const auto r = attend(in.q, in.k, in.v, options, method);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {.threads = 2});
    // The pairs a method sees are those of its weights that are not 0.
    const Matrix<double> weights = attend(in.q, in.k, identity, options, method).out;
    const Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> seen = (weights.array() > 0).matrix();
    expect_gradients<double>(got, reference_attention_backward(d_out, in.q, in.k, in.v, {.mask = {.allowed = seen}}));
    const auto one = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {.threads = 1});
    EXPECT_SAME_BITS(got.d_k, one.d_k);
  };
  for (const AttentionOptions& options : {AttentionOptions{}, AttentionOptions{.mask = {.causal = Causal::square}}}) {
    check(WindowAttention(20, 3), options);
    check(BigBirdAttention({.block = 16}), options);
    check(PatternAttention{[](Index n_q, Index n_k) { return ThirdPattern(n_q, n_k); }}, options);
    check(PatternAttention{[](Index n_q, Index n_k) {
            return PatternUnion{ThirdPattern(n_q, n_k), DensePattern{n_q, 20}};
          }},
          options);
  }
}

TEST(AttendBackwardOfTrees, WithoutRoutingIsThatOfTheirLeaves) {
  const Index n = 200;
  const auto in = random_inputs<double>({.n_q = n, .n_k = n, .d = 8});
  const Matrix<double> d_out = random_matrix<double>(n, 8, 7), identity = Matrix<double>::Identity(n, n);
  const DecisionTree<double> tree = fit_tree(in.k, in.q, {.height = 3});
  BackwardOptions backward{.routing = RoutingGradient::none};
  for (const TfOptions& options : {TfOptions{}, TfOptions{.window_left = 10, .n_sinks = 3}}) {
    const TfAttention<double> tf(tree, options);
    const AttentionOptions causal{.mask = {.causal = Causal::square}};
    const auto r = attend(in.q, in.k, in.v, causal, tf);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, causal, tf, {.threads = 2}, backward);
    const Matrix<double> weights = attend(in.q, in.k, identity, causal, tf).out;
    const Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> seen = (weights.array() > 0).matrix();
    expect_gradients<double>(got, reference_attention_backward(d_out, in.q, in.k, in.v, {.mask = {.allowed = seen}}));
  }
  const TfAttention<double> capped(tree, {.leaf_cap = 2});
  const auto r = attend(in.q, in.k, in.v, {}, capped);
  EXPECT_THROW(attend_backward(d_out, in.q, in.k, in.v, r, {}, capped, {}, backward), OptionError);
}

TYPED_TEST(AttendBackward, WeightsOfHugeScoresSumToOne) {
  using S = TypeParam;
  // In double a score of millions is not yet huge: what its rounding takes of a weight is at most 2^-31.
  const double rounding = std::is_same_v<S, double> ? 0x1p-30 : tolerance<S>();
  for (const Index n_q : {1, 2, 33}) {
    const auto in = random_inputs<S>({.n_q = n_q, .n_k = 64, .d = 64, .d_v = 1});
    const Matrix<S> ones = Matrix<S>::Constant(n_q, 1, S(1));
    // Keys that are alike share every query's weight, whatever their score.
    const Matrix<S> alike = in.k.row(0).replicate(4, 1), four = Matrix<S>::Constant(4, 1, S(1));
    for (const double scale : {1e2, 1e4, 1e6, 1e8, 1e15, 1e30}) {
      for (const AttentionOptions& options : {AttentionOptions{.scale = scale}, AttentionOptions{.scale = -scale}}) {
        const auto check = [&](const auto& k, const auto& v) {
          const auto r = attend(in.q, k, v, options);
          const auto got = attend_backward(ones, in.q, k, v, r, options);
          double sum = 0;
          for (Index j = 0; j < k.rows(); ++j) sum += static_cast<double>(got.d_v(j, 0));
          EXPECT_NEAR(sum, static_cast<double>(n_q), static_cast<double>(n_q) * 2 * rounding) << scale;
          for (Index j = 0; j < k.rows() && k.rows() == 4; ++j)
            EXPECT_NEAR(static_cast<double>(got.d_v(j, 0)), sum / 4, sum * rounding) << scale;
        };
        check(in.k, in.v);
        check(alike, four);
      }
    }
  }
}

TEST(AttendBackwardOfHugeScores, ASinkWithoutKeysHasAllTheWeight) {
  const Matrix<float> q = Matrix<float>::Ones(3, 4), none(0, 4), d_out = Matrix<float>::Ones(3, 2), ones(3, 1);
  const Matrix<float> no_values(0, 2), d_lse = Matrix<float>::Ones(3, 1);
  for (const double sink : {100.0, 300.0, -1000.0, 1e6, 1e20}) {
    const AttentionOptions options{.sinks = sink};
    const auto r = attend(q, none, no_values, options);
    BackwardOptions backward;
    backward.d_lse = d_lse;
    EXPECT_NEAR(
        static_cast<double>(attend_backward(d_out, q, none, no_values, r, options, {}, {}, backward).d_sinks(0)), 3,
        1e-5)
        << sink;
  }
}

/// One query and two keys in leaves of their own; the other leaf's key has by far the larger score.
TEST(AttendBackwardOfHugeScores, TheGradientOfRoutingIsThatOfSmallerOnes) {
  Matrix<float> plane(1, 1), q(1, 1), k(2, 1), v(2, 1), one(1, 1);
  plane << 0.5f;
  q << 1.0f;
  k << 1.0f, -1.0f;
  v << 1.0f, 3.0f;
  one << 1.0f;
  const TfAttention<float> tf(DecisionTree<float>(plane, Matrix<float>::Zero(1, 1)));
  const auto gradients = [&](double scale) {
    const AttentionOptions options{.scale = scale};
    const auto r = attend(q, k, v, options, tf);
    return attend_backward(one, q, k, v, r, options, tf);
  };
  const auto want = gradients(-1e3);
  for (const double scale : {-1e9, -1e10, -1e19, -1e30}) {
    const auto got = gradients(scale);
    EXPECT_NEAR(got.d_tree.planes(0, 0), want.d_tree.planes(0, 0), 1e-5f) << scale;
    EXPECT_NEAR(got.d_tree.biases(0), want.d_tree.biases(0), 1e-5f) << scale;
    EXPECT_NEAR(got.d_v(0, 0), 1.0f, 1e-5f);
  }
}

TEST(AttendBackwardOfHugeScores, TheGradientOfRoutingIsFinite) {
  NumberStream numbers(3);
  const auto random = [&](Index rows, Index cols) { return random_matrix<float>(rows, cols, numbers.bits()); };
  for (int turn = 0; turn < 300; ++turn) {
    const Index n_q = 1 + numbers.below(6), n_k = 1 + numbers.below(11), d = 1 + numbers.below(3);
    const Matrix<float> q = random(n_q, d), k = random(n_k, d), v = random(n_k, 1), d_out = random(n_q, 1);
    AttentionOptions options{.scale = std::exp2(90 * numbers.uniform())};
    if (turn % 3 == 0) options.sinks = *options.scale * numbers.normal();
    TfOptions near;
    if (turn % 2 == 0) near.window_left = numbers.below(3);
    const TfAttention<float> tf(DecisionTree<float>(random(3, d), random(3, 1)), near);
    const auto r = attend(q, k, v, options, tf);
    const auto got = attend_backward(d_out, q, k, v, r, options, tf);
    ASSERT_TRUE(got.d_q.allFinite() && got.d_k.allFinite() && got.d_tree.planes.allFinite()) << turn;
  }
}

TEST(AttendBackwardOfHugeScores, PartsOfAUnionKeepTheirSumsToo) {
  const Index n = 140;
  const Inputs<float> in = inputs_of_huge_scores<float>(n, n, false);
  const Matrix<float> d_out = random_matrix<float>(n, 8, 7);
  const Matrix<double> identity = Matrix<double>::Identity(n, n);
  const auto wide = in.cast<double>();
  const Matrix<double> d_wide = d_out.cast<double>();
  const auto check = [&](const auto& method, const auto& seen_by, const BackwardOptions& backward) {
    const AttentionOptions options{.scale = 1.0};
    const auto r = attend(in.q, in.k, in.v, options, method);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {}, backward);
    const Matrix<double> weights = attend(wide.q, wide.k, identity, {.scale = 1e-300}, seen_by).out;
    const Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> seen = (weights.array() > 0).matrix();
    const auto want =
        reference_attention_backward(d_wide, wide.q, wide.k, wide.v, {.scale = 1.0, .mask = {.allowed = seen}});
    EXPECT_LT(off(got.d_q.rightCols(8), want.d_q.rightCols(8)), 1e-4);
    EXPECT_LT(off(got.d_k.rightCols(8), want.d_k.rightCols(8)), 1e-4);
    EXPECT_LT(off(got.d_v, want.d_v), 1e-4);
  };
  const PatternAttention both{[](Index n_q, Index n_k) {
    return PatternUnion{ThirdPattern(n_q, n_k), DensePattern{n_q, 20}};
  }};
  check(both, both, {});
  check(WindowAttention(20, 3), WindowAttention(20, 3), {});
  const auto tree = [](auto scalar, std::uint64_t seed) {
    using S = decltype(scalar);
    Matrix<S> planes = random_matrix<S>(3, 24, seed);
    planes.leftCols(16).setZero();
    return DecisionTree<S>(planes, Matrix<S>::Zero(3, 1));
  };
  const BackwardOptions leaves_only{.routing = RoutingGradient::none};
  check(TfAttention<float>(tree(0.0f, 5)), TfAttention<double>(tree(0.0, 5)), leaves_only);
  check(TfAttention<float>(std::vector{tree(0.0f, 5), tree(0.0f, 6)}),
        TfAttention<double>(std::vector{tree(0.0, 5), tree(0.0, 6)}), leaves_only);
}

/// Sinks and parts of a union are of about one weight, near the top of scores that have no digits left for sums.
TEST(AttendBackwardOfHugeScores, SinksOfAUnionCountAsTheirWeight) {
  const Index n = 40;
  const Inputs<float> in = inputs_of_huge_scores<float>(n, n, false);
  const Matrix<float> d_out = random_matrix<float>(n, 8, 7);
  const PatternAttention both{[](Index n_q, Index n_k) {
    return PatternUnion{ThirdPattern(n_q, n_k), DensePattern{n_q, 20}};
  }};
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> seen(n, n);
  for (Index j = 0; j < n; ++j) seen.col(j).setConstant(j % 3 == 0 || j < 20);
  const AttentionOptions options{.scale = 1.0, .sinks = 0x1p20 + 6};
  AttentionOptions masked = options;
  masked.mask.allowed = seen;
  const auto r = attend(in.q, in.k, in.v, options, both);
  const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, both);
  const auto wide = in.cast<double>();
  const auto want = reference_attention_backward(d_out.cast<double>().eval(), wide.q, wide.k, wide.v, masked);
  EXPECT_LT(off(got.d_q.rightCols(8), want.d_q.rightCols(8)), 1e-4);
  EXPECT_LT(off(got.d_v, want.d_v), 1e-4);
  EXPECT_NEAR(static_cast<double>(got.d_sinks(0)), want.d_sinks(0), 1e-4 * std::abs(want.d_sinks(0)));
}

TEST(AttendBackwardOfHugeScores, OneQueryOfOneHeadIsEnough) {
  const Index n_q = 30, n_k = 40, n_heads = 3;
  const Inputs<float> one = inputs_of_huge_scores<float>(n_q, n_k, false);
  const Matrix<float> d_out = random_matrix<float>(n_q, n_heads * 8, 7);
  Matrix<float> q(n_q, n_heads * 24), k(n_k, n_heads * 24), v(n_k, n_heads * 8);
  for (Index h = 0; h < n_heads; ++h) {
    q.middleCols(h * 24, 24) = one.q;
    q.middleCols(h * 24, 16).topRows(h == 1 ? n_q - 1 : n_q).setZero();  // all but the last query of head 1
    k.middleCols(h * 24, 24) = one.k;
    v.middleCols(h * 8, 8) = one.v;
  }
  const AttentionOptions options{.scale = 1.0};
  const HeadOptions heads{.n_heads = n_heads};
  const auto got =
      multi_head_attend_backward(d_out, q, k, v, multi_head_attend(q, k, v, heads, options), heads, options);
  for (Index h = 0; h < n_heads; ++h) {
    const auto wide = [](const Matrix<float>& m, Index first, Index size) {
      return Matrix<double>(m.middleCols(first, size).cast<double>());
    };
    const auto want = reference_attention_backward(wide(d_out, h * 8, 8), wide(q, h * 24, 24), wide(k, h * 24, 24),
                                                   wide(v, h * 8, 8), options);
    EXPECT_LT(off(got.d_q.middleCols(h * 24 + 16, 8), want.d_q.rightCols(8)), 1e-5) << h;
    EXPECT_LT(off(got.d_v.middleCols(h * 8, 8), want.d_v), 1e-5) << h;
  }
}

/// Given the lse of the whole, the weights of a half are those that the whole gives its keys: as exact as that lse.
TEST(AttendBackwardOfHugeScores, AHalfTakesTheLseOfTheWhole) {
  const Index n_q = 20, n_k = 60;
  Inputs<float> in = inputs_of_huge_scores<float>(n_q, n_k, false);
  in.q.leftCols(16) *= 0x1p-6f;  // scores of 2^14: an lse is good to a thousandth
  const Matrix<float> d_out = random_matrix<float>(n_q, 8, 7);
  const AttentionOptions options{.scale = 1.0};
  const auto whole = attend(in.q, in.k, in.v, options);
  const auto want = attend_backward(d_out, in.q, in.k, in.v, whole, options);
  for (const Index first : {0, 30}) {
    const Matrix<float> k = in.k.middleRows(first, 30), v = in.v.middleRows(first, 30);
    const auto got = attend_backward(d_out, in.q, k, v, whole, options);
    EXPECT_LT(off(got.d_v, want.d_v.middleRows(first, 30)), 5e-3);
    EXPECT_LT(off(got.d_k.rightCols(8), want.d_k.middleRows(first, 30).rightCols(8)), 5e-3);
  }
}

TEST(AttendBackwardOfHugeScores, CostOneMoreProductAndOneMoreExponential) {
  const Inputs<float> in = inputs_of_huge_scores<float>(20, 30, false);
  const Matrix<float> d_out = random_matrix<float>(20, 8, 7);
  const AttentionOptions options{.scale = 1.0};
  FlopCounter flops;
  attend_backward(d_out, in.q, in.k, in.v, attend(in.q, in.k, in.v, options), options, ExactAttention<>{},
                  {.flops = &flops});
  const double pairs = 20 * 30;
  EXPECT_EQ(flops.products(Phase::backward_scores), (6 + 2) * 24 * pairs);
  EXPECT_EQ(flops.products(Phase::backward_values), 4 * 8 * pairs);
  EXPECT_EQ(flops.products(), (8 * 24 + 4 * 8) * pairs);
  EXPECT_EQ(flops.exponentials(), 2 * pairs);
}

TEST(AttendBackwardCounts, AreThoseOfKeptPairs) {
  const auto in = random_inputs<float>({.n_q = 40, .n_k = 70, .d = 8, .d_v = 5});
  const Matrix<float> d_out = random_matrix<float>(40, 5, 7);
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 9}};
  double pairs = 0;
  for (Index i = 0; i < 40; ++i) {
    for (Index j = 0; j < 70; ++j) pairs += heed::detail::reference_pair(options.mask, i, j, 40, 70, 0).kept ? 1 : 0;
  }
  FlopCounter flops;
  const auto r = attend(in.q, in.k, in.v, options);
  attend_backward(d_out, in.q, in.k, in.v, r, options, ExactAttention<>{}, {.flops = &flops});
  EXPECT_EQ(flops.products(Phase::backward_scores), 6 * 8 * pairs);
  EXPECT_EQ(flops.products(Phase::backward_values), 4 * 5 * pairs);
  EXPECT_EQ(flops.products(), (6 * 8 + 4 * 5) * pairs);
  EXPECT_EQ(flops.exponentials(), pairs);
}

TEST(AttendBackwardInto, AllocatesNothingWithAGrownWorkspace) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer owns malloc";
  const auto in = random_inputs<Eigen::bfloat16>({.n_q = 300, .n_k = 300, .d = 8});
  const Matrix<Eigen::bfloat16> d_out = random_matrix<Eigen::bfloat16>(300, 8, 7);
  const auto r = attend(in.q, in.k, in.v);
  auto grads = attend_backward(d_out, in.q, in.k, in.v, r);
  Workspace workspace;
  const Context context{.workspace = &workspace, .threads = 1};
  const auto call = [&] {
    attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse, {}, ExactAttention<>{}, context);
  };
  call();
  const auto before = allocations();
  call();
  EXPECT_EQ(allocations(), before);
}

TEST(AttendBackwardOfSinks, ANanOfAQueryWithoutKeysReachesNoSink) {
  auto in = random_inputs<float>({.n_q = 3, .n_k = 5, .d = 4});
  Matrix<float> d_out = random_matrix<float>(3, 4, 7);
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> allowed =
      Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>::Constant(3, 5, true);
  allowed.row(1).setConstant(false);
  const AttentionOptions options{.mask = {.allowed = allowed}, .sinks = 0.5};
  const auto r = attend(in.q, in.k, in.v, options);
  const auto want = attend_backward(d_out, in.q, in.k, in.v, r, options);
  fill(d_out.row(1), nan_of<float>());
  const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options);
  EXPECT_SAME_BITS(got.d_sinks, want.d_sinks);
  EXPECT_MATRIX_NEAR(got.d_v, want.d_v, 1e-6);  // pairs are added one by one beside a NaN
}

TEST(AttendBackwardOfNan, AQueryWithoutAnLseLeavesMaskedKeysAlone) {
  for (const Index n : {4, 70, 300}) {
    SCOPED_TRACE(n);
    auto in = random_inputs<float>({.n_q = n, .n_k = n, .d = 4});
    in.k(0, 0) = nan_of<float>();
    // Only query 0 sees key 0, and no odd key.
    Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> allowed(n, n);
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < n; ++j) allowed(i, j) = i == 0 ? j % 2 == 0 : j != 0;
    }
    const Matrix<float> d_out = random_matrix<float>(n, 4, 7);
    const AttentionOptions options{.mask = {.allowed = allowed}};
    const auto got = attend_backward(d_out, in.q, in.k, in.v, attend(in.q, in.k, in.v, options), options);
    for (Index j = 1; j < n; j += 2) EXPECT_TRUE(got.d_k.row(j).allFinite() && got.d_v.row(j).allFinite()) << j;
    EXPECT_TRUE(got.d_q.bottomRows(n - 1).allFinite());
    EXPECT_TRUE(std::isnan(got.d_v(2, 0)) && std::isnan(got.d_q(0, 0)));
  }
}

TEST(AttendBackwardErrors, NameTheArgumentAndTouchNothing) {
  const auto in = random_inputs<float>({.n_q = 6, .n_k = 7, .d = 4});
  const auto r = attend(in.q, in.k, in.v);
  const Matrix<float> d_out = random_matrix<float>(6, 4, 7), short_out = d_out.topRows(5), d_lse(5, 1);
  AttentionGradients<float> grads;
  grads.d_q.setConstant(6, 4, 3);
  grads.d_k.setConstant(7, 4, 3);
  grads.d_v.setConstant(7, 4, 3);
  const auto refused = [&](const std::string& name, const auto& call) {
    try {
      call();
      ADD_FAILURE() << name << " was accepted";
    } catch (const std::invalid_argument& error) {
      EXPECT_NE(std::string(error.what()).find(name), std::string::npos) << error.what();
    }
    EXPECT_TRUE((grads.d_q.array() == 3).all() && (grads.d_k.array() == 3).all() && (grads.d_v.array() == 3).all());
  };
  refused("d_out", [&] { attend_backward_into(grads, short_out, in.q, in.k, in.v, r.out, r.lse); });
  refused("out", [&] { attend_backward_into(grads, d_out, in.q, in.k, in.v, short_out, r.lse); });
  refused("lse", [&] { attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse.head(5).eval()); });
  refused("softcap", [&] { attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse, {.softcap = -1.0}); });
  BackwardOptions backward;
  backward.d_lse = d_lse;
  refused("d_lse", [&] {
    attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse, {}, ExactAttention<>{}, {}, backward);
  });
  const Matrix<float> bias = Matrix<float>::Zero(6, 7);
  const std::vector<float> sinks{0.5f};
  const auto with = [&](const AttentionOptions& options) {
    return [&, options] { attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse, options); };
  };
  grads.d_bias = Matrix<float>::Constant(6, 7, 3);
  refused("d_bias is 6 x 7 but must be as mask.bias: 0 x 0", with({}));
  grads.d_bias = Matrix<float>::Constant(5, 7, 3);
  refused("d_bias is 5 x 7 but must be as mask.bias: 6 x 7", with({.mask = {.bias = bias}}));
  const Matrix<float> row = bias.topRows(1);
  refused("d_bias is 5 x 7 but must be as mask.bias: 1 x 7", with({.mask = {.bias = row}}));
  const auto tensor = heads_first<const float>(bias.data(), 1, 1, 6, 7);
  refused("mask.bias with the rows of its entries and heads stacked: 6 x 7", with({.mask = {.bias = tensor}}));
  grads.d_bias.resize(0, 0);
  grads.d_sinks = Vector<float>::Constant(1, 3);
  refused("d_sinks has 1 entries", with({}));
  grads.d_sinks = Vector<float>::Constant(2, 3);
  refused("d_sinks has 2 entries", with({.sinks = sinks}));
  grads.d_sinks.resize(0);
  const PatternAttention beyond{[](Index n_q, Index n_k) { return DensePattern{n_q, n_k + 1}; }};
  refused("names token 7", [&] { attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse, {}, beyond); });
  grads.d_k = Matrix<float>::Constant(6, 4, 3);
  refused("d_k", [&] { attend_backward_into(grads, d_out, in.q, in.k, in.v, r.out, r.lse); });
}

}  // namespace
}  // namespace heed::test
