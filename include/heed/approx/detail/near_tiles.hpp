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

/// What queries see nearby, as two patterns without a pair in common, with a group for each sequence: the first n_sinks
/// keys of the query's own sequence; and the keys behind those, of which a window keeps the last ones up to the aligned
/// diagonal.
struct NearTiles {
  TileList sinks;
  TileList behind;
};

inline NearTiles near_tiles(Index n_sinks, const Mask& mask, Index n_q, Index n_k, Workspace::Frame& frame) {
  const OwnKeys own(mask, n_q, n_k);
  const Index n_groups = query_blocks(mask, n_q, std::max<Index>(1, n_q), nullptr);
  const auto take = [&] { return frame.take<TokenSet>(n_groups); };
  TokenSet *queries = take(), *sinks = take(), *behind = take();
  Index* start = frame.take<Index>(n_groups + 1);
  query_blocks(mask, n_q, std::max<Index>(1, n_q), start);
  for (Index g = 0; g < n_groups; ++g) {
    queries[g] = {start[g], start[g + 1] - start[g]};
    const KeyRange range = own.of(start[g + 1] - 1);  // of the last query, whose bounds are the largest
    sinks[g] = {range.low, std::min(n_sinks, range.high - range.low)};
    behind[g] = {range.low + sinks[g].size, range.high - range.low - sinks[g].size};
  }
  Index* first_segment = start;  // of the same length: a group has one segment
  for (Index g = 0; g <= n_groups; ++g) first_segment[g] = g;
  return {{n_groups, queries, first_segment, sinks}, {n_groups, queries, first_segment, behind}};
}

}  // namespace heed::detail
