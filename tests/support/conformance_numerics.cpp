// Conformance: numbers of any size, and rows that must never be read.
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "support/conformance.hpp"

namespace heed::test {
namespace {

TEST_P(MethodConformance, TinyScoresGiveTheExpectedAnswer) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 37, .n_k = 113, .d = 8, .d_v = 9});
    for (const double scale : {1e-30, -1e-30, 1e-4}) {
      AttentionOptions options;
      options.scale = scale;
      expect_as_expected(method_case(), method_case().make(in), in, options);
    }
  });
}

// From some size on every score is known only to within its own rounding, and the softmax picks one key. A row is
// judged where that key leads by more than the rounding.
TEST_P(MethodConformance, HugeScoresGiveTheValueOfTheirLargestKey) {
  with_scalar([&]<class S>(S) {
    if (!method_case().has_softmax || method_case().expected.has<S>()) GTEST_SKIP() << "no softmax over keys";
    using A = Accumulator<S>;
    constexpr double epsilon = std::numeric_limits<A>::epsilon();
    const Inputs<S> in = random_inputs<S>({.n_q = 70, .n_k = 203, .d = 8, .d_v = 9});
    const AnyMethod<S> method = method_case().make(in);
    const double coarse =
        method_case().coarse.has<S>() ? largest_difference(method_case().coarse(in).k, in.k) / largest_finite(in.k) : 0;
    for (const double size : {1e4, 1e6, 1e10, 1e20, 1e30}) {
      for (const double sign : {1.0, -1.0}) {
        AttentionOptions options;
        options.scale = sign * size;
        SCOPED_TRACE("scale " + std::to_string(*options.scale));
        const AttentionResult<S> got = call(method, in, options);
        const Expected<S> want = expected_of(method_case(), in, options);
        const PairMatrix kept = kept_pairs(method_case(), in, options);
        Index judged = 0, wrong = 0;
        for (Index i = 0; i < 70; ++i) {
          double first = -std::numeric_limits<double>::max(), second = first, magnitude = 0.0;
          for (Index j = 0; j < 203; ++j) {
            if (!kept(i, j)) continue;
            double score = 0.0, terms = 0.0;
            for (Index c = 0; c < 8; ++c) {
              const double term = static_cast<double>(in.q(i, c)) * static_cast<double>(in.k(j, c)) * *options.scale;
              score += term;
              terms += std::abs(term);
            }
            magnitude = std::max(magnitude, terms);  // a score near 0 is rounded like its terms
            second = std::max(second, std::min(score, first));
            first = std::max(first, score);
          }
          const double uncertainty = std::max(64.0 * epsilon, 2.0 * coarse) * magnitude;  // of q and of k
          if (first - second < uncertainty + 40.0) continue;
          ++judged;
          const double lse = static_cast<double>(got.lse(i));
          wrong +=
              !heed::detail::is_finite(lse) || std::abs(lse - static_cast<double>(want.result.lse(i))) > uncertainty;
          for (Index c = 0; c < 9; ++c) {
            const double out = static_cast<double>(got.out(i, c));
            wrong += !heed::detail::is_finite(out) ||
                     std::abs(out - static_cast<double>(want.result.out(i, c))) > want.rounding.out;
          }
        }
        EXPECT_GT(judged, 50);
        EXPECT_EQ(wrong, 0) << "numbers in judged rows";
        Index not_finite = 0;
        for (Index i = 0; i < 70; ++i) {
          not_finite += !heed::detail::is_finite(static_cast<double>(got.lse(i)));
          for (Index c = 0; c < 9; ++c) not_finite += !heed::detail::is_finite(static_cast<double>(got.out(i, c)));
        }
        EXPECT_EQ(not_finite, 0) << "numbers in any row";
      }
    }
  });
}

// One key at a time is made NaN or infinite. Rows that do not see it must not change by a bit, or by more than rounding
// where rows share scales; rows that see a NaN must show it.
TEST_P(MethodConformance, NanAndInfinityReachExactlyTheRowsThatSeeThem) {
  with_scalar([&]<class S>(S) {
    using A = Accumulator<S>;
    if (method_case().expected.has<S>()) GTEST_SKIP() << "no set of pairs";
    constexpr Index d_v = 21, spoiled = 17;  // beyond the columns of one register
    const Inputs<S> in = random_inputs<S>({.n_q = 71, .n_k = 133, .d = 8, .d_v = d_v});
    const AnyMethod<S> method = method_case().make(in);
    const OptionStore store(in.q.rows(), in.k.rows());
    for (const OptionKind& kind : option_kinds(store)) {
      if (!kind.masks_pairs || !method_case().supports(kind.name)) continue;
      const AttentionOptions options = options_of(store, kind);
      const PairMatrix kept = kept_pairs(method_case(), in, options);
      const PairMatrix in_call = kept_pairs(mask_alone(method_case()), in, options);
      const AttentionResult<S> clean = call(method, in, options);
      const double shift = method_case().shares_scales ? 2 * expected_of(method_case(), in, options).rounding.out : 0;
      const auto stays = [shift](S got, S before) {
        return same_bits(got, before) || std::abs(static_cast<double>(got) - static_cast<double>(before)) < shift;
      };
      for (const Index j : {0, 2, 5, 31, 32, 63, 64, 88, 89, 127, 132}) {
        SCOPED_TRACE(std::string(kind.name) + ", key " + std::to_string(j));
        Inputs<S> nan_key = in, nan_value = in, infinite = in;
        nan_key.k.row(j).setConstant(nan_of<S>());
        nan_value.v(j, spoiled) = nan_of<S>();
        infinite.k.row(j).setConstant(infinity_of<S>());
        infinite.v.row(j).setConstant(infinity_of<S>());
        const bool may_move =
            method_case().reads_keys_to_choose && in_call.col(j).any();  // a NaN key may be routed anywhere
        const AttentionResult<S> of_nan_key = call(method, nan_key, options);
        const AttentionResult<S> of_nan_value = call(method, nan_value, options);
        const AttentionResult<S> of_infinite = call(method, infinite, options);
        Index wrong = 0;
        for (Index i = 0; i < in.q.rows(); ++i) {
          const bool sees = kept(i, j);
          wrong += !may_move && is_nan(static_cast<A>(of_nan_key.lse(i))) != sees && method_case().has_softmax;
          for (Index c = 0; c < d_v; ++c) {
            wrong += !may_move && is_nan(of_nan_key.out(i, c)) != sees;
            const bool in_column = c == spoiled || method_case().mixes_columns;
            wrong += is_nan(of_nan_value.out(i, c)) != (sees && in_column);
            if (!in_column) wrong += !same_bits(of_nan_value.out(i, c), clean.out(i, c));
            if (!sees && !may_move) {
              wrong += !stays(of_nan_key.out(i, c), clean.out(i, c));
              wrong += !stays(of_nan_value.out(i, c), clean.out(i, c));
              wrong += !stays(of_infinite.out(i, c), clean.out(i, c));
            }
          }
        }
        EXPECT_EQ(wrong, 0) << "entries";
      }
    }
  });
}

TEST_P(MethodConformance, NanInAQueryStaysInItsRow) {
  with_scalar([&]<class S>(S) {
    const Inputs<S> in = random_inputs<S>({.n_q = 71, .n_k = 133, .d = 8, .d_v = 5});
    const AnyMethod<S> method = method_case().make(in);
    const AttentionResult<S> clean = call(method, in);
    for (const Index row : {0, 15, 16, 63, 70}) {
      Inputs<S> poisoned = in;
      poisoned.q(row, 3) = nan_of<S>();
      const AttentionResult<S> got = call(method, poisoned);
      for (Index i = 0; i < 71; ++i) {
        for (Index c = 0; c < 5; ++c) {
          if (i != row || method_case().shows_nan_of_queries) {
            EXPECT_EQ(is_nan(got.out(i, c)), i == row);
          }
          if (i != row) {
            EXPECT_TRUE(same_bits(got.out(i, c), clean.out(i, c)));
          }
        }
      }
    }
  });
}

TEST_P(MethodConformance, EveryKeyPoisonedAndMaskedGivesZeros) {
  with_scalar([&]<class S>(S) {
    Inputs<S> in = random_inputs<S>({.n_q = 19, .n_k = 133, .d = 8, .d_v = 5});
    const AnyMethod<S> method = method_case().make(in);
    in.k.setConstant(nan_of<S>());
    in.v.setConstant(nan_of<S>());
    const PairMatrix none = PairMatrix::Constant(19, 133, false);
    const Matrix<float> minus_infinity = Matrix<float>::Constant(19, 133, minus_infinity_of<float>());
    AttentionOptions by_padding, by_allowed, by_bias;
    by_padding.mask.n_real_keys = 0;
    by_allowed.mask.allowed = none;
    by_bias.mask.bias = minus_infinity;
    const std::pair<std::string_view, AttentionOptions> cases[] = {
        {"padding", by_padding}, {"allowed", by_allowed}, {"masking_bias", by_bias}};
    for (const auto& [name, options] : cases) {
      if (!method_case().supports(name)) continue;
      SCOPED_TRACE(name);
      const AttentionResult<S> got = call(method, in, options);
      EXPECT_MATRIX_NEAR(got.out, Matrix<double>::Zero(19, 5).eval(), 0.0);
      for (Index i = 0; method_case().has_softmax && i < 19; ++i) {
        EXPECT_TRUE(same_bits(got.lse(i), minus_infinity_of<Accumulator<S>>()));
      }
    }
  });
}

}  // namespace
}  // namespace heed::test
