#pragma once
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// A KeyPattern written out: group g holds queries[g] and the segments first_segment[g] .. first_segment[g + 1] - 1.
/// Views arrays of whoever made it.
struct TileList {
  Index groups = 0;
  const TokenSet* group_queries = nullptr;  // groups
  const Index* first_segment = nullptr;     // groups + 1
  const TokenSet* segments = nullptr;       // first_segment[groups]

  Index n_groups() const { return groups; }
  TokenSet queries(Index g) const { return group_queries[g]; }
  Index n_segments(Index g) const { return first_segment[g + 1] - first_segment[g]; }
  TokenSet keys(Index g, Index s) const { return segments[first_segment[g] + s]; }
};

static_assert(KeyPattern<TileList>);

/// The `size` tokens at `list`, sorted, as a range where they are one: ranges are read in place.
inline TokenSet token_set(const Index* list, Index size) {
  if (size > 0 && list[size - 1] - list[0] + 1 == size) return {list[0], size};
  return {0, size, list};
}

}  // namespace heed::detail
