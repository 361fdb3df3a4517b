// Conformance: what must stay equal when the inputs change in a known way.
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "support/conformance.hpp"

namespace heed::test {
namespace {

/// The rows of `m` named by `rows`.
template <class S>
Matrix<S> rows_of(const Matrix<S>& m, const std::vector<Index>& rows) {
  Matrix<S> picked(static_cast<Index>(rows.size()), m.cols());
  for (std::size_t t = 0; t < rows.size(); ++t) picked.row(static_cast<Index>(t)) = m.row(rows[t]);
  return picked;
}

std::vector<Index> shuffled(Index n, std::uint64_t seed) {
  std::vector<Index> order(static_cast<std::size_t>(n));
  std::iota(order.begin(), order.end(), Index{0});
  NumberStream numbers(seed);
  for (Index t = n - 1; t > 0; --t)
    std::swap(order[static_cast<std::size_t>(t)], order[static_cast<std::size_t>(numbers.below(t + 1))]);
  return order;
}

/// Two results of one call, each off by its rounding.
RoundingError of_two(const RoundingError& a, const RoundingError& b) { return {a.out + b.out, a.lse + b.lse}; }

TEST_P(MethodConformance, PaddingKeysEqualsDeletingThem) {
  with_scalar([&]<class S>(S) {
    if (!method_case().supports("padding")) GTEST_SKIP() << "no padding mask";
    const Inputs<S> in = random_inputs<S>({.n_q = 70, .n_k = 203, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    for (const Index n_real : {0, 1, 63, 64, 65, 128, 192, 200, 202, 203}) {
      AttentionOptions options;
      options.mask.n_real_keys = n_real;
      const Inputs<S> real{in.q, in.k.topRows(n_real), in.v.topRows(n_real), in.made_from};
      const AttentionResult<S> padded = call(method, in, options), deleted = call(method, real);
      const RoundingError rounding = expected_of(method_case(), in, options).rounding;
      EXPECT_MATRIX_NEAR(padded.out, deleted.out, 2.0 * rounding.out);
      if (method_case().has_softmax) {
        EXPECT_MATRIX_NEAR(padded.lse, deleted.lse, 2.0 * rounding.lse);
      }
    }
  });
}

TEST_P(MethodConformance, MaskingKeysForEveryQueryEqualsDeletingThem) {
  with_scalar([&]<class S>(S) {
    if (method_case().positional) GTEST_SKIP() << "deleting a key moves the others";
    if (!method_case().supports("allowed") || !method_case().supports("masking_bias")) GTEST_SKIP() << "no pair masks";
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    const std::vector<Index> order = shuffled(113, 8);
    for (const std::size_t n_kept : {std::size_t{1}, std::size_t{20}, std::size_t{112}}) {
      const std::vector<Index> kept(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(n_kept));
      PairMatrix allowed = PairMatrix::Constant(65, 113, false);
      Matrix<float> bias = Matrix<float>::Constant(65, 113, minus_infinity_of<float>());
      for (const Index j : kept) {
        allowed.col(j).setConstant(true);
        bias.col(j).setZero();
      }
      AttentionOptions by_allowed, by_bias;
      by_allowed.mask.allowed = allowed;
      by_bias.mask.bias = bias;
      const AttentionResult<S> deleted =
          call(method, Inputs<S>{in.q, rows_of(in.k, kept), rows_of(in.v, kept), in.made_from});
      for (const AttentionOptions& options : {by_allowed, by_bias}) {
        const AttentionResult<S> masked = call(method, in, options);
        const RoundingError rounding = expected_of(method_case(), in, options).rounding;
        EXPECT_MATRIX_NEAR(masked.out, deleted.out, 2.0 * rounding.out);
        if (method_case().has_softmax) {
          EXPECT_MATRIX_NEAR(masked.lse, deleted.lse, 2.0 * rounding.lse);
        }
      }
    }
  });
}

TEST_P(MethodConformance, ResultsOfTwoSetsOfKeysMergeByTheirLse) {
  with_scalar([&]<class S>(S) {
    using A = Accumulator<S>;
    const MethodCase& method_of = method_case();
    if (!method_of.has_softmax || method_of.positional || method_of.falls_back) GTEST_SKIP() << "parts do not merge";
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 203, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    const AttentionResult<S> whole = call(method, in);
    const RoundingError rounding = expected_of(method_case(), in).rounding;
    for (const Index n_first : {0, 1, 64, 100, 202, 203}) {
      const Index n_rest = 203 - n_first;
      const AttentionResult<S> first =
          call(method, Inputs<S>{in.q, in.k.topRows(n_first), in.v.topRows(n_first), in.made_from});
      const AttentionResult<S> rest =
          call(method, Inputs<S>{in.q, in.k.bottomRows(n_rest), in.v.bottomRows(n_rest), in.made_from});
      Matrix<double> out(65, 9);
      Vector<A> lse(65);
      double worst_rounding = 0.0;  // parts may hold larger values than the whole
      for (Index i = 0; i < 65; ++i) {
        const double a = static_cast<double>(first.lse(i)), b = static_cast<double>(rest.lse(i));
        const double larger = std::max(a, b);
        const double sum = heed::detail::is_minus_infinity(larger)
                               ? larger
                               : larger + std::log(std::exp(a - larger) + std::exp(b - larger));
        lse(i) = static_cast<A>(sum);
        for (Index c = 0; c < 9; ++c) {
          out(i, c) = heed::detail::is_minus_infinity(sum)
                          ? 0.0
                          : std::exp(a - sum) * static_cast<double>(first.out(i, c)) +
                                std::exp(b - sum) * static_cast<double>(rest.out(i, c));
        }
      }
      worst_rounding = rounding.out + static_cast<double>(Eigen::NumTraits<S>::epsilon()) * largest_finite(in.v) *
                                          (n_first < 8 || n_rest < 8 ? 2.0 : 1.0);
      EXPECT_MATRIX_NEAR(whole.out, out, 2.0 * worst_rounding);
      EXPECT_MATRIX_NEAR(whole.lse, lse, 3.0 * rounding.lse);
    }
  });
}

TEST_P(MethodConformance, PermutingKeysChangesNothing) {
  with_scalar([&]<class S>(S) {
    if (method_case().positional) GTEST_SKIP() << "the method looks at positions";
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    const std::vector<Index> order = shuffled(113, 9);
    const AttentionResult<S> got =
        call(method, Inputs<S>{in.q, rows_of(in.k, order), rows_of(in.v, order), in.made_from});
    const AttentionResult<S> want = call(method, in);
    const RoundingError rounding = expected_of(method_case(), in).rounding;
    EXPECT_MATRIX_NEAR(got.out, want.out, of_two(rounding, rounding).out);
    if (method_case().has_softmax) {
      EXPECT_MATRIX_NEAR(got.lse, want.lse, of_two(rounding, rounding).lse);
    }
  });
}

TEST_P(MethodConformance, PermutingQueriesPermutesTheAnswer) {
  with_scalar([&]<class S>(S) {
    if (method_case().positional) GTEST_SKIP() << "the method looks at positions";
    const Inputs<S> in = random_inputs<S>({.n_q = 113, .n_k = 65, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    const std::vector<Index> order = shuffled(113, 10);
    const AttentionResult<S> got = call(method, Inputs<S>{rows_of(in.q, order), in.k, in.v, in.made_from});
    const AttentionResult<S> want = call(method, in);
    const RoundingError rounding = expected_of(method_case(), in).rounding;
    EXPECT_MATRIX_NEAR(got.out, rows_of(want.out, order), of_two(rounding, rounding).out);
    for (Index i = 0; method_case().has_softmax && i < 113; ++i) {
      EXPECT_NEAR(static_cast<double>(got.lse(i)), static_cast<double>(want.lse(order[static_cast<std::size_t>(i)])),
                  2.0 * rounding.lse);
    }
  });
}

TEST_P(MethodConformance, TheAnswerIsLinearInV) {
  with_scalar([&]<class S>(S) {
    if (!method_case().linear_in_v) GTEST_SKIP() << "the method is not linear in v";
    const Inputs<S> in = random_inputs<S>({.n_q = 65, .n_k = 113, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    // Small integers, so that 2 v + w is exact in every scalar.
    Inputs<S> with_v = in, with_w = in, with_sum = in;
    for (Index j = 0; j < 113; ++j) {
      for (Index c = 0; c < 9; ++c) {
        const int v = static_cast<int>((j * 7 + c * 3) % 9) - 4, w = static_cast<int>((j * 5 + c) % 7) - 3;
        with_v.v(j, c) = static_cast<S>(static_cast<float>(v));
        with_w.v(j, c) = static_cast<S>(static_cast<float>(w));
        with_sum.v(j, c) = static_cast<S>(static_cast<float>(2 * v + w));
      }
    }
    const AttentionResult<S> of_v = call(method, with_v), of_w = call(method, with_w), of_sum = call(method, with_sum);
    const Matrix<double> want = 2.0 * of_v.out.template cast<double>() + of_w.out.template cast<double>();
    const double rounding = expected_of(method_case(), with_v).rounding.out * 2.0 +
                            expected_of(method_case(), with_w).rounding.out +
                            expected_of(method_case(), with_sum).rounding.out;
    EXPECT_MATRIX_NEAR(of_sum.out, want, rounding);
    EXPECT_SAME_BITS(of_sum.lse, of_v.lse);
  });
}

}  // namespace
}  // namespace heed::test
