#pragma once
#include <concepts>

#include "heed/core/types.hpp"

namespace heed {

/// A set of tokens in ascending order: a contiguous range first, first + 1, ..., or the entries of a sorted list that
/// must outlive the set.
struct TokenSet {
  Index first = 0;
  Index size = 0;
  const Index* list = nullptr;

  Index operator[](Index t) const { return list == nullptr ? first + t : list[t]; }
  TokenSet part(Index from, Index count) const {
    return list == nullptr ? TokenSet{first + from, count} : TokenSet{0, count, list + from};
  }
};

/// A choice of pairs as a list of tiles: groups of queries, and per group segments of keys that all its queries see.
/// Every query stands in exactly one group, and no key in two segments of one group. The mask decides within a tile.
template <class P>
concept KeyPattern = requires(const P& pattern, Index group, Index segment) {
  { pattern.n_groups() } -> std::convertible_to<Index>;
  { pattern.queries(group) } -> std::convertible_to<TokenSet>;
  { pattern.n_segments(group) } -> std::convertible_to<Index>;
  { pattern.keys(group, segment) } -> std::convertible_to<TokenSet>;
};

/// Every query with every key: one group, one segment.
struct DensePattern {
  Index n_q = 0;
  Index n_k = 0;

  Index n_groups() const { return 1; }
  TokenSet queries(Index) const { return {0, n_q}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, n_k}; }
};

static_assert(KeyPattern<DensePattern>);

}  // namespace heed
