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

/// More than the distance of any two positions of a call.
inline Index reach_of(const Mask& mask, Index n_q, Index n_k) {
  const Index shift = mask.shift.value_or(0);
  return n_q + n_k + (shift < 0 ? -shift : shift);
}

/// True when positions alone hide no key: no causal mask, window or packed sequences.
inline bool every_position(const Mask& mask, Index n_q, Index n_k) {
  const Index reach = reach_of(mask, n_q, n_k);
  return mask.causal == Causal::none && mask.window_left >= reach && mask.window_right >= reach &&
         mask.sequence_offsets.empty();
}

/// The positional part of a mask (causal, window, padding, packed sequences), bound to the shape of a call. Ranges of
/// consecutive queries have non-decreasing ends. The mask must have passed check_attention.
class KeyBounds {
 public:
  KeyBounds(const Mask& mask, Index n_q, Index n_k) : mask_(mask), n_q_(n_q), n_k_(n_k) {
    // Windows reach no further than the sequence is long: no overflow for huge bounds.
    const Index reach = reach_of(mask, n_q, n_k);
    left_ = std::min(mask.window_left, reach);
    right_ = mask.causal != Causal::none ? 0 : std::min(mask.window_right, reach);
    whole_ = sequence({0, n_q, 0, n_k});
  }

  KeyRange of(Index i) const { return range(mask_.sequence_offsets.empty() ? whole_ : sequence_of(i), i); }

  /// Calls visit(position, range) for each of `queries`: consecutive ones look up their sequence once.
  template <class Queries, class Visit>
  void visit(const Queries& queries, const Visit& visit) const {
    Sequence own = whole_;
    if (!mask_.sequence_offsets.empty()) own.q_last = own.q_first;  // none yet
    for (Index t = 0; t < queries.size; ++t) {
      const Index i = queries[t];
      if (i < own.q_first || i >= own.q_last) own = sequence_of(i);
      visit(t, range(own, i));
    }
  }

  /// True when every query sees every key.
  bool unlimited() const { return mask_.n_real_keys >= n_k_ && every_position(mask_, n_q_, n_k_); }

 private:
  struct Sequence {
    Index q_first = 0, q_last = 0, k_first = 0, k_last = 0;
    Index shift = 0;   // from a query to the key on its aligned diagonal
    Index k_real = 0;  // end of the keys that are no padding
  };

  Sequence sequence_of(Index i) const {
    const std::span<const Index> q_offsets = mask_.sequence_offsets;
    const std::span<const Index> k_offsets =
        mask_.key_sequence_offsets.empty() ? q_offsets : mask_.key_sequence_offsets;
    const auto after = std::upper_bound(q_offsets.begin(), q_offsets.end(), i);
    const std::size_t b = static_cast<std::size_t>(after - q_offsets.begin()) - 1;
    return sequence({q_offsets[b], q_offsets[b + 1], k_offsets[b], k_offsets[b + 1]});
  }

  Sequence sequence(Sequence s) const {
    s.shift = s.k_first - s.q_first + mask_.shift.value_or(0);
    if (mask_.causal == Causal::bottom_right) s.shift += (s.k_last - s.k_first) - (s.q_last - s.q_first);
    s.k_real = std::min(s.k_last, mask_.n_real_keys);
    return s;
  }

  KeyRange range(const Sequence& s, Index i) const {
    const Index diagonal = i + s.shift;
    // An empty range lies at the end of the real keys, so that no padding is looked at on its behalf.
    const Index low = std::min(std::max(s.k_first, diagonal - left_), std::max(s.k_first, s.k_real));
    const Index high = std::max(std::min(s.k_real, diagonal + right_ + 1), s.k_first);
    return {low, std::max(low, high), diagonal};
  }

  const Mask& mask_;
  Index n_q_;
  Index n_k_;
  Index left_;
  Index right_;
  Sequence whole_;
};

}  // namespace heed::detail
