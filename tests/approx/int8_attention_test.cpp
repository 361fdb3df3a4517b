#include "heed/approx/int8_attention.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/batch.hpp"
#include "heed/exact/int8_cache.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "heed/kernels/select.hpp"
#include "support/conformance.hpp"
#include "support/trees.hpp"

namespace heed::test::int8_attention {
namespace {

bool multiplies_bytes() { return heed::detail::int8_panel_kernels(active_isa()) != nullptr; }

/// Rows of m in 127 steps to either side of 0, a scale each.
Matrix<double> in_steps(Matrix<double> m) {
  for (Index i = 0; i < m.rows(); ++i) {
    const double step = m.row(i).cwiseAbs().maxCoeff() / 127;
    if (step > 0) m.row(i) = (m.row(i) / step).array().round() * step;
  }
  return m;
}

/// Whole numbers of 8 bits as one would make them at first: a scale for each query, key and value; values
/// are rounded by column too, as a stand-in for weights.
constexpr auto eight_bits = []<class S>(const Inputs<S>& in) requires(!std::is_same_v<S, double>) {
  const Inputs<double> exact = in.template cast<double>();
  if (!multiplies_bytes()) return exact;
  const Matrix<double> by_column = in_steps(exact.v.transpose()).transpose();
  return Inputs<double>{in_steps(exact.q), in_steps(exact.k), in_steps(by_column), in.made_from};
};

constexpr auto int8 = [](const auto&) { return Int8Attention{}; };
INSTANTIATE_METHOD_SUITE(Int8Attention,
                         {.make = int8, .exact_when = int8, .coarse = eight_bits, .shares_scales = true});

/// |got - want| over |want|.
template <class Got, class Want>
double error_of(const Got& got, const Want& want) {
  return (got.template cast<double>() - want.template cast<double>()).norm() / want.template cast<double>().norm();
}

/// Of Int8Attention, against the oracle.
double error_of(const Inputs<float>& in, const AttentionOptions& options = {}) {
  const auto exact = in.cast<double>();
  return error_of(attend(in.q, in.k, in.v, options, Int8Attention{}).out,
                  reference_attention(exact.q, exact.k, exact.v, options).out);
}

TEST(Int8Attention, RoundsKeysLessTheirMean) {
  auto in = random_inputs<float>({.n_q = 200, .n_k = 500, .d = 64, .d_v = 64});
  const double centred = error_of(in);
  EXPECT_LT(centred, 0.02);
  in.k.rowwise() += 30.0f * random_matrix<float>(1, 64, 5).row(0);  // changes no weight
  EXPECT_LT(error_of(in), 1.5 * centred + 1e-5);
}

TEST(Int8Attention, OneLargeKeyOrQueryCostsTheOthersNothing) {
  auto in = random_inputs<float>({.n_q = 200, .n_k = 300, .d = 32, .d_v = 16});
  const double ordinary = error_of(in);
  in.k.row(77) *= 1e6f;
  in.q.row(3) *= 1e6f;
  AttentionOptions options;
  PairMatrix allowed = PairMatrix::Constant(200, 300, true);
  allowed.col(77).setConstant(false);  // it would take all weight
  options.mask.allowed = allowed;
  const auto exact = in.cast<double>();
  const Matrix<double> want = reference_attention(exact.q, exact.k, exact.v, options).out;
  const Matrix<float> got = attend(in.q, in.k, in.v, options, Int8Attention{}).out;
  EXPECT_LT(error_of(got.bottomRows(190), want.bottomRows(190)), 1.2 * ordinary + 1e-5);
}

/// Error of rows [0, n) of the answer under `options` once keys from `first` on hold garbage of this size.
double error_beside_garbage(const AttentionOptions& options, Index n, Index first, float size) {
  auto in = random_inputs<float>({.n_q = 120, .n_k = 120, .d = 16, .d_v = 20});
  in.k.bottomRows(120 - first) *= size;
  in.v.bottomRows(120 - first) *= size;
  const auto exact = in.cast<double>();
  const Matrix<double> want = reference_attention(exact.q, exact.k, exact.v, options).out;
  const Matrix<float> got = attend(in.q, in.k, in.v, options, Int8Attention{}).out;
  return error_of(got.topRows(n), want.topRows(n));
}

TEST(Int8Attention, WhatMasksHideCostsNoDigits) {
  AttentionOptions padding, causal, allowed;
  padding.mask.n_real_keys = 10;
  causal.mask.causal = Causal::square;
  PairMatrix pairs = PairMatrix::Constant(120, 120, true);
  pairs.rightCols(110).setConstant(false);
  allowed.mask.allowed = pairs;
  for (const float size : {1.0f, 1e3f, 1e6f, 1e20f}) {
    EXPECT_LT(error_beside_garbage(padding, 120, 10, size), 0.02) << size;
    EXPECT_LT(error_beside_garbage(causal, 60, 60, size), 0.02) << size;
    EXPECT_LT(error_beside_garbage(allowed, 120, 10, size), 0.02) << size;
  }
}

// A key that takes most of the weight and brings nothing: what is left of the weight is as exact as ever.
TEST(Int8Attention, WeightOfAKeyWithoutValueDoesNotCrowdOutTheOthers) {
  for (const float ahead : {3.0f, 6.5f, 12.0f}) {
    auto in = random_inputs<float>({.n_q = 40, .n_k = 64, .d = 16, .d_v = 8});
    in.v.row(0) *= 1e-3f;
    Matrix<float> bias = Matrix<float>::Zero(40, 64);
    bias.col(0).setConstant(ahead);
    AttentionOptions options;
    options.mask.bias = bias;
    EXPECT_LT(error_of(in, options), 0.02) << ahead;
  }
}

TEST(Int8Attention, ScoresOfLargeNumbersThatCancelStayFinite) {
  Matrix<float> q(2, 2), k(2, 2), v(2, 1);
  for (const float z : {1e10f, 1e25f, 1e30f}) {
    q << z, 0, z, 0;
    k << 0, z, 0, -z;
    v << 1, 2;
    const Matrix<float> out = attend(q, k, v, {}, Int8Attention{}).out;
    EXPECT_NEAR(out(0, 0), 1.5f, 0.02f) << z;
  }
}

TEST(Int8Attention, LargeQueriesOfSmallKeysStayFinite) {
  auto in = random_inputs<float>({.n_q = 20, .n_k = 70, .d = 16, .d_v = 8});
  in.k.rowwise() += random_matrix<float>(1, 16, 3).row(0);
  in.q *= 1e33f;
  in.k *= 1e-33f;
  EXPECT_LT(error_of(in), 0.03);
}

TEST(Int8Attention, AnInfiniteValueIsSeenHoweverLittleItWeighs) {
  Matrix<float> q = Matrix<float>::Ones(2, 1), k(2, 1), v(2, 1);
  k << 0, -12;
  v << 1, infinity_of<float>();
  EXPECT_EQ(attend(q, k, v, {.scale = 1.0}, Int8Attention{}).out(0, 0), infinity_of<float>());
}

TEST(Int8Attention, NumbersOfAnySizeGiveFiniteAnswers) {
  const auto in = random_inputs<float>({.n_q = 70, .n_k = 150, .d = 8, .d_v = 8});
  for (const float q : {0.0f, 1e-38f, 1e-20f, 1e10f}) {
    for (const float k : {0.0f, 1e-38f, 1e-20f, 1e10f}) {
      for (const float v : {0.0f, 1e-38f, 1e-20f, 1e30f}) {
        Inputs<float> sized = in;
        sized.q *= q;
        sized.k *= k;
        sized.v *= v;
        const auto got = attend(sized.q, sized.k, sized.v, {}, Int8Attention{});
        EXPECT_TRUE(got.out.allFinite() && got.lse.allFinite()) << q << ' ' << k << ' ' << v;
        if (v > 1e-30f && q * k < 1e-10f) {  // a mean of values
          const auto exact = sized.cast<double>();
          EXPECT_LT(error_of(got.out, reference_attention(exact.q, exact.k, exact.v).out), 0.02);
        }
      }
    }
  }
}

/// Another method in whole numbers of 8 bits differs from that method by rounding, and does differ where the CPU
/// multiplies bytes.
template <class Method>
void expect_rounded(const Inputs<float>& in, const Method& method, const AttentionOptions& options = {}) {
  const auto want = attend(in.q, in.k, in.v, options, method);
  const auto got = attend(in.q, in.k, in.v, options, Int8Attention(method));
  const double error = error_of(got.out, want.out);
  EXPECT_LT(error, 0.02);
  EXPECT_EQ(error > 1e-5, multiplies_bytes());
  EXPECT_MATRIX_NEAR(got.lse, want.lse, 0.1);
}

TEST(Int8Attention, RunsThePairsOfOtherMethods) {
  const auto in = random_inputs<float>({.n_q = 300, .n_k = 300, .d = 32, .d_v = 24});
  const OptionStore store(300, 300);
  const DecisionTree<float> tree = random_tree<float>(3, 32);
  std::vector<AttentionOptions> all(2);
  all[1].mask.causal = Causal::square;
  for (const AttentionOptions& options : all) {
    expect_rounded(in, WindowAttention(40, 20), options);
    expect_rounded(in, BigBirdAttention({.block = 16, .n_random = 3}), options);
    expect_rounded(in, TfAttention<float>(tree), options);
    expect_rounded(in, TfAttention<float>(tree, {.window_left = 20, .n_sinks = 2}), options);
    expect_rounded(in, TfAttention<float>({tree, random_tree<float>(3, 32, 9)}), options);  // parts that are merged
    const auto mod = [](float s, Index i, Index j) { return s - 0.01f * static_cast<float>((i + j) % 7); };
    expect_rounded(in, ExactAttention{mod}, options);
  }
}

// How many panels of queries share a tile depends on threads: keys that none of them sees must be rounded with the rest
// all the same.
TEST(Int8Attention, ThreadsRoundTheSameKeysTogether) {
  const auto in = random_inputs<float>({.n_q = 900, .n_k = 900, .d = 16, .d_v = 8});
  const TfAttention<float> tree(random_tree<float>(1, 16));
  for (const Causal causal : {Causal::none, Causal::square}) {
    AttentionOptions options;
    options.mask.causal = causal;
    options.mask.window_left = 300;
    const auto want = attend(in.q, in.k, in.v, options, Int8Attention(tree), {.threads = 1});
    for (const int threads : {2, 3, 8}) {
      const auto got = attend(in.q, in.k, in.v, options, Int8Attention(tree), {.threads = threads});
      EXPECT_SAME_BITS(got.out, want.out);
      EXPECT_SAME_BITS(got.lse, want.lse);
    }
  }
}

TEST(Int8Attention, RefusesAMethodOverMoreThanPairs) {
  const auto in = random_inputs<float>({.n_q = 20, .n_k = 20, .d = 8, .d_v = 4});
  Matrix<float> out = Matrix<float>::Constant(20, 4, 7.0f);
  const Int8Attention capped(TfAttention<float>(random_tree<float>(2, 8), {.leaf_cap = 3}));
  EXPECT_THROW(attend_into(out, nullptr, in.q, in.k, in.v, {}, capped), OptionError);
  EXPECT_EQ(out, (Matrix<float>::Constant(20, 4, 7.0f)));
}

TEST(Int8Attention, OneQueryAndDoubleAreThoseOfTheOtherMethod) {
  const auto one = random_inputs<float>({.n_q = 1, .n_k = 700, .d = 16, .d_v = 8});
  EXPECT_SAME_BITS(attend(one.q, one.k, one.v, {}, Int8Attention{}).out, attend(one.q, one.k, one.v).out);
  const auto in = random_inputs<double>({.n_q = 60, .n_k = 70, .d = 16, .d_v = 8});
  EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, Int8Attention{}).out, attend(in.q, in.k, in.v).out);
}

TEST(Int8Attention, EveryDoorGivesTheSameBits) {
  const auto in = random_inputs<float>({.n_q = 90, .n_k = 200, .d = 24, .d_v = 16});
  const Int8Attention method;
  const Matrix<float> want = attend(in.q, in.k, in.v, {}, method).out;
  const auto pack = [](const Matrix<float>& m) { return (Matrix<float>(m.rows(), 2 * m.cols()) << m, m).finished(); };
  const Matrix<float> q = pack(in.q), k = pack(in.k), v = pack(in.v);
  EXPECT_SAME_BITS(multi_head_attend(q, k, v, {.n_heads = 2}, {}, method).out, pack(want));
  const auto batch = batch_attend(heads_first(in.q.data(), 1, 1, 90, 24), heads_first(in.k.data(), 1, 1, 200, 24),
                                  heads_first(in.v.data(), 1, 1, 200, 16), {}, method);
  EXPECT_SAME_BITS(batch.out, want);
  KeyValueCache<float> cache(24, 16);
  cache.append(in.k, in.v);
  EXPECT_SAME_BITS(attend(in.q, cache, {}, method).out, want);
  KeyValueCache<Int8> bytes(24, 16);  // which are as they are
  bytes.append(in.k, in.v);
  EXPECT_SAME_BITS(attend(in.q, bytes, {}, method).out, attend(in.q, bytes).out);
}

}  // namespace
}  // namespace heed::test::int8_attention
