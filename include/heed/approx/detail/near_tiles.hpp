#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/approx/detail/query_blocks.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Keys [low, high) and [first, first_end) of one query.
struct NearKeys {
  Index low = 0;
  Index high = 0;
  Index first = 0;
  Index first_end = 0;

  bool holds(Index j) const { return (j >= low && j < high) || (j >= first && j < first_end); }
};

/// The last window_left keys up to the aligned diagonal, and the first n_sinks of the query's own sequence.
struct NearTiles {
  static constexpr bool refines = true;

  TileList tiles;
  const NearKeys* near = nullptr;  // n_q

  Index n_groups() const { return tiles.n_groups(); }
  TokenSet queries(Index g) const { return tiles.queries(g); }
  Index n_segments(Index g) const { return tiles.n_segments(g); }
  TokenSet keys(Index g, Index s) const { return tiles.keys(g, s); }
  bool sees(Index i, Index j) const { return near[i].holds(j); }
};

static_assert(RefinedPattern<NearTiles>);

/// window_left < 0: no window.
inline NearTiles near_tiles(Index window_left, Index n_sinks, const Mask& mask, Index n_q, Index n_k,
                            Workspace::Frame& frame) {
  constexpr Index block = 48;  // a panel of queries of the widest kernels
  const OwnKeys own(mask, n_q, n_k);
  NearKeys* near = frame.take<NearKeys>(static_cast<std::size_t>(n_q));
  for (Index i = 0; i < n_q; ++i) {
    const KeyRange range = own.of(i);
    NearKeys& keys = near[i];
    keys.first = range.low;
    keys.first_end = n_sinks < range.high - range.low ? range.low + n_sinks : range.high;
    keys.high = std::clamp(range.diagonal + 1, range.low, range.high);
    // Compared before it is subtracted: no overflow for huge windows.
    keys.low = window_left < 0                            ? keys.high
               : window_left < range.diagonal - range.low ? std::min(range.diagonal - window_left, keys.high)
                                                          : range.low;
  }
  const Index n_blocks = query_blocks(mask, n_q, block, nullptr);
  Index* start = frame.take<Index>(static_cast<std::size_t>(n_blocks + 1));
  query_blocks(mask, n_q, block, start);
  TokenSet* queries = frame.take<TokenSet>(static_cast<std::size_t>(n_blocks));
  TokenSet* segments = frame.take<TokenSet>(static_cast<std::size_t>(2 * n_blocks));
  Index* first_segment = frame.take<Index>(static_cast<std::size_t>(n_blocks + 1));
  for (Index b = 0; b < n_blocks; ++b) {
    const NearKeys &first = near[start[b]], &last = near[start[b + 1] - 1];
    queries[b] = {start[b], start[b + 1] - start[b]};
    first_segment[b] = 2 * b;
    // Bounds do not decrease along the queries of a sequence.
    segments[2 * b] = {first.first, last.first_end - first.first};
    const Index low = std::max(first.low, last.first_end);
    segments[2 * b + 1] = {low, std::max(Index(0), last.high - low)};
  }
  first_segment[n_blocks] = 2 * n_blocks;
  return {{n_blocks, queries, first_segment, segments}, near};
}

}  // namespace heed::detail
