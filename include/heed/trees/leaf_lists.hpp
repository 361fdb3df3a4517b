#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Tokens by leaf, in ascending order within each: a counting sort. Tokens of leaf `none` are in no list. Views a
/// frame.
class LeafLists {
 public:
  static constexpr Index none = -1;
  LeafLists() = default;
  LeafLists(const Index* leaf_of, Index n_tokens, Index n_leaves, Workspace::Frame& frame)
      : leaf_of_(leaf_of), n_leaves_(n_leaves) {
    start_ = frame.take<Index>(n_leaves + 2);
    tokens_ = frame.take<Index>(n_tokens);
    // Counts stand two entries ahead of their leaf, so that filling leaves each start where it belongs.
    std::fill_n(start_, n_leaves + 2, Index(0));
    for (Index t = 0; t < n_tokens; ++t) {
      if (leaf_of[t] != none) ++start_[leaf_of[t] + 2];
    }
    for (Index l = 2; l <= n_leaves + 1; ++l) start_[l] += start_[l - 1];
    for (Index t = 0; t < n_tokens; ++t) {
      if (leaf_of[t] != none) tokens_[start_[leaf_of[t] + 1]++] = t;
    }
  }

  Index n_leaves() const { return n_leaves_; }
  Index size(Index leaf) const { return start_[leaf + 1] - start_[leaf]; }
  /// Tokens in leaves [first, last).
  Index size(Index first, Index last) const { return start_[last] - start_[first]; }
  TokenSet tokens(Index leaf) const { return token_set(list(leaf), size(leaf)); }
  /// At most the first `cap` of them.
  TokenSet tokens(Index leaf, Index cap) const { return token_set(list(leaf), size(leaf) < cap ? size(leaf) : cap); }
  /// Those from `low` up to but not `high`.
  TokenSet tokens_between(Index leaf, Index low, Index high) const {
    const TokenSet all = tokens(leaf);
    const Index from = tokens_below(all, low);
    return all.part(from, tokens_below(all, high) - from);
  }
  /// How many tokens from `low` up to but not `high` are in some list.
  Index count_between(Index low, Index high) const {
    return high - low - std::count(leaf_of_ + low, leaf_of_ + high, none);
  }
  bool has(Index token) const { return leaf_of_[token] != none; }
  /// The list itself, for who needs its address.
  const Index* list(Index leaf) const { return tokens_ + start_[leaf]; }
  const Index* leaf_of() const { return leaf_of_; }

 private:
  const Index* leaf_of_ = nullptr;
  Index n_leaves_ = 0;
  Index* start_ = nullptr;   // n_leaves + 1
  Index* tokens_ = nullptr;  // n_tokens
};

}  // namespace heed::detail
