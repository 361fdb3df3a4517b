#include "heed/core/key_bounds.hpp"

#include <vector>

#include <gtest/gtest.h>

#include "heed/exact/reference.hpp"

namespace heed {
namespace {

// Ranges against the oracle's reading of the mask, pair by pair, for every combination of positional masks.
void expect_ranges(const Mask& mask, Index n_q, Index n_k) {
  const detail::KeyBounds bounds(mask, n_q, n_k);
  Index last_low = 0, last_high = 0;
  bool all = true;
  for (Index i = 0; i < n_q; ++i) {
    const detail::KeyRange range = bounds.of(i);
    for (Index j = 0; j < n_k; ++j) {
      const bool kept = detail::reference_pair(mask, i, j, n_q, n_k, 0).kept;
      EXPECT_EQ(range.low <= j && j < range.high, kept)
          << "query " << i << ", key " << j << " of " << n_q << " x " << n_k;
      all = all && kept;
    }
    EXPECT_LE(range.low, range.high);
    if (range.low < range.high) {
      EXPECT_GE(range.low, last_low);
      EXPECT_GE(range.high, last_high);
      last_low = range.low;
      last_high = range.high;
    }
  }
  if (bounds.unlimited()) {
    EXPECT_TRUE(all);
  }
}

TEST(KeyBounds, AreTheKeysThatThePositionalMasksKeep) {
  for (const Index n_q : {1, 5, 9}) {
    for (const Index n_k : {1, 5, 12}) {
      for (const Causal causal : {Causal::none, Causal::top_left, Causal::bottom_right}) {
        for (const Index left : {Index{0}, Index{2}, Index{100}, Mask::unlimited}) {
          for (const Index right : {Index{0}, Index{3}, Mask::unlimited - 1, Mask::unlimited}) {
            for (const Index real : {Index{0}, n_k / 2, Mask::unlimited}) {
              Mask mask{.causal = causal, .window_left = left, .window_right = right, .n_real_keys = real};
              expect_ranges(mask, n_q, n_k);
              const std::vector<Index> q_offsets{0, n_q / 2, n_q / 2, n_q}, k_offsets{0, n_k / 3, n_k / 2, n_k};
              mask.sequence_offsets = q_offsets;
              mask.key_sequence_offsets = k_offsets;
              expect_ranges(mask, n_q, n_k);
            }
          }
        }
      }
    }
  }
}

TEST(KeyBounds, AreUnlimitedWithoutMasks) {
  const Mask all;
  EXPECT_TRUE(detail::KeyBounds(all, 5, 7).unlimited());
  const Mask causal{.causal = Causal::bottom_right};
  EXPECT_FALSE(detail::KeyBounds(causal, 5, 7).unlimited());
}

}  // namespace
}  // namespace heed
