#include "heed/exact/exact_attention.hpp"

#include <thread>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "support/conformance.hpp"

namespace heed::test {
namespace {

constexpr auto exact_attention = [](const auto&) { return ExactAttention{}; };

INSTANTIATE_METHOD_SUITE(ExactAttention, {.make = exact_attention, .exact_when = exact_attention});

/// A score functor that changes nothing must not change the answer: the path with a functor passes the same checks.
constexpr auto with_idle_functor = [](const Inputs<float>&) {
  return ExactAttention{[](float s, Index, Index) { return s; }};
};

INSTANTIATE_METHOD_SUITE(ExactAttentionWithFunctor, {.make = with_idle_functor, .exact_when = with_idle_functor});

TEST(ExactAttention, AppliesItsFunctorAfterBiasAndBeforeTheMask) {
  const auto in = random_inputs<float>({.n_q = 37, .n_k = 77, .d = 8, .d_v = 5});
  const OptionStore store(37, 77);
  // Not symmetric in i and j, not linear in s, and masks some pairs.
  const auto mod = [](auto s, Index i, Index j) {
    using T = decltype(s);
    if ((i + 2 * j) % 7 == 0) return static_cast<T>(minus_infinity_of<float>());
    return static_cast<T>(s * s * T(0.25) - T(0.01) * static_cast<T>(i) + T(0.02) * static_cast<T>(j));
  };
  const auto exact = in.cast<double>();
  std::vector<AttentionOptions> all_options(1);
  for (const OptionKind& kind : option_kinds(store)) all_options.push_back(options_of(store, kind));
  for (const AttentionOptions& options : all_options) {
    const auto want = reference_attention(exact.q, exact.k, exact.v, options, mod);
    const RoundingError rounding = rounding_against<float>(want, in, options, mod);
    const auto got = attend(in.q, in.k, in.v, options, heed::ExactAttention{mod});
    EXPECT_MATRIX_NEAR(got.out, want.out, rounding.out);
    EXPECT_MATRIX_NEAR(got.lse, want.lse, rounding.lse);
  }
}

// Scores from far below the cap to far above it, where tanh differs from 1 by less and less.
TEST(ExactAttention, CapsScoresOfAnySize) {
  for (const Index n_q : {1, 40}) {
    const auto in = random_inputs<double>({.n_q = n_q, .n_k = 77, .d = 8, .d_v = 5});
    for (const double scale : {0.01, 0.3, 3.0, 30.0}) {
      for (const double cap : {0.5, 3.0, 50.0}) {
        const AttentionOptions options{.scale = scale, .softcap = cap};
        const auto want = reference_attention(in.q, in.k, in.v, options);
        const auto got = attend(in.q, in.k, in.v, options);
        EXPECT_MATRIX_NEAR(got.out, want.out, 1e-12) << scale << " under " << cap;
        EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-12 * (1 + cap));
      }
    }
  }
}

TEST(ExactAttention, AppliesItsFunctorWhenDecodingToo) {
  const auto in = random_inputs<float>({.n_q = 1, .n_k = 3000, .d = 8, .d_v = 5});
  const auto mod = [](auto s, Index i, Index j) {
    return j % 3 == 0 ? decltype(s)(minus_infinity_of<float>()) : s + decltype(s)(0.001) * decltype(s)(i + j);
  };
  const auto exact = in.cast<double>();
  const auto want = reference_attention(exact.q, exact.k, exact.v, {}, mod);
  const auto got = attend(in.q, in.k, in.v, {}, heed::ExactAttention{mod});
  EXPECT_MATRIX_NEAR(got.out, want.out, rounding_against<float>(want, in, {}, mod).out);
}

TEST(ExactAttention, TakesWhateverEigenTypeTheCallerHas) {
  const auto in = random_inputs<float>({.n_q = 37, .n_k = 53, .d = 8, .d_v = 6});
  const auto want = attend(in.q, in.k, in.v);
  const Eigen::MatrixXf q = in.q, k_transposed = in.k.transpose();
  Eigen::MatrixXf wide = Eigen::MatrixXf::Zero(60, 20);
  wide.block(3, 7, 53, 6) = in.v;
  EXPECT_SAME_BITS(attend(q, in.k, in.v).out, want.out);
  EXPECT_SAME_BITS(attend(in.q, k_transposed.transpose(), wide.block(3, 7, 53, 6)).out, want.out);
  const Eigen::Ref<const Eigen::MatrixXf> ref = q;
  const Eigen::Matrix<float, 37, 8> fixed = in.q;
  EXPECT_SAME_BITS(attend(ref, in.k, in.v).out, want.out);
  EXPECT_SAME_BITS(attend(fixed, in.k, in.v).out, want.out);

  Eigen::MatrixXf out(37, 6);
  Eigen::VectorXf lse(37);
  attend_into(out, lse, q, in.k, in.v);
  EXPECT_SAME_BITS(out, want.out);
  EXPECT_SAME_BITS(lse, want.lse);
  std::vector<float> numbers(37);
  Eigen::MatrixXf framed = Eigen::MatrixXf::Zero(40, 9);
  attend_into(framed.block(1, 2, 37, 6), numbers, q, in.k, in.v);
  EXPECT_SAME_BITS(framed.block(1, 2, 37, 6).eval(), want.out);
  EXPECT_EQ(numbers[36], want.lse(36));
}

TEST(ExactAttention, MayWriteSixteenBitQueriesToAFloatResult) {
  const auto in = random_inputs<Eigen::half>({.n_q = 37, .n_k = 53, .d = 8, .d_v = 6});
  const auto exact = in.cast<double>();
  const auto want = reference_attention(exact.q, exact.k, exact.v);
  Matrix<float> out(37, 6);
  attend_into(out, nullptr, in.q, in.k, in.v);
  EXPECT_MATRIX_NEAR(out, want.out, rounding_of(in).out);
}

TEST(ExactAttention, BiasMayHaveAnyScalarAndStorage) {
  for (const Index n_q : {1, 37, 96}) {
    const auto in = random_inputs<float>({.n_q = n_q, .n_k = 77, .d = 8, .d_v = 5});
    Matrix<float> bias = random_matrix<Eigen::bfloat16>(n_q, 77, 9).cast<float>();  // 8 bits that half holds too
    bias = bias.cwiseMax(-2.0f).cwiseMin(2.0f).cast<Eigen::half>().cast<Eigen::bfloat16>().cast<float>();
    for (Index i = 0; i < n_q; ++i) bias(i, (5 * i) % 77) = minus_infinity_of<float>();
    const auto want = attend(in.q, in.k, in.v, {.mask = {.bias = bias}});
    const auto exact = in.cast<double>();
    EXPECT_MATRIX_NEAR(want.out, reference_attention(exact.q, exact.k, exact.v, {.mask = {.bias = bias}}).out,
                       rounding_of(in).out);
    const auto expect_same = [&]<class S>(S) {
      const Matrix<S> rows = bias.cast<S>();
      const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> columns = rows;
      Matrix<S> wide(2 * n_q, 240);
      wide.setConstant(S(77));
      wide.block(1, 3, n_q, 77) = rows;
      Eigen::Map<Matrix<S>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> apart(
          wide.data() + 240, n_q, 77, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(240, 3));
      EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {.mask = {.bias = rows}}).out, want.out);
      EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {.mask = {.bias = columns}}).out, want.out);
      EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {.mask = {.bias = wide.block(1, 3, n_q, 77)}}).out, want.out);
      apart = rows;
      EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {.mask = {.bias = apart}}).out, want.out);
    };
    expect_same(float{});
    expect_same(double{});
    expect_same(Eigen::half{});
    expect_same(Eigen::bfloat16{});
    const Matrix<bool> allowed = (bias.array() > 0.0f).matrix();
    const Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> allowed_by_columns = allowed;
    Matrix<bool> wide(n_q, 231);
    Eigen::Map<Matrix<bool>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> apart(
        wide.data(), n_q, 77, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(231, 3));
    apart = allowed;
    const auto some = attend(in.q, in.k, in.v, {.mask = {.allowed = allowed}});
    EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {.mask = {.allowed = allowed_by_columns}}).out, some.out);
    EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {.mask = {.allowed = apart}}).out, some.out);
    EXPECT_MATRIX_NEAR(some.out, reference_attention(exact.q, exact.k, exact.v, {.mask = {.allowed = allowed}}).out,
                       rounding_of(in).out);
  }
}

TEST(ExactAttention, AMatrixOfBooleansMayHaveAnyNonzeroByteForTrue) {
  const auto in = random_inputs<float>({.n_q = 3, .n_k = 5, .d = 4});
  const Matrix<bool> all = Matrix<bool>::Constant(3, 5, true);
  EXPECT_MATRIX_NEAR(attend(in.q, in.k, in.v, {.mask = {.allowed = all}}).out, attend(in.q, in.k, in.v).out,
                     rounding_of(in).out);
}

TEST(ExactAttention, AlibiFollowsPositionsOfTheTokensOwnSequence) {
  const auto in = random_inputs<double>({.n_q = 60, .n_k = 60, .d = 8});
  const std::vector<Index> offsets{0, 17, 17, 60};
  for (const Causal causal : {Causal::none, Causal::bottom_right}) {
    const AttentionOptions options{.mask = {.causal = causal, .alibi_slope = 0.1, .sequence_offsets = offsets}};
    const auto packed = attend(in.q, in.k, in.v, options);
    const AttentionOptions alone{.mask = {.causal = causal, .alibi_slope = 0.1}};
    const auto first = attend(in.q.topRows(17), in.k.topRows(17), in.v.topRows(17), alone);
    const auto second = attend(in.q.bottomRows(43), in.k.bottomRows(43), in.v.bottomRows(43), alone);
    EXPECT_MATRIX_NEAR(packed.out.topRows(17), first.out, 2.0 * rounding_of(in).out);
    EXPECT_MATRIX_NEAR(packed.out.bottomRows(43), second.out, 2.0 * rounding_of(in).out);
  }
}

TEST(ExactAttention, ConcurrentCallsShareNothing) {
  const auto in = random_inputs<float>({.n_q = 150, .n_k = 200, .d = 40, .d_v = 24});
  const auto want = attend(in.q, in.k, in.v);
  std::vector<AttentionResult<float>> results(4);
  std::vector<std::thread> callers;
  for (AttentionResult<float>& result : results) {
    callers.emplace_back([&] { result = attend(in.q, in.k, in.v, {}, heed::ExactAttention{}, {.threads = 2}); });
  }
  for (std::thread& caller : callers) caller.join();
  for (const AttentionResult<float>& result : results) EXPECT_SAME_BITS(result.out, want.out);
}

TEST(ExactAttention, LeavesEigensThreadsAlone) {
  const auto in = random_inputs<float>({.n_q = 150, .n_k = 200, .d = 40, .d_v = 24});
  const int before = Eigen::nbThreads();
  attend(in.q, in.k, in.v, {}, heed::ExactAttention{}, {.threads = 2});
  EXPECT_EQ(Eigen::nbThreads(), before);
}

TEST(ExactAttention, LongContextsLoseNoAccuracy) {
  const auto in = random_inputs<float>({.n_q = 2, .n_k = 40000, .d = 16, .d_v = 8});
  const auto exact = in.cast<double>();
  const auto want = reference_attention(exact.q, exact.k, exact.v);
  const auto got = attend(in.q, in.k, in.v);
  const RoundingError rounding = rounding_against<float>(want, in);
  EXPECT_MATRIX_NEAR(got.out, want.out, rounding.out);
  EXPECT_MATRIX_NEAR(got.lse, want.lse, rounding.lse);
}

}  // namespace
}  // namespace heed::test
