#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Pieces of `chunk` that n entries make, at least one.
inline Index chunks_of(Index n, Index chunk) { return std::max<Index>(1, (n + chunk - 1) / chunk); }

/// What a task does: panels first .. first + n - 1 of one group of queries of one head, over one chunk of keys.
struct Visit {
  Index call = 0, chunk = 0, group = 0, first = 0, n = 0;
};

/// A place among the keys of a group.
struct KeyPlace {
  Index segment = 0, at = 0;
};

constexpr Index largest_tile = 128;       ///< keys of a tile at most
constexpr Index row_chunk_keys = 2048;    ///< keys of a chunk of one query
constexpr Index panel_chunk_keys = 4096;  ///< keys of a chunk of one panel of queries

/// Keys of the largest tile that `tiles` need.
inline Index tile_size(const TileList& tiles) {
  Index most = 1;
  for (Index s = 0; most < largest_tile && s < tiles.first_segment[tiles.groups]; ++s)
    most = std::max(most, tiles.segments[s].size);
  return std::min(most, largest_tile);
}

/// Forward: all keys of a panel of queries. Cuts the queries of a pattern into panels, and the panels of a group into
/// tasks: a few panels that share tiles of keys, last panels first (the longest under a causal mask), times a chunk
/// of keys where there is one panel only. Panels and chunks depend on shapes alone; how many panels share tiles
/// changes no result and so may depend on threads.
class Tiling {
 public:
  static constexpr Index max_share = 26;  ///< panels of a task
  Index share = 1;                        ///< panels of a task at most
  Index n_tasks = 0;                      ///< of one head and chunk
  Index n_chunks = 1;                     ///< chunks of keys
  Index only_group = 0;                   ///< with several chunks: the group with queries

  /// `width` queries and `panel_bytes` a panel.
  Tiling(const TileList& pattern, Index width, Index panel_bytes, Index n_calls, Index threads, Workspace::Frame& frame)
      : pattern_(pattern), width_(width) {
    const Index n_groups = pattern.n_groups();
    Index* first_task = frame.take<Index>(n_groups + 1);
    first_task_ = first_task;
    Index n_panels = 0, most_panels = 0;
    for (Index g = 0; g < n_groups; ++g) {
      n_panels += panels_of(g);
      if (panels_of(g) > most_panels) only_group = g;
      most_panels = std::max(most_panels, panels_of(g));
    }
    Index most_keys = 0;
    for (Index s = 0; n_panels == 1 && s < pattern.n_segments(only_group); ++s)
      most_keys = std::max(most_keys, pattern.keys(only_group, s).size);
    n_chunks = chunks_of(most_keys, panel_chunk_keys);
    // Several tasks for each thread; panels that take turns at a tile stay in the second level cache. A task stays in
    // one group, so that tiles are made as few times as can be.
    const Index spread = threads == 1 ? n_panels : n_calls * n_panels / (4 * threads);
    const Index most = std::clamp<Index>(std::min(spread, cache_bytes / (panel_bytes + 1)), 1, max_share);
    share = std::min(most, chunks_of(most_panels, 1));
    first_task[0] = 0;
    for (Index g = 0; g < n_groups; ++g) first_task[g + 1] = first_task[g] + (panels_of(g) + share - 1) / share;
    n_tasks = first_task[n_groups];
  }

  /// Tasks go by head, then panels, then chunks.
  Visit visit_of(Index task) const {
    Visit visit;
    visit.chunk = task % n_chunks;
    visit.call = task / n_chunks / n_tasks;
    const Index t = n_tasks - 1 - task / n_chunks % n_tasks;
    visit.group = std::upper_bound(first_task_, first_task_ + pattern_.n_groups() + 1, t) - first_task_ - 1;
    const Index part = t - first_task_[visit.group], parts = first_task_[visit.group + 1] - first_task_[visit.group];
    const Index panels = panels_of(visit.group);  // in parts of one size, give or take one
    visit.first = panels * part / parts;
    visit.n = panels * (part + 1) / parts - visit.first;
    return visit;
  }

  /// Queries of `n` panels of a visit from its panel `first` on.
  TokenSet queries(const Visit& visit, Index first, Index n) const {
    const TokenSet all = pattern_.queries(visit.group);
    const Index from = (visit.first + first) * width_;
    return all.part(from, std::min(n * width_, all.size - from));
  }

  /// The first tile of keys from `place` on with a key in [low, high), and moves `place` behind it. Empty: there is
  /// none. `whole`: with the keys of the tile that are outside.
  TokenSet next_tile(const Visit& visit, Index low, Index high, bool whole, KeyPlace& place) const {
    for (; place.segment < pattern_.n_segments(visit.group); ++place.segment, place.at = 0) {
      const TokenSet keys = pattern_.keys(visit.group, place.segment);
      const Index begin = visit.chunk * panel_chunk_keys,
                  end = n_chunks > 1 ? std::min(keys.size, begin + panel_chunk_keys) : keys.size;
      for (place.at = std::max(place.at, begin); place.at < end;) {
        TokenSet tile = keys.part(place.at, std::min(largest_tile, end - place.at));
        place.at += tile.size;
        if (tile[tile.size - 1] < low || tile[0] >= high) continue;
        if (tile.list != nullptr &&
            !whole) {  // keys that nobody sees are not worth gathering; pairs of keys stay together
          const Index n_seen = std::lower_bound(tile.list, tile.list + tile.size, high) - tile.list;
          tile.size = std::min(tile.size, n_seen + n_seen % 2);
        }
        return tile;
      }
    }
    return {};
  }

 private:
  static constexpr Index cache_bytes = 640 << 10;

  Index panels_of(Index group) const { return (pattern_.queries(group).size + width_ - 1) / width_; }

  const TileList& pattern_;
  Index width_;
  const Index* first_task_;  // of each group
};

/// Backwards: all panels of queries of a tile of keys. Cuts keys into chunks, a task each; where the pattern lists
/// tokens, all keys are one chunk. Chunks depend on shapes alone.
class KeyTiling {
 public:
  KeyTiling(const TileList& pattern, Index n_k) : pattern_(pattern), n_k_(n_k) {
    const bool listed = pattern.n_segments(0) > 0 && pattern.keys(0, 0).list != nullptr;
    chunk_ = listed ? std::max<Index>(n_k, 1) : 4 * largest_tile;
    n_chunks = (n_k + chunk_ - 1) / chunk_;
  }

  Index n_chunks;

  /// Calls visit(queries of a group, tile of its keys) for every tile in a chunk.
  template <class Visit>
  void visit_tiles(Index chunk, const Visit& visit) const {
    const Index from = chunk * chunk_, to = std::min(n_k_, from + chunk_);
    for (Index g = 0; g < pattern_.n_groups(); ++g) {
      const TokenSet queries = pattern_.queries(g);
      for (Index s = 0; s < pattern_.n_segments(g) && queries.size > 0; ++s) {
        const TokenSet all = pattern_.keys(g, s);
        const Index end = tokens_below(all, to);
        for (Index at = tokens_below(all, from); at < end; at += largest_tile)
          visit(queries, all.part(at, std::min(largest_tile, end - at)));
      }
    }
  }

 private:
  const TileList& pattern_;
  Index n_k_, chunk_;
};

}  // namespace heed::detail
