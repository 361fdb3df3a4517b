// bfloat16 storage over panels of queries, with the dot instruction or without it, as the active instruction set has
// it.
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/heads.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/rounding.hpp"
#include "support/strided.hpp"

namespace heed::test {
namespace {

using S = Eigen::bfloat16;

/// Twice the error of a naive run in bfloat16, out and lse, against the oracle in double.
void expect_twice_naive_at_most(const Inputs<S>& in, const AttentionOptions& options = {}) {
  const Inputs<double> exact = in.cast<double>();
  const auto want = reference_attention(exact.q, exact.k, exact.v, options);
  const RoundingError rounding = rounding_against<S>(want, in, options);
  const auto got = attend(in.q, in.k, in.v, options);
  EXPECT_MATRIX_NEAR(got.out, want.out, rounding.out);
  EXPECT_MATRIX_NEAR(got.lse, want.lse, rounding.lse);
  Matrix<float> out(in.q.rows(), in.v.cols());
  attend_into(out, nullptr, in.q, in.k, in.v, options);
  EXPECT_MATRIX_NEAR(out, want.out, rounding.out);
}

TEST(Bfloat16, AnyShapeIsAsExactAsANaiveRun) {
  for (const Index n_q : {2, 16, 33, 48, 49, 113}) {
    for (const Index n_k : {1, 2, 7, 16, 127, 128, 129, 203}) {
      expect_twice_naive_at_most(random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = 8, .d_v = 9}));
    }
  }
  for (const Index d : {1, 2, 3, 31, 32, 33, 64, 65}) {
    for (const Index d_v : {1, 7, 8, 16, 17, 40}) {
      expect_twice_naive_at_most(random_inputs<S>({.n_q = 50, .n_k = 131, .d = d, .d_v = d_v}));
    }
  }
}

TEST(Bfloat16, AnyOptionIsAsExactAsANaiveRun) {
  for (const auto& [n_q, n_k] : {std::pair<Index, Index>{70, 150}, {150, 150}, {97, 301}}) {
    const auto in = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = 5, .d_v = 6});
    const OptionStore store(n_q, n_k);
    const std::vector<OptionKind> kinds = option_kinds(store);
    for (const OptionKind& kind : kinds) {
      SCOPED_TRACE(kind.name);
      expect_twice_naive_at_most(in, options_of(store, kind));
      for (const OptionKind& other : kinds) {
        if (&other <= &kind || !fit_together(kind, other) || !other.masks_pairs) continue;
        SCOPED_TRACE(other.name);
        expect_twice_naive_at_most(in, options_of(store, kind, other));
      }
    }
  }
}

TEST(Bfloat16, ScalesFromFlatToPeakedAreAsExactAsANaiveRun) {
  const auto in = random_inputs<S>({.n_q = 64, .n_k = 515, .d = 64, .d_v = 32});
  for (const double scale : {1e-4, 0.003, 0.03, 0.125, 0.5, 2.0, -0.125}) {
    SCOPED_TRACE(scale);
    expect_twice_naive_at_most(in, {.scale = scale});
  }
}

TEST(Bfloat16, LongContextsLoseNoAccuracy) {
  for (const Index n_q : {3, 50})
    expect_twice_naive_at_most(random_inputs<S>({.n_q = n_q, .n_k = 9001, .d = 16, .d_v = 8}));
}

/// The window of query i begins and ends at odd keys for every other query, and at odd places of a tile.
TEST(Bfloat16, NarrowWindowsBeginAnywhere) {
  const auto in = random_inputs<S>({.n_q = 150, .n_k = 300, .d = 6, .d_v = 3});
  for (const Index left : {0, 1, 2, 13, 140}) {
    for (const Index right : {0, 1, 14}) {
      for (const Index real : {299, 300, 151}) {
        expect_twice_naive_at_most(
            in, {.mask = {.causal = Causal::none, .window_left = left, .window_right = right, .n_real_keys = real}});
      }
    }
  }
}

TEST(Bfloat16, ResultsAreTheSameBitsInAnyLayout) {
  for (const Index d : {5, 8, 64}) {
    const auto in = random_inputs<S>({.n_q = 400, .n_k = 150, .d = d, .d_v = 9});  // panels enough to share tiles
    const auto want = attend(in.q, in.k, in.v);
    for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
      SCOPED_TRACE(static_cast<int>(layout));
      const Strided<S> q(in.q, layout), k(in.k, layout), v(in.v, layout);
      Strided<S> out(400, 9, layout);
      attend_into(out.map(), nullptr, q.map(), k.map(), v.map());
      EXPECT_SAME_BITS(out.map(), want.out);
      EXPECT_TRUE(out.surroundings_untouched());
      const auto few = attend(q.map().topRows(20), k.map(), v.map());  // one panel alone reads keys in place
      EXPECT_SAME_BITS(few.out, want.out.topRows(20).eval());
    }
  }
}

TEST(Bfloat16, PackedHeadsAreTheSameBitsAsHeadsAlone) {
  for (const Index d : {7, 16}) {
    const Matrix<S> q = random_matrix<S>(130, 4 * d, 1), k = random_matrix<S>(90, 2 * d, 2),
                    v = random_matrix<S>(90, 2 * 5, 3);
    const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 61}};
    const auto all = multi_head_attend(q, k, v, {.n_heads = 4, .n_kv_heads = 2}, options);
    for (Index h = 0; h < 4; ++h) {
      const auto one = attend(q.middleCols(h * d, d), k.middleCols(h / 2 * d, d), v.middleCols(h / 2 * 5, 5), options);
      EXPECT_SAME_BITS(all.out.middleCols(h * 5, 5).eval(), one.out);
      EXPECT_SAME_BITS(all.lse.col(h).eval(), one.lse);
    }
  }
}

TEST(Bfloat16, SeveralQueriesAgainstACacheAreTheSameBits) {
  const auto in = random_inputs<S>({.n_q = 20, .n_k = 131, .d = 8, .d_v = 6});
  KeyValueCache<S> cache(8, 6);
  cache.append(in.k, in.v);
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
  EXPECT_SAME_BITS(attend(in.q, cache, options).out, attend(in.q, in.k, in.v, options).out);
}

/// A key that is NaN or infinite reaches the queries that see it and changes no bit of the others, whoever its
/// neighbour is.
TEST(Bfloat16, MaskedKeysNeverInfluenceAnything) {
  for (const Index n_k : {133, 150}) {
    const auto in = random_inputs<S>({.n_q = 70, .n_k = n_k, .d = 5, .d_v = 6});
    const OptionStore store(70, n_k);
    for (const OptionKind& kind : option_kinds(store)) {
      if (!kind.masks_pairs) continue;
      SCOPED_TRACE(kind.name);
      const AttentionOptions options = options_of(store, kind);
      const auto clean = attend(in.q, in.k, in.v, options);
      for (const S poison : {nan_of<S>(), infinity_of<S>(), minus_infinity_of<S>()}) {
        for (Index j = 0; j < n_k; j += j % 16 == 0 || j >= 126 ? 1 : 5) {
          Inputs<S> poisoned = in, one_value = in;
          poisoned.k.row(j).setConstant(poison);
          poisoned.v.row(j).setConstant(poison);
          one_value.v(j, 2) = poison;
          const auto got = attend(poisoned.q, poisoned.k, poisoned.v, options),
                     of_value = attend(one_value.q, one_value.k, one_value.v, options);
          Index wrong = 0;
          for (Index i = 0; i < 70; ++i) {
            const bool sees = heed::detail::reference_pair(options.mask, i, j, 70, n_k, 0).kept;
            wrong += !sees && !same_bits(got.lse(i), clean.lse(i));
            for (Index c = 0; c < 6; ++c) {
              wrong += !sees && !same_bits(got.out(i, c), clean.out(i, c));
              const bool spoiled = sees && c == 2;
              wrong += spoiled ? heed::detail::is_finite(static_cast<float>(of_value.out(i, c)))
                               : !same_bits(of_value.out(i, c), clean.out(i, c));
            }
          }
          EXPECT_EQ(wrong, 0) << "numbers, key " << j;
        }
      }
    }
  }
}

TEST(Bfloat16, NanInAQueryStaysInItsRowForAnyScale) {
  const auto in = random_inputs<S>({.n_q = 50, .n_k = 131, .d = 7, .d_v = 3});
  for (const double scale : {0.25, -0.25, 0.0}) {
    for (const S poison : {nan_of<S>(), infinity_of<S>()}) {
      Inputs<S> poisoned = in;
      poisoned.q(17, 6) = poison;
      const auto clean = attend(in.q, in.k, in.v, {.scale = scale}),
                 got = attend(poisoned.q, poisoned.k, poisoned.v, {.scale = scale});
      for (Index i = 0; i < 50; ++i) {
        if (i == 17) {
          EXPECT_TRUE(is_nan(got.out(i, 0))) << "scale " << scale;
        } else {
          EXPECT_TRUE(same_bits(got.out(i, 0), clean.out(i, 0)));
        }
      }
    }
  }
}

}  // namespace
}  // namespace heed::test
