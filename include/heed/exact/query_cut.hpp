#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/key_tile.hpp"

namespace heed::detail {

/// Pieces of `chunk` that n entries make, at least one.
inline Index chunks_of(Index n, Index chunk) { return std::max<Index>(1, (n + chunk - 1) / chunk); }

/// Panels first .. first + n - 1 of one group of queries of one head, over one chunk of keys. They are panels at .. at + n - 1 of
/// all groups, and the task they belong to ends before panel `last`.
struct Visit {
  Index call = 0, chunk = 0, group = 0, first = 0, n = 0, at = 0, last = 0;
};

/// A place among the keys of a group.
struct KeyPlace {
  Index segment = 0, at = 0;
};

/// Cuts the queries of a pattern into panels, and the panels into tasks: a few panels that share tiles of keys, last panels first
/// (the longest under a causal mask), times a chunk of keys where there is one panel only. Panels and chunks depend on
/// shapes alone; how many panels share tiles changes no result and so may depend on threads.
template <KeyPattern Pattern>
class QueryCut {
 public:
  static constexpr Index max_share = 16;  ///< panels of a task
  Index share, n_tasks, n_chunks;         ///< panels of a task at most, tasks of one head and chunk, chunks of keys

  /// `width` queries and `panel_bytes` a panel; `first_panel` has room for n_groups + 1 and must live as long.
  QueryCut(const Pattern& pattern, Index width, Index panel_bytes, Index n_calls, Index threads, Index* first_panel)
      : pattern_(pattern), width_(width), first_panel_(first_panel) {
    const Index n_groups = pattern.n_groups();
    first_panel[0] = 0;
    for (Index g = 0; g < n_groups; ++g)
      first_panel[g + 1] = first_panel[g] + (pattern.queries(g).size + width - 1) / width;
    n_panels_ = first_panel[n_groups];
    Index most_keys = 0;
    for (Index s = 0; n_panels_ == 1 && s < pattern.n_segments(0); ++s)
      most_keys = std::max(most_keys, pattern.keys(0, s).size);
    n_chunks = chunks_of(most_keys, chunk_keys);
    // Several tasks for each thread; panels that take turns at a tile stay in the second level cache.
    const Index spread = threads == 1 ? n_panels_ : n_calls * n_panels_ / (4 * threads);
    const Index most = std::clamp<Index>(std::min(spread, cache_bytes / (panel_bytes + 1)), 1, max_share);
    share = chunks_of(n_panels_, chunks_of(n_panels_, most));  // tasks of one size
    n_tasks = chunks_of(n_panels_, share);
  }

  /// The first visit of a task; tasks go by head, then panels, then chunks.
  Visit visit_of(Index task) const {
    Visit visit;
    visit.chunk = task % n_chunks;
    visit.call = task / n_chunks / n_tasks;
    visit.last = n_panels_ - task / n_chunks % n_tasks * share;
    return visit_at(visit, std::max<Index>(0, visit.last - share));
  }

  /// The visit of the same task that begins at panel `at` of all.
  Visit visit_at(Visit visit, Index at) const {
    const Index* end = first_panel_ + pattern_.n_groups() + 1;
    visit.at = at;
    visit.group = std::upper_bound(first_panel_, end, at) - first_panel_ - 1;
    visit.first = at - first_panel_[visit.group];
    visit.n = std::min(visit.last, first_panel_[visit.group + 1]) - at;
    return visit;
  }

  /// Queries of `n` panels of a visit from its panel `first` on.
  TokenSet queries(const Visit& visit, Index first, Index n) const {
    const TokenSet all = pattern_.queries(visit.group);
    const Index from = (visit.first + first) * width_;
    return all.part(from, std::min(n * width_, all.size - from));
  }

  /// The first tile of keys from `place` on with a key in [low, high), and moves `place` behind it. Empty: there is none.
  TokenSet next_tile(const Visit& visit, Index low, Index high, KeyPlace& place) const {
    for (; place.segment < pattern_.n_segments(visit.group); ++place.segment, place.at = 0) {
      const TokenSet keys = pattern_.keys(visit.group, place.segment);
      const Index begin = visit.chunk * chunk_keys,
                  end = n_chunks > 1 ? std::min(keys.size, begin + chunk_keys) : keys.size;
      for (place.at = std::max(place.at, begin); place.at < end;) {
        const TokenSet tile = keys.part(place.at, std::min(KeyTile<float, float>::capacity, end - place.at));
        place.at += tile.size;
        if (tile[tile.size - 1] >= low && tile[0] < high) return tile;
      }
    }
    return {};
  }

 private:
  static constexpr Index chunk_keys = 4096;
  static constexpr Index cache_bytes = 400 << 10;

  const Pattern& pattern_;
  Index width_, n_panels_ = 0;
  const Index* first_panel_;  // of each group
};

}  // namespace heed::detail
