#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// A mask without its windows, for methods that also look past them within a query's own sequence.
inline Mask without_windows(Mask mask) {
  mask.window_left = mask.window_right = Mask::unlimited;
  return mask;
}

/// Cuts the queries into blocks of at most `size` consecutive ones, none of which reaches into two sequences. `start`
/// has room for one number more than there are blocks; null: only counts them.
inline Index query_blocks(const Mask& mask, Index n_q, Index size, Index* start) {
  Index n_blocks = 0;
  const auto add = [&](Index first, Index end) {
    for (Index at = first; at < end; at += size) {
      if (start != nullptr) start[n_blocks] = at;
      ++n_blocks;
    }
  };
  if (mask.sequence_offsets.empty()) {
    add(0, n_q);
  } else {
    for (std::size_t b = 1; b < mask.sequence_offsets.size(); ++b)
      add(mask.sequence_offsets[b - 1], mask.sequence_offsets[b]);
  }
  if (start != nullptr) start[n_blocks] = n_q;
  return n_blocks;
}

/// The keys of query i's own sequence that no causal mask hides, and its aligned diagonal.
class OwnKeys {
 public:
  OwnKeys(const Mask& mask, Index n_q, Index n_k) : mask_(without_windows(mask)), bounds_(mask_, n_q, n_k) {}
  OwnKeys(const OwnKeys&) = delete;
  KeyRange of(Index i) const { return bounds_.of(i); }

 private:
  Mask mask_;
  KeyBounds bounds_;
};

}  // namespace heed::detail
