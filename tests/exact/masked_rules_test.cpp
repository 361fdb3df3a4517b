// Rule 2: a masked key never influences anything, whatever its rows hold. Also compiled with -ffast-math.
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"

namespace heed::test {
namespace {

/// Every key that no query sees is filled with `filler`: not a bit of the answer may change.
template <class S>
void expect_unseen_keys_do_nothing(const AttentionOptions& options, const Inputs<S>& in, const S& filler) {
  Inputs<S> filled = in;
  Index unseen = 0;
  for (Index j = 0; j < in.k.rows(); ++j) {
    bool seen = false;
    for (Index i = 0; i < in.q.rows(); ++i) {
      seen = seen || heed::detail::reference_pair(options.mask, i, j, in.q.rows(), in.k.rows(), 0).kept;
    }
    if (seen) continue;
    ++unseen;
    fill(filled.k.row(j), filler);
    fill(filled.v.row(j), filler);
  }
  if (unseen == 0) return;
  const auto want = attend(in.q, in.k, in.v, options), got = attend(filled.q, filled.k, filled.v, options);
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
  const auto oracle = reference_attention(in.q, in.k, in.v, options),
             oracle_filled = reference_attention(filled.q, filled.k, filled.v, options);
  EXPECT_SAME_BITS(oracle_filled.out, oracle.out);
  EXPECT_SAME_BITS(oracle_filled.lse, oracle.lse);
}

/// One key is poisoned at a time: queries that do not see it keep every bit.
template <class S>
void expect_poison_stays_where_it_is_seen(const AttentionOptions& options, const Inputs<S>& in, const S& poison) {
  const auto clean = attend(in.q, in.k, in.v, options);
  for (Index j = 0; j < in.k.rows(); j += 9) {
    Inputs<S> poisoned = in;
    fill(poisoned.k.row(j), poison);
    fill(poisoned.v.row(j), poison);
    const auto got = attend(poisoned.q, poisoned.k, poisoned.v, options);
    Index changed = 0;
    for (Index i = 0; i < in.q.rows(); ++i) {
      if (heed::detail::reference_pair(options.mask, i, j, in.q.rows(), in.k.rows(), 0).kept) continue;
      changed += !same_bits(got.lse(i), clean.lse(i));
      for (Index c = 0; c < in.v.cols(); ++c) changed += !same_bits(got.out(i, c), clean.out(i, c));
    }
    EXPECT_EQ(changed, 0) << "numbers changed by key " << j;
  }
}

template <class S>
void expect_masked_keys_do_nothing() {
  for (const Index n_q : {1, 4, 70}) {
    const auto in = random_inputs<S>({.n_q = n_q, .n_k = 150, .d = 5, .d_v = 6});
    const OptionStore store(n_q, 150);
    for (const OptionKind& kind : option_kinds(store)) {
      if (!kind.masks_pairs) continue;
      const AttentionOptions options = options_of(store, kind);
      for (const S* poison : {&nan_of<S>(), &infinity_of<S>(), &minus_infinity_of<S>()}) {
        SCOPED_TRACE(std::string(kind.name) + " with " + std::to_string(n_q) + " queries");
        expect_unseen_keys_do_nothing(options, in, *poison);
        expect_poison_stays_where_it_is_seen(options, in, *poison);
      }
    }
  }
}

TEST(RuleTwo, MaskedKeysNeverInfluenceAnything) {
  expect_masked_keys_do_nothing<float>();
  expect_masked_keys_do_nothing<double>();
}

TEST(RuleTwo, MaskedKeysOfACacheNeverInfluenceAnything) {
  const Matrix<float> q = random_matrix<float>(1, 12, 1), k = random_matrix<float>(100, 4, 2),
                      v = random_matrix<float>(100, 5, 3);
  Matrix<float> bad_k = k, bad_v = v;
  fill(bad_k.topRows(40), nan_of<float>());
  fill(bad_v.topRows(40), infinity_of<float>());
  KeyValueCache<Eigen::half> good(4, 5), bad(4, 5);
  good.append(k, v);
  bad.append(bad_k, bad_v);
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 59}};
  EXPECT_SAME_BITS(attend(q, bad, options).out, attend(q, good, options).out);
}

}  // namespace
}  // namespace heed::test
