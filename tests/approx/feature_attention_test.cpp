// Performer and linear attention: one engine, two maps of features.
#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/linear_attention.hpp"
#include "heed/approx/performer_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/allocations.hpp"
#include "support/conformance.hpp"
#include "support/feature_formula.hpp"
#include "support/option_kinds.hpp"
#include "support/strided.hpp"

namespace heed::test::feature_attention {
namespace {

using Mat = Matrix<double>;

constexpr PerformerOptions few_features{.n_features = 21, .seed = 3};

constexpr auto performer = []<class S>(const Inputs<S>&) { return PerformerAttention<S>(few_features); };
constexpr auto performer_formula = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  const Inputs<double> wide = in.template cast<double>();
  const Mat w = PerformerAttention<S>(few_features).features(in.q.cols()).template cast<double>();
  return AttentionResult<double>{FeatureFormula(wide, options, w).out(), Vector<double>::Zero(in.q.rows())};
};
FlopCounter performer_flops(const FlopCase& sizes) {
  return feature_flops(sizes, 21, 2.0 * 21 * static_cast<double>(sizes.d));
}
FlopCounter performer_backward_flops(const FlopCase& sizes) {
  return feature_backward_flops(sizes, 21, 2.0 * 21 * static_cast<double>(sizes.d));
}
INSTANTIATE_METHOD_SUITE(PerformerAttention, {.make = performer,
                                              .expected = performer_formula,
                                              .flops = performer_flops,
                                              .backward_flops = performer_backward_flops,
                                              .supports = features_support,
                                              .has_softmax = false,
                                              .same_work_by_head = false});

constexpr auto linear = [](const auto&) { return LinearAttention(); };
constexpr auto linear_formula = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  const Inputs<double> wide = in.template cast<double>();
  return AttentionResult<double>{FeatureFormula(wide, options).out(), Vector<double>::Zero(in.q.rows())};
};
FlopCounter linear_flops(const FlopCase& sizes) { return feature_flops(sizes, static_cast<double>(sizes.d), 0.0); }
FlopCounter linear_backward_flops(const FlopCase& sizes) {
  return feature_backward_flops(sizes, static_cast<double>(sizes.d), 0.0);
}
INSTANTIATE_METHOD_SUITE(LinearAttention, {.make = linear,
                                           .expected = linear_formula,
                                           .flops = linear_flops,
                                           .backward_flops = linear_backward_flops,
                                           .supports = features_support,
                                           .has_softmax = false,
                                           .same_work_by_head = false});

/// Runs check(method, formula(inputs, options), name) for both maps.
template <class Check>
void for_both(const Check& check) {
  const PerformerAttention<double> random(few_features);
  check(random, [random](const Inputs<double>& in, const AttentionOptions& options) {
    return FeatureFormula(in, options, random.features(in.q.cols()));
  });
  check(LinearAttention(),
        [](const Inputs<double>& in, const AttentionOptions& options) { return FeatureFormula(in, options); });
}

/// Options of every kind they have, and of every two.
template <class Check>
void for_options(Index n_q, Index n_k, const Check& check) {
  const OptionStore store(n_q, n_k);
  check(AttentionOptions{});
  for (const OptionKind& a : option_kinds(store)) {
    if (!features_support(a.name)) continue;
    SCOPED_TRACE(std::string(a.name));
    check(options_of(store, a));
    for (const OptionKind& b : option_kinds(store)) {
      if (!features_support(b.name) || a.name >= b.name || !fit_together(a, b)) continue;
      SCOPED_TRACE(std::string(b.name));
      check(options_of(store, a, b));
    }
  }
}

constexpr std::array<std::array<Index, 4>, 5> sizes_off_the_grid{
    {{37, 53, 9, 7}, {65, 65, 17, 33}, {113, 203, 8, 5}, {120, 33, 4, 1}, {1, 1, 3, 2}}};

/// Sums of a few hundred terms of size 1, exponents of a few tens.
constexpr double near = 2e-13;

TEST(FeatureAttention, EqualsItsFormulaAndItsGradientUnderEveryOptionAndPairOfOptions) {
  for_both([](const auto& method, const auto& formula) {
    for (const auto& [n_q, n_k, d, d_v] : sizes_off_the_grid) {
      const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v});
      const Mat d_out = random_matrix<double>(n_q, d_v, 77);
      for_options(n_q, n_k, [&](const AttentionOptions& options) {
        const auto want = formula(in, options);
        const auto r = attend(in.q, in.k, in.v, options, method);
        EXPECT_EQ(r.lse.size(), 0);
        EXPECT_MATRIX_NEAR(r.out, want.out(), near);
        const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {.threads = 2});
        const auto grads = want.backward(d_out);
        EXPECT_MATRIX_NEAR(got.d_q, grads.d_q, near * 10);
        EXPECT_MATRIX_NEAR(got.d_k, grads.d_k, near * 10);
        EXPECT_MATRIX_NEAR(got.d_v, grads.d_v, near * 10);
      });
    }
  });
}

/// Rows up to a position are those of a call without what comes later, and later tokens may be anything.
TEST(FeatureAttention, CausalAnswersAndGradientsDoNotDependOnLaterTokens) {
  for_both([](const auto& method, const auto&) {
    const auto in = random_inputs<double>({.n_q = 150, .n_k = 150, .d = 6, .d_v = 5});
    const Mat d_out = random_matrix<double>(150, 5, 77);
    const AttentionOptions options{.mask = {.causal = Causal::square}};
    const auto whole = attend(in.q, in.k, in.v, options, method);
    for (const Index n : {1, 2, 47, 48, 49, 100, 149}) {
      auto changed = in;
      for (const double factor : {3.0, 1e6}) {
        changed.q.bottomRows(150 - n) *= factor;
        changed.k.bottomRows(150 - n) *= -factor;
        changed.v.bottomRows(150 - n) *= factor;
        EXPECT_SAME_BITS(attend(changed.q, changed.k, changed.v, options, method).out.topRows(n).eval(),
                         whole.out.topRows(n).eval());
      }
      fill(changed.q.bottomRows(150 - n), nan_of<double>());
      fill(changed.k.bottomRows(150 - n), infinity_of<double>());
      fill(changed.v.bottomRows(150 - n), nan_of<double>());
      const auto spoiled = attend(changed.q, changed.k, changed.v, options, method);
      EXPECT_SAME_BITS(spoiled.out.topRows(n).eval(), whole.out.topRows(n).eval());
      EXPECT_TRUE(is_nan(spoiled.out(n, 0)));
      const auto got = attend_backward(d_out, changed.q, changed.k, changed.v, spoiled, options, method);
      const Mat q = in.q.topRows(n), k = in.k.topRows(n), v = in.v.topRows(n);
      const auto prefix = attend(q, k, v, options, method);
      EXPECT_MATRIX_NEAR(prefix.out, whole.out.topRows(n).eval(), near);
      EXPECT_MATRIX_NEAR(got.d_q.topRows(n).eval(),
                         attend_backward(d_out.topRows(n).eval(), q, k, v, prefix, options, method).d_q, near * 10);
    }
  });
}

/// A query that is NaN spoils the gradients of keys it sees, and no others.
TEST(FeatureAttention, NanOfAQueryReachesTheGradientsOfItsOwnKeysAlone) {
  for_both([](const auto& method, const auto&) {
    for (const bool of_d_out : {false, true}) {
      auto in = random_inputs<double>({.n_q = 90, .n_k = 90, .d = 6, .d_v = 5});
      Mat d_out = random_matrix<double>(90, 5, 77);
      const AttentionOptions options{.mask = {.causal = Causal::square}};
      const auto clean =
          attend_backward(d_out, in.q, in.k, in.v, attend(in.q, in.k, in.v, options, method), options, method);
      (of_d_out ? d_out : in.q)(57, 2) = nan_of<double>();
      const auto got =
          attend_backward(d_out, in.q, in.k, in.v, attend(in.q, in.k, in.v, options, method), options, method);
      for (Index j = 0; j < 90; ++j) {
        EXPECT_EQ(is_nan(got.d_k(j, 0)), j <= 57) << j;
        EXPECT_EQ(is_nan(got.d_q(j, 0)), j == 57) << j;
      }
      EXPECT_MATRIX_NEAR(got.d_k.bottomRows(32).eval(), clean.d_k.bottomRows(32).eval(), near * 10);
      EXPECT_MATRIX_NEAR(got.d_v.bottomRows(32).eval(), clean.d_v.bottomRows(32).eval(), near * 10);
    }
  });
}

TEST(FeatureAttention, PaddingIsNeitherReadNorGivenAGradient) {
  for_both([](const auto& method, const auto&) {
    auto in = random_inputs<double>({.n_q = 70, .n_k = 110, .d = 6, .d_v = 5});
    const Mat d_out = random_matrix<double>(70, 5, 77);
    for (const Causal causal : {Causal::none, Causal::top_left}) {
      const AttentionOptions options{.mask = {.causal = causal, .n_real_keys = 61}};
      fill(in.k.bottomRows(49), nan_of<double>());
      fill(in.v.bottomRows(49), nan_of<double>());
      const Mat k = in.k.topRows(61), v = in.v.topRows(61);
      const AttentionOptions without{.mask = {.causal = causal}};
      const auto r = attend(in.q, in.k, in.v, options, method), want = attend(in.q, k, v, without, method);
      EXPECT_SAME_BITS(r.out, want.out);
      const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method);
      const auto grads = attend_backward(d_out, in.q, k, v, want, without, method);
      EXPECT_SAME_BITS(got.d_q, grads.d_q);
      EXPECT_SAME_BITS(got.d_k.topRows(61).eval(), grads.d_k);
      EXPECT_SAME_BITS(got.d_v.topRows(61).eval(), grads.d_v);
      EXPECT_EQ(got.d_k.bottomRows(49).cwiseAbs().maxCoeff(), 0.0);
      EXPECT_EQ(got.d_v.bottomRows(49).cwiseAbs().maxCoeff(), 0.0);
    }
  });
}

/// The last real key lies before the diagonal of the first query: a causal mask hides nothing.
TEST(FeatureAttention, QueriesBehindAllRealKeysSeeThemAll) {
  for_both([](const auto& method, const auto&) {
    const auto in = random_inputs<double>({.n_q = 40, .n_k = 130, .d = 6, .d_v = 5});
    const Mat d_out = random_matrix<double>(40, 5, 77);
    for (const Index n_real : {30, 89, 90, 91}) {
      const AttentionOptions causal{.mask = {.causal = Causal::bottom_right, .n_real_keys = n_real}},
          none{.mask = {.n_real_keys = n_real}};
      const auto r = attend(in.q, in.k, in.v, causal, method), want = attend(in.q, in.k, in.v, none, method);
      EXPECT_MATRIX_NEAR(r.out, want.out, near);
      const auto got = attend_backward(d_out, in.q, in.k, in.v, r, causal, method);
      const auto grads = attend_backward(d_out, in.q, in.k, in.v, want, none, method);
      EXPECT_MATRIX_NEAR(got.d_q, grads.d_q, near * 10);
      EXPECT_MATRIX_NEAR(got.d_k, grads.d_k, near * 10);
      EXPECT_MATRIX_NEAR(got.d_v, grads.d_v, near * 10);
    }
  });
}

TEST(FeatureAttention, GroupedHeadsGiveTheirKeysTheSumOfAllWithTheSameBitsOnAnyThreads) {
  for_both([](const auto& method, const auto&) {
    constexpr Index n_q = 83, n_k = 91, d = 6, d_v = 5;
    for (const Index n_kv : {1, 2, 4}) {
      for (const Causal causal : {Causal::none, Causal::bottom_right}) {
        const AttentionOptions options{.mask = {.causal = causal}};
        const HeadOptions heads{.n_heads = 4, .n_kv_heads = n_kv};
        const auto q = random_matrix<double>(n_q, 4 * d, 1), k = random_matrix<double>(n_k, n_kv * d, 2),
                   v = random_matrix<double>(n_k, n_kv * d_v, 3), d_out = random_matrix<double>(n_q, 4 * d_v, 4);
        const Eigen::MatrixXd q_columns = q, k_columns = k, v_columns = v, d_columns = d_out;
        const auto r = multi_head_attend(q, k, v, heads, options, method);
        const auto got = multi_head_attend_backward(d_out, q, k, v, r, heads, options, method, {.threads = 1});
        const auto again = multi_head_attend_backward(d_columns, q_columns, k_columns, v_columns, r, heads, options,
                                                      method, {.threads = 2});
        EXPECT_SAME_BITS(got.d_q, again.d_q);
        EXPECT_SAME_BITS(got.d_k, again.d_k);
        EXPECT_SAME_BITS(got.d_v, again.d_v);
        Mat d_q = Mat::Zero(n_q, 4 * d), d_k = Mat::Zero(n_k, n_kv * d), d_values = Mat::Zero(n_k, n_kv * d_v);
        for (Index h = 0; h < 4; ++h) {
          const Index kv = h / (4 / n_kv);
          const Mat own_q = q.middleCols(h * d, d), own_k = k.middleCols(kv * d, d),
                    own_v = v.middleCols(kv * d_v, d_v);
          const Mat own_d = d_out.middleCols(h * d_v, d_v);
          const auto one = attend_backward(own_d, own_q, own_k, own_v, attend(own_q, own_k, own_v, options, method),
                                           options, method);
          d_q.middleCols(h * d, d) = one.d_q;
          d_k.middleCols(kv * d, d) += one.d_k;
          d_values.middleCols(kv * d_v, d_v) += one.d_v;
        }
        EXPECT_SAME_BITS(got.d_q, d_q);
        EXPECT_MATRIX_NEAR(got.d_k, d_k, near * 10);
        EXPECT_MATRIX_NEAR(got.d_v, d_values, near * 10);
      }
    }
  });
}

TEST(FeatureAttention, WithoutTokensThereIsNothingToGoBackThrough) {
  for_both([](const auto& method, const auto&) {
    for (const auto& [n_q, n_k] : {std::array<Index, 2>{0, 7}, {7, 0}, {0, 0}, {1, 1}}) {
      for (const Causal causal : {Causal::none, Causal::bottom_right}) {
        const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = 4, .d_v = 3});
        const Mat d_out = random_matrix<double>(n_q, 3, 5);
        const AttentionOptions options{.mask = {.causal = causal}};
        const auto r = attend(in.q, in.k, in.v, options, method);
        const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method);
        if (n_q == 1) {  // one key: its value, whatever it weighs
          EXPECT_MATRIX_NEAR(r.out, in.v, 1e-15);
          EXPECT_MATRIX_NEAR(got.d_v, d_out, 1e-15);
        }
        for (const Mat* zero : {&got.d_q, &got.d_k}) {
          EXPECT_LE(zero->size() == 0 ? 0.0 : zero->cwiseAbs().maxCoeff(), 1e-14);
        }
      }
    }
  });
}

/// Every key weighs the same, or, where features are entries, there are none.
TEST(FeatureAttention, TokensWithoutEntriesAreAllAlike) {
  const auto in = random_inputs<double>({.n_q = 5, .n_k = 50, .d = 0, .d_v = 3});
  const AttentionOptions options{.scale = 1.0};
  const Mat d_out = random_matrix<double>(5, 3, 5);
  for_both([&](const auto& method, const auto&) {
    constexpr bool random = !std::is_same_v<std::remove_cvref_t<decltype(method)>, LinearAttention>;
    const auto r = attend(in.q, in.k, in.v, options, method);
    const Mat mean = Vector<double>::Constant(5, random ? 1.0 : 0.0) * in.v.colwise().mean();
    EXPECT_MATRIX_NEAR(r.out, mean, 1e-15);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method);
    const Mat share = Vector<double>::Constant(50, random ? 1.0 / 50 : 0.0) * d_out.colwise().sum();
    EXPECT_MATRIX_NEAR(got.d_v, share, 1e-15);
  });
}

TEST(FeatureAttention, CountsTheWorkOfTheWayBackAndAllocatesNothingTheSecondTime) {
  constexpr double n_q = 65, n_k = 113, d = 9, d_v = 7, heads = 2;
  const auto q = random_matrix<double>(65, 18, 1), k = random_matrix<double>(113, 9, 2),
             v = random_matrix<double>(113, 7, 3), d_out = random_matrix<double>(65, 14, 4);
  const HeadOptions grouped{.n_heads = 2, .n_kv_heads = 1};
  struct Own {
    Mat d_q{65, 18}, d_k{113, 9}, d_v{113, 7};
  } grads;
  for_both([&](const auto& method, const auto&) {
    constexpr bool random = !std::is_same_v<std::remove_cvref_t<decltype(method)>, LinearAttention>;
    const double size = random ? 21 : d, of_token = random ? 2 * size * d : 0, tokens = heads * n_q + n_k;
    const auto r = multi_head_attend(q, k, v, grouped, {}, method);
    FlopCounter flops;
    multi_head_attend_backward(d_out, q, k, v, r, grouped, {}, method, {.flops = &flops});
    EXPECT_EQ(flops.products(Phase::backward_scores),
              2 * of_token * tokens + 2 * size * (d_v + 1) * n_k + 2 * size * heads * n_q);
    EXPECT_EQ(flops.products(Phase::backward_values), 4 * size * (d_v + 1) * tokens);
    EXPECT_EQ(flops.products(), flops.products(Phase::backward_scores) + flops.products(Phase::backward_values));
    EXPECT_EQ(flops.exponentials(), size * tokens);
    EXPECT_EQ(flops.padded_tokens(), heads * n_k);
    if (!counts_allocations()) return;
    const Mat q_one = q.leftCols(9), d_one = d_out.leftCols(7), out = r.out.leftCols(7);
    struct {
      Eigen::Map<Mat> d_q, d_k, d_v;
    } one{{grads.d_q.data(), 65, 9}, {grads.d_k.data(), 113, 9}, {grads.d_v.data(), 113, 7}};
    for (const Index threads : {1, 2}) {
      Workspace workspace;
      std::uint64_t before = 0;
      for (int turn = 0; turn < 2; ++turn) {
        before = allocations();
        attend_backward_into(one, d_one, q_one, k, v, out, Vector<double>(), {.mask = {.causal = Causal::top_left}},
                             method, {.workspace = &workspace, .threads = threads});
      }
      EXPECT_EQ(allocations() - before, 0u) << "threads = " << threads;
    }
  });
}

/// Tokens of length 30 and more, and keys whose lengths fall or rise steeply: every reference of a feature moves often.
TEST(PerformerAttention, TokensOfAnyLengthGiveTheFormula) {
  for (const bool orthogonal : {true, false}) {
    const PerformerAttention<double> method({.n_features = 21, .seed = 5, .orthogonal = orthogonal});
    for (const double power : {-1.0, 0.0, 1.0}) {
      for (const Causal causal : {Causal::none, Causal::square}) {
        auto in = random_inputs<double>({.n_q = 130, .n_k = 130, .d = 5, .d_v = 4});
        for (Index j = 0; j < 130; ++j) {
          const double length = 30 * std::pow(1.0 + static_cast<double>(j) / 20, power);
          in.k.row(j) *= length / in.k.row(j).norm();
          in.q.row(j) *= 30 / in.q.row(j).norm();
        }
        const AttentionOptions options{.scale = 1.0, .mask = {.causal = causal}};
        const Mat d_out = random_matrix<double>(130, 4, 7);
        const FeatureFormula want(in, options, method.features(5));
        const auto r = attend(in.q, in.k, in.v, options, method);
        // Logits of up to 10^4 and 10^4 * 2^-53 of rounding in each.
        const double rounding = 1e-10;
        EXPECT_MATRIX_NEAR(r.out, want.out(), rounding);
        const auto grads = want.backward(d_out);
        const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method);
        EXPECT_MATRIX_NEAR(got.d_q, grads.d_q, rounding);
        EXPECT_MATRIX_NEAR(got.d_k, grads.d_k, 100 * rounding);  // times tokens of length 100
        EXPECT_MATRIX_NEAR(got.d_v, grads.d_v, rounding);
      }
    }
  }
}

TEST(PerformerAttention, FloatsOfAnyLengthStayFiniteAndWithinTheValues) {
  for (const float length : {30.0f, 1e4f, 1e15f, 1e25f}) {
    for (const Causal causal : {Causal::none, Causal::square}) {
      auto in = random_inputs<float>({.n_q = 100, .n_k = 100, .d = 8, .d_v = 4});
      in.q *= length;
      in.k *= length;
      const PerformerAttention<float> method({.n_features = 64});
      const AttentionOptions options{.mask = {.causal = causal}};
      const auto r = attend(in.q, in.k, in.v, options, method);
      EXPECT_TRUE(r.out.allFinite()) << length;
      EXPECT_LE(r.out.maxCoeff(), in.v.maxCoeff() * 1.0001f);
      const auto got = attend_backward(in.v, in.q, in.k, in.v, r, options, method);
      EXPECT_TRUE(got.d_v.allFinite()) << length;
      EXPECT_TRUE(got.d_q.allFinite()) << length;
    }
  }
}

/// In float, sums of exponentials whose exponents are rounded; in half the results are rounded too.
TEST(FeatureAttention, NarrowScalarsAreAsNearAsTheirRounding) {
  const auto check = [](auto scalar, double tolerance) {
    using S = decltype(scalar);
    const auto in = random_inputs<S>({.n_q = 90, .n_k = 130, .d = 16, .d_v = 9});
    const auto wide = in.template cast<double>();
    const Matrix<S> d_out = random_matrix<S>(90, 9, 7);
    const PerformerAttention<S> method(few_features);
    const AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
    const auto r = attend(in.q, in.k, in.v, options, method);
    const FeatureFormula want(wide, options, method.features(16).template cast<double>());
    EXPECT_MATRIX_NEAR(r.out.template cast<double>().eval(), want.out(), tolerance);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method);
    const auto grads = want.backward(d_out.template cast<double>());
    EXPECT_MATRIX_NEAR(got.d_q.template cast<double>().eval(), grads.d_q, 10 * tolerance);
    EXPECT_MATRIX_NEAR(got.d_k.template cast<double>().eval(), grads.d_k, 10 * tolerance);
    EXPECT_MATRIX_NEAR(got.d_v.template cast<double>().eval(), grads.d_v, 10 * tolerance);
  };
  check(float{}, 1e-5);
  check(Eigen::half{}, 3e-3);
}

TEST(PerformerAttention, FeaturesAreNormalAndOrthogonalInBlocks) {
  constexpr Index d = 7, n = 7 * 3000;
  for (const bool orthogonal : {true, false}) {
    const Mat w = PerformerAttention<double>({.n_features = n, .seed = 11, .orthogonal = orthogonal}).features(d);
    double mean = 0, square = 0, fourth = 0, sum_squares = 0, sum_fourth = 0;
    for (Index f = 0; f < n; ++f) {
      const double length = w.row(f).squaredNorm();
      sum_squares += length / n;
      sum_fourth += length * length / n;
      for (Index c = 0; c < d; ++c) {
        mean += w(f, c) / (n * d);
        square += w(f, c) * w(f, c) / (n * d);
        fourth += std::pow(w(f, c), 4) / (n * d);
      }
    }
    // Of n d numbers, and n lengths, correlated within a block at most: variances 1, 2, 96; 2 d, about 8 d^3 + 40 d^2.
    EXPECT_NEAR(mean, 0, 5 * std::sqrt(1.0 / (n * d)));
    EXPECT_NEAR(square, 1, 5 * std::sqrt(2.0 / (n * d)));
    EXPECT_NEAR(fourth, 3, 5 * std::sqrt(96.0 / (n * d)));
    EXPECT_NEAR(sum_squares, d, 5 * std::sqrt(2.0 * d / n));
    EXPECT_NEAR(sum_fourth, d * (d + 2), 5 * std::sqrt((8.0 * d * d * d + 40.0 * d * d) / n));
    double largest = 0;
    for (Index block = 0; block < n; block += d) {
      const Mat rows = w.middleRows(block, d).rowwise().normalized();
      largest = std::max(largest, (rows * rows.transpose() - Mat::Identity(d, d)).cwiseAbs().maxCoeff());
    }
    if (orthogonal) {
      EXPECT_LT(largest, 1e-13);
    } else {
      EXPECT_GT(largest, 0.5);
    }
  }
}

/// The mean over seeds of phi(q) . phi(k) is e^(scale q . k); its variance falls as 1 / features, and orthogonal
/// features have the smaller one.
TEST(PerformerAttention, TheKernelIsEstimatedWithoutBias) {
  constexpr Index d = 8;
  constexpr int n_seeds = 2000;
  const Vector<double> q = 0.3 * random_matrix<double>(d, 1, 1), k = 0.3 * random_matrix<double>(d, 1, 2);
  const double want = std::exp(q.dot(k));
  struct Moments {
    double variance = 0, error_of_variance = 0;
  };
  const auto estimates = [&](Index m, bool orthogonal) {
    double mean = 0, square = 0, fourth = 0;
    for (int seed = 0; seed < n_seeds; ++seed) {
      const PerformerAttention<double> method(
          {.n_features = m, .seed = static_cast<std::uint64_t>(seed), .orthogonal = orthogonal});
      const Mat w = method.features(d);
      double estimate = 0;
      for (Index f = 0; f < m; ++f)
        estimate += std::exp(w.row(f).dot((q + k).transpose()) - (q.squaredNorm() + k.squaredNorm()) / 2);
      estimate = estimate / static_cast<double>(m) - want;
      mean += estimate / n_seeds;
      square += estimate * estimate / n_seeds;
      fourth += std::pow(estimate, 4) / n_seeds;
    }
    EXPECT_NEAR(mean, 0, 5 * std::sqrt(square / n_seeds)) << m;
    return Moments{square, std::sqrt((fourth - square * square) / n_seeds)};
  };
  const Moments few = estimates(16, true), many = estimates(64, true), independent = estimates(64, false);
  EXPECT_NEAR(few.variance, 4 * many.variance, 5 * std::hypot(few.error_of_variance, 4 * many.error_of_variance));
  EXPECT_LT(many.variance, independent.variance);
}

TEST(PerformerAttention, MoreFeaturesComeNearerToExactAttention) {
  auto in = random_inputs<double>({.n_q = 100, .n_k = 100, .d = 8, .d_v = 6});
  in.q /= 2;  // the variance grows as e^(|q + k|^2)
  in.k /= 2;
  const Mat want = attend(in.q, in.k, in.v).out;
  std::vector<double> errors;
  for (const Index m : {32, 512, 8192})
    errors.push_back((attend(in.q, in.k, in.v, {}, PerformerAttention<double>({.n_features = m})).out - want).norm());
  EXPECT_LT(errors[1], errors[0] / 2);
  EXPECT_LT(errors[2], errors[1] / 2);
}

TEST(PerformerAttention, FeaturesDrawnOnceAreThoseOfEveryCallOfThatWidth) {
  const auto in = random_inputs<float>({.n_q = 40, .n_k = 50, .d = 6, .d_v = 4});
  const PerformerAttention<float> method({.n_features = 20, .seed = 9});
  const auto drawn = method.for_width(6);
  EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, drawn).out, attend(in.q, in.k, in.v, {}, method).out);
  EXPECT_SAME_BITS(drawn.features(6), method.features(6));
  EXPECT_FALSE((attend(in.q, in.k, in.v, {}, PerformerAttention<float>({.n_features = 20, .seed = 10})).out.array() ==
                attend(in.q, in.k, in.v, {}, method).out.array())
                   .any());
  EXPECT_THROW(attend(in.q, in.k, in.v, {}, method.for_width(7)), ShapeError);
  EXPECT_THROW(PerformerAttention<float>({.n_features = 0}), OptionError);
  EXPECT_THROW(PerformerAttention<float>({.n_features = -3}), OptionError);
}

TEST(FeatureAttention, RefusesByNameWhatNeedsAScoreForEachPair) {
  const auto in = random_inputs<double>({.n_q = 6, .n_k = 6, .d = 4});
  const OptionStore store(6, 6);
  for_both([&](const auto& method, const auto&) {
    for (const OptionKind& kind : option_kinds(store)) {
      if (features_support(kind.name)) continue;
      std::string said;
      try {
        attend(in.q, in.k, in.v, options_of(store, kind), method);
      } catch (const OptionError& error) {
        said = error.what();
      }
      EXPECT_NE(said.find("must not be"), std::string::npos) << kind.name;
      const auto r = attend(in.q, in.k, in.v, {}, method);
      EXPECT_THROW(attend_backward(in.v, in.q, in.k, in.v, r, options_of(store, kind), method), OptionError);
    }
  });
}

/// Entries at which every feature vanishes in float.
TEST(LinearAttention, GivesZeroWhereItsDenominatorVanishes) {
  Matrix<float> q(2, 3), k(2, 3), v(2, 2);
  q << -50, -60, -70, -1e4f, -1e4f, -1e4f;
  k << -50, -60, -50, -55, -50, -70;
  v << 1, 2, 3, 4;
  const auto r = attend(q, k, v, {}, LinearAttention());
  EXPECT_TRUE(r.out.allFinite());
  EXPECT_GT(r.out(0, 0), 0.99f);  // e^5 times the weight of the other key, and more
  EXPECT_LT(r.out(0, 0), 1.1f);
  EXPECT_EQ(r.out(1, 0), 0.0f);
  const auto grads = attend_backward(v, q, k, v, r, {}, LinearAttention());
  EXPECT_TRUE(grads.d_q.allFinite() && grads.d_k.allFinite() && grads.d_v.allFinite());
}

}  // namespace
}  // namespace heed::test::feature_attention
