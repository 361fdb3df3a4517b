#pragma once
#include "heed/core/pair_view.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"

namespace heed::detail {

/// The keys that are there, for what lists tokens: absent ones are then neither read nor computed.
class PresentKeys {
 public:
  /// `keys`: 1 x n_k, true where a key is there.
  PresentKeys(const BoolView& keys, Index n_k, Workspace::Frame& frame)
      : frame_(frame), list_(frame.take<Index>(n_k)), below_(frame.take<Index>(n_k + 1)) {
    Index n = 0;
    for (Index j = 0; j < n_k; ++j) {
      below_[j] = n;
      if (keys.at(0, j) != 0.0) list_[n++] = j;
    }
    below_[n_k] = n;
  }

  /// Those of a set.
  TokenSet of(const TokenSet& tokens) const {
    if (tokens.size == 0) return tokens;
    if (tokens.list == nullptr) {
      const Index first = below_[tokens.first], end = below_[tokens.first + tokens.size];
      return token_set(list_ + first, end - first);
    }
    Index* own = frame_.take<Index>(tokens.size);
    Index n = 0;
    for (Index t = 0; t < tokens.size; ++t) {
      const Index j = tokens.list[t];
      if (below_[j + 1] > below_[j]) own[n++] = j;
    }
    return token_set(own, n);
  }

 private:
  Workspace::Frame& frame_;
  Index *list_, *below_;  // the keys in order; how many of them lie below each position
};

/// Takes absent keys out of the tiles of all pairs.
inline void leave_out_absent_keys(const Pairs& pairs, const BoolView& keys, Index n_k) {
  Workspace::Frame& frame = pairs.frame();
  const PresentKeys present(keys, n_k, frame);
  for (const PairsGroup* group = pairs.groups(); group != nullptr; group = group->next) {
    for (PairsPart* part = group->parts; part != nullptr; part = part->next) {
      TileList& tiles = part->tiles;
      const Index n_segments = tiles.first_segment[tiles.groups];
      TokenSet* segments = frame.take<TokenSet>(n_segments);
      for (Index s = 0; s < n_segments; ++s) segments[s] = present.of(tiles.segments[s]);
      tiles.segments = segments;
    }
  }
}

}  // namespace heed::detail
