// Rule 1: a query without a kept key gets out = 0 and lse = -inf. Also compiled with -ffast-math.
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

template <class S>
bool row_is_empty(const AttentionResult<S>& result, Index i) {
  bool empty = heed::detail::is_minus_infinity(result.lse(i));
  for (Index c = 0; c < result.out.cols(); ++c) empty = empty && static_cast<double>(result.out(i, c)) == 0.0;
  return empty;
}

/// Rows without a kept key, by the oracle's reading of the mask.
std::vector<bool> empty_rows(const Mask& mask, Index n_q, Index n_k) {
  std::vector<bool> empty;
  for (Index i = 0; i < n_q; ++i) {
    bool any = false;
    for (Index j = 0; j < n_k; ++j) any = any || heed::detail::reference_pair(mask, i, j, n_q, n_k, 0).kept;
    empty.push_back(!any);
  }
  return empty;
}

template <class S>
void expect_empty_rows_are_empty(const Mask& mask, Index n_q, Index n_k) {
  const auto in = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = 5, .d_v = 6});
  const auto engine = attend(in.q, in.k, in.v, {.mask = mask});
  const auto oracle = reference_attention(in.q, in.k, in.v, {.mask = mask});
  const std::vector<bool> empty = empty_rows(mask, n_q, n_k);
  for (Index i = 0; i < n_q; ++i) {
    EXPECT_EQ(row_is_empty(engine, i), empty[static_cast<std::size_t>(i)])
        << "row " << i << " of " << n_q << " x " << n_k;
    EXPECT_EQ(row_is_empty(oracle, i), empty[static_cast<std::size_t>(i)])
        << "row " << i << " of " << n_q << " x " << n_k;
    for (Index c = 0; c < 6; ++c) EXPECT_TRUE(heed::detail::is_finite(static_cast<double>(engine.out(i, c))));
  }
}

template <class S>
void expect_no_kept_key_gives_zeros() {
  for (const Index n_q : {1, 3, 70}) {
    for (const Index n_k : {1, 30, 200}) {
      OptionStore store(n_q, n_k);
      store.allowed.row(n_q / 2).setConstant(false);
      fill(store.masking_bias.row(n_q - 1), minus_infinity_of<double>());
      for (const OptionKind& kind : option_kinds(store)) {
        if (!kind.masks_pairs) continue;
        SCOPED_TRACE(kind.name);
        expect_empty_rows_are_empty<S>(options_of(store, kind).mask, n_q, n_k);
      }
      expect_empty_rows_are_empty<S>({.n_real_keys = 0}, n_q, n_k);
      const std::vector<Index> queries{0, n_q, n_q}, keys{0, 0, n_k};
      expect_empty_rows_are_empty<S>({.sequence_offsets = queries, .key_sequence_offsets = keys}, n_q, n_k);
    }
  }
}

TEST(RuleOne, NoKeptKeyGivesZerosAndMinusInfinity) {
  expect_no_kept_key_gives_zeros<float>();
  expect_no_kept_key_gives_zeros<double>();
}

TEST(RuleOne, NoKeysGiveZerosAndNoQueriesGiveNothing) {
  const Matrix<float> q = random_matrix<float>(9, 4, 1), none(0, 4), no_values(0, 3);
  for (const Index n_q : {1, 9}) {
    const auto result = attend(q.topRows(n_q), none, no_values);
    ASSERT_EQ(result.out.rows(), n_q);
    ASSERT_EQ(result.out.cols(), 3);
    for (Index i = 0; i < n_q; ++i) EXPECT_TRUE(row_is_empty(result, i));
  }
  EXPECT_EQ(attend(none, q, q).out.rows(), 0);
  EXPECT_EQ(attend(none, none, none).lse.size(), 0);
  const KeyValueCache<float> cache(4, 3);
  const auto decoded = attend(q.topRows(1), cache);
  EXPECT_EQ(decoded.out.cwiseAbs().maxCoeff(), 0.0f);
  EXPECT_TRUE(heed::detail::is_minus_infinity(decoded.lse(0, 0)));
}

TEST(RuleOne, WithASinkAndNoKeptKeyTheLseIsTheSink) {
  const auto in = random_inputs<float>({.n_q = 9, .n_k = 40, .d = 4, .d_v = 3});
  for (const Index n_q : {1, 9}) {
    const auto result = attend(in.q.topRows(n_q), in.k, in.v, {.mask = {.n_real_keys = 0}, .sinks = 1.25});
    for (Index i = 0; i < n_q; ++i) {
      EXPECT_NEAR(result.lse(i), 1.25f, 1e-6f);
      for (Index c = 0; c < 3; ++c) EXPECT_EQ(result.out(i, c), 0.0f);
    }
  }
}

}  // namespace
}  // namespace heed::test
