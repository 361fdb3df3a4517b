#pragma once
#include <algorithm>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/engine/pairs.hpp"

namespace heed::detail {

/// A pattern written out, so that what runs over pairs is compiled once for all patterns. Its lists stay where they
/// are. Queries from n_q on, which are padding, are left out.
template <KeyPattern Pattern>
TileList tile_list_of(const Pattern& pattern, Index n_q, Workspace::Frame& frame) {
  const Index n_groups = pattern.n_groups();
  TokenSet* queries = frame.take<TokenSet>(n_groups);
  Index* first_segment = frame.take<Index>(n_groups + 1);
  first_segment[0] = 0;
  for (Index g = 0; g < n_groups; ++g) {
    const TokenSet all = pattern.queries(g);
    queries[g] = all.part(0, tokens_below(all, n_q));
    first_segment[g + 1] = first_segment[g] + pattern.n_segments(g);
  }
  TokenSet* segments = frame.take<TokenSet>(first_segment[n_groups]);
  for (Index g = 0; g < n_groups; ++g) {
    for (Index s = 0; s < pattern.n_segments(g); ++s) segments[first_segment[g] + s] = pattern.keys(g, s);
  }
  return {n_groups, queries, first_segment, segments};
}

/// Whether tiles hold a pair.
class TileMembers {
 public:
  TileMembers(const TileList& tiles, Index n_q, Workspace::Frame& frame)
      : tiles_(tiles), group_of_(frame.take<Index>(n_q)) {
    std::fill_n(group_of_, n_q, Index(-1));
    for (Index g = 0; g < tiles.n_groups(); ++g) {
      const TokenSet queries = tiles.queries(g);
      for (Index t = 0; t < queries.size; ++t) group_of_[queries[t]] = g;
    }
  }

  bool operator()(Index i, Index j) const {
    const Index group = group_of_[i];
    for (Index s = 0; group >= 0 && s < tiles_.n_segments(group); ++s) {
      const TokenSet keys = tiles_.keys(group, s);
      const Index at = tokens_below(keys, j);
      if (at < keys.size && keys[at] == j) return true;
    }
    return false;
  }

 private:
  TileList tiles_;
  Index* group_of_;
};

/// Pairs that one of two tests has.
struct EitherTest {
  PairTest first, second;
  bool operator()(Index i, Index j) const { return (first.given() && first(i, j)) || (second.given() && second(i, j)); }
};

/// Pairs of a pattern's tiles that it means and that no pattern before it has.
template <class Pattern>
struct NewPairs {
  const Pattern* pattern;
  PairTest before;
  bool operator()(Index i, Index j) const {
    if constexpr (RefinedPattern<Pattern>) {
      if (!pattern->sees(i, j)) return false;
    }
    return !before.given() || !before(i, j);
  }
};

/// Asks a pattern that can say which pairs it has.
template <class Pattern>
struct AskPattern {
  const Pattern* pattern;
  bool operator()(Index i, Index j) const { return pattern->sees(i, j); }
};

/// Which pairs a pattern has. The pattern must outlive the pairs.
template <PairPattern Pattern>
PairTest members_of(const Pattern& pattern, Index n_q, Pairs& pairs) {
  if constexpr (is_union<Pattern>) {
    return PairTest::of_object(
        pairs.keep(EitherTest{members_of(pattern.first, n_q, pairs), members_of(pattern.second, n_q, pairs)}));
  } else if constexpr (requires { pattern.sees(Index(0), Index(0)); }) {
    return PairTest::of_object(pairs.keep(AskPattern<Pattern>{&pattern}));
  } else {
    return PairTest::of_object(pairs.keep(TileMembers(tile_list_of(pattern, n_q, pairs.frame()), n_q, pairs.frame())));
  }
}

/// Adds parts to a group that together have the pairs of `pattern` without those that `before` has. The pattern must
/// outlive the pairs.
template <PairPattern Pattern>
void add_pattern(Pairs& pairs, PairsGroup& group, const Pattern& pattern, const PairTest& before, Index n_q) {
  if constexpr (is_union<Pattern>) {
    add_pattern(pairs, group, pattern.first, before, n_q);
    const EitherTest& seen = pairs.keep(EitherTest{before, members_of(pattern.first, n_q, pairs)});
    add_pattern(pairs, group, pattern.second, PairTest::of_object(seen), n_q);
  } else {
    PairRule rule;
    if (RefinedPattern<Pattern> || before.given())
      rule.keeps = PairTest::of_object(pairs.keep(NewPairs<Pattern>{&pattern, before}));
    pairs.add_part(group, tile_list_of(pattern, n_q, pairs.frame()), rule);
  }
}

/// Adds the pairs of a pattern for all of `n_calls` heads. The pattern must outlive the pairs.
template <PairPattern Pattern>
void add_pattern(Pairs& pairs, const Pattern& pattern, Index n_q, Index n_calls) {
  PairsGroup& group = pairs.add_group(0, n_calls);
  group.names_every_query = false;
  add_pattern(pairs, group, pattern, {}, n_q);
}

}  // namespace heed::detail
