#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/core/errors.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Throws OptionError unless the tokens of a set are in ascending order and lie in [0, n). One pass where they are a
/// list.
inline void check_tokens(const TokenSet& tokens, Index n, const char* name, Index group) {
  if (tokens.size < 0)
    throw OptionError(message("pattern.", name, "(", group, ").size = ", tokens.size, " must be >= 0"));
  if (tokens.size == 0) return;
  const auto refuse = [&](Index token) {
    throw OptionError(message("pattern.", name, "(", group, ") names token ", token, " but must stay in 0 .. ", n - 1));
  };
  if (tokens.list == nullptr) {
    if (tokens.first < 0 || tokens.first >= n) refuse(tokens.first);
    if (tokens.size > n - tokens.first) refuse(n);
    return;
  }
  const Index* const list = tokens.list;
  bool ascends = true;
  for (Index t = 1; t < tokens.size; ++t) ascends &= list[t - 1] < list[t];
  for (Index t = 1; !ascends && t < tokens.size; ++t) {
    if (list[t - 1] < list[t]) continue;
    throw OptionError(message("pattern.", name, "(", group, ")[", t, "] = ", list[t], " must be > ", list[t - 1],
                              ", the entry before it: a list of tokens is in ascending order"));
  }
  if (list[0] < 0) refuse(list[0]);
  if (list[tokens.size - 1] >= n) refuse(list[tokens.size - 1]);
}

/// Finds a token that two sets share. Sets that follow one another cost a look at their ends; others are marked token
/// by token.
class SharedTokens {
 public:
  SharedTokens(Index n, Workspace::Frame& frame) : n_(n), frame_(frame) {}

  /// A token that is in two of set_of(0) .. set_of(n_sets - 1), or -1.
  template <class SetOf>
  Index find(Index n_sets, const SetOf& set_of) {
    Index end = 0;
    bool follow = true;
    for (Index s = 0; s < n_sets && follow; ++s) {
      const TokenSet tokens = set_of(s);
      if (tokens.size == 0) continue;
      follow = tokens[0] >= end;
      end = tokens[tokens.size - 1] + 1;
    }
    if (follow) return -1;
    if (round_of_ == nullptr) {
      round_of_ = frame_.take<Index>(n_);
      std::fill_n(round_of_, n_, Index(0));
    }
    ++round_;
    for (Index s = 0; s < n_sets; ++s) {
      const TokenSet tokens = set_of(s);
      for (Index t = 0; t < tokens.size; ++t) {
        if (round_of_[tokens[t]] == round_) return tokens[t];
        round_of_[tokens[t]] = round_;
      }
    }
    return -1;
  }

 private:
  Index n_;
  Workspace::Frame& frame_;
  Index* round_of_ = nullptr;  // n: the call of find that met the token last
  Index round_ = 0;
};

/// Throws OptionError for what a KeyPattern must not say of n_q queries and n_k keys: tokens that are not there or out
/// of order, a query in two groups, a key in two segments of one.
template <KeyPattern Pattern>
void check_tiles(const Pattern& pattern, Index n_q, Index n_k, Workspace& workspace) {
  Workspace::Frame frame(workspace);
  const Index n_groups = pattern.n_groups();
  if (n_groups < 0) throw OptionError(message("pattern.n_groups() = ", n_groups, " must be >= 0"));
  SharedTokens keys(n_k, frame), queries(n_q, frame);
  for (Index g = 0; g < n_groups; ++g) {
    check_tokens(pattern.queries(g), n_q, "queries", g);
    const Index n_segments = pattern.n_segments(g);
    if (n_segments < 0) throw OptionError(message("pattern.n_segments(", g, ") = ", n_segments, " must be >= 0"));
    for (Index s = 0; s < n_segments; ++s) check_tokens(pattern.keys(g, s), n_k, "keys", g);
    const Index twice = keys.find(n_segments, [&](Index s) -> TokenSet { return pattern.keys(g, s); });
    if (twice >= 0) {
      throw OptionError(message("pattern.keys(", g, ") names token ", twice,
                                " in two segments but must name it in one: it would weigh twice"));
    }
  }
  const Index twice = queries.find(n_groups, [&](Index g) -> TokenSet { return pattern.queries(g); });
  if (twice >= 0) {
    throw OptionError(message("pattern.queries names token ", twice,
                              " in two groups but must name it in one: give the group all its segments"));
  }
}

/// The same for any pattern. The two of a union may have pairs in common.
template <PairPattern Pattern>
void check_pattern(const Pattern& pattern, Index n_q, Index n_k, Workspace& workspace) {
  if constexpr (is_union<Pattern>) {
    check_pattern(pattern.first, n_q, n_k, workspace);
    check_pattern(pattern.second, n_q, n_k, workspace);
  } else {
    check_tiles(pattern, n_q, n_k, workspace);
  }
}

}  // namespace heed::detail
