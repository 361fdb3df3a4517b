#pragma once
#include <algorithm>
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

/// A pattern whose tiles only cover it: of their pairs it has those for which sees(i, j) is true.
template <class P>
concept RefinedPattern = KeyPattern<P> && P::refines && requires(const P& pattern, Index i, Index j) {
  { pattern.sees(i, j) } -> std::convertible_to<bool>;
};

/// The pairs of two patterns, each of them once however many of the two have it. Either may itself be a union.
template <class A, class B>
struct PatternUnion {
  A first;
  B second;
};
template <class A, class B>
PatternUnion(A, B) -> PatternUnion<A, B>;

namespace detail {

/// Tokens of a set below `position`.
inline Index tokens_below(const TokenSet& tokens, Index position) {
  if (tokens.list == nullptr) return std::clamp(position - tokens.first, Index(0), tokens.size);
  return std::lower_bound(tokens.list, tokens.list + tokens.size, position) - tokens.list;
}

template <class P>
inline constexpr bool is_union = false;
template <class A, class B>
inline constexpr bool is_union<PatternUnion<A, B>> = true;
}  // namespace detail

/// What attend_over takes: a KeyPattern or a union of such.
template <class P>
concept PairPattern = KeyPattern<P> || detail::is_union<P>;

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
