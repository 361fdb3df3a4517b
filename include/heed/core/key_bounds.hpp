#pragma once
#include <algorithm>
#include <span>

#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// Keys [low, high) a query may see by position, and the key position on its aligned diagonal.
struct KeyRange {
  Index low = 0;
  Index high = 0;
  Index diagonal = 0;
};

/// One past the last query of the packed sequence that query `first` begins or is in.
inline Index end_of_sequence(const Mask& mask, Index first, Index n_q) {
  if (mask.sequence_offsets.empty()) return n_q;
  return *std::upper_bound(mask.sequence_offsets.begin(), mask.sequence_offsets.end(), first);
}

/// The positional part of a mask (causal, window, padding, packed sequences), bound to the shape of a call. Ranges of
/// consecutive queries have non-decreasing ends. The mask must have passed check_attention.
class KeyBounds {
 public:
  KeyBounds(const Mask& mask, Index n_q, Index n_k) : mask_(mask), n_q_(n_q), n_k_(n_k) {}

  KeyRange of(Index i) const {
    Index q_first = 0, q_last = n_q_, k_first = 0, k_last = n_k_;
    if (!mask_.sequence_offsets.empty()) {
      const std::span<const Index> q_offsets = mask_.sequence_offsets;
      const std::span<const Index> k_offsets =
          mask_.key_sequence_offsets.empty() ? q_offsets : mask_.key_sequence_offsets;
      const auto after = std::upper_bound(q_offsets.begin(), q_offsets.end(), i);
      const std::size_t b = static_cast<std::size_t>(after - q_offsets.begin()) - 1;
      q_first = q_offsets[b];
      q_last = q_offsets[b + 1];
      k_first = k_offsets[b];
      k_last = k_offsets[b + 1];
    }
    const Index shift = mask_.causal == Causal::bottom_right ? (k_last - k_first) - (q_last - q_first) : 0;
    KeyRange range{k_first, std::min(k_last, mask_.n_real_keys), k_first + (i - q_first) + shift};
    if (mask_.causal != Causal::none) range.high = std::min(range.high, range.diagonal + 1);
    // Windows reach no further than the sequence is long: no overflow for huge bounds.
    if (mask_.window_right < n_q_ + n_k_) range.high = std::min(range.high, range.diagonal + mask_.window_right + 1);
    if (mask_.window_left < n_q_ + n_k_) range.low = std::max(range.low, range.diagonal - mask_.window_left);
    range.high = std::max(range.high, k_first);
    range.low = std::min(range.low, k_last);
    if (range.high < range.low) range.high = range.low;
    return range;
  }

  /// True when every query sees every key.
  bool unlimited() const {
    return mask_.causal == Causal::none && mask_.window_left >= n_q_ + n_k_ && mask_.window_right >= n_q_ + n_k_ &&
           mask_.n_real_keys >= n_k_ && mask_.sequence_offsets.empty();
  }

 private:
  const Mask& mask_;
  Index n_q_;
  Index n_k_;
};

}  // namespace heed::detail
