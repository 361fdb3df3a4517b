#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/result.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/values.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/pattern_pairs.hpp"
#include "heed/exact/attend.hpp"

namespace heed {

namespace detail {

inline void check_tokens(const TokenSet& tokens, Index n, const char* name, Index group) {
  if (tokens.size < 0)
    throw OptionError(message("pattern.", name, "(", group, ").size = ", tokens.size, " must be >= 0"));
  for (Index t = 0; t < tokens.size; t += std::max<Index>(1, tokens.size - 1)) {  // ascending: the ends tell
    if (tokens[t] < 0 || tokens[t] >= n) {
      throw OptionError(
          message("pattern.", name, "(", group, ") names token ", tokens[t], " but must stay in 0 .. ", n - 1));
    }
  }
}

template <KeyPattern Pattern>
void check_tiles(const Pattern& pattern, Index n_q, Index n_k) {
  for (Index g = 0; g < pattern.n_groups(); ++g) {
    check_tokens(pattern.queries(g), n_q, "queries", g);
    for (Index s = 0; s < pattern.n_segments(g); ++s) check_tokens(pattern.keys(g, s), n_k, "keys", g);
  }
}

template <PairPattern Pattern>
void check_pattern(const Pattern& pattern, Index n_q, Index n_k) {
  if constexpr (is_union<Pattern>) {
    check_pattern(pattern.first, n_q, n_k);
    check_pattern(pattern.second, n_q, n_k);
  } else {
    check_tiles(pattern, n_q, n_k);
  }
}

/// A pattern given with a call, as a method.
template <PairPattern Pattern, class ScoreMod>
struct OverPattern {
  static constexpr bool has_softmax = true;
  static constexpr bool sees_all_keys = std::is_same_v<Pattern, DensePattern>;

  const Pattern& pattern;
  const ScoreMod& score_mod;

  template <class Call>
  Pairs pairs(std::span<const Call> calls, Index, const AttentionOptions&, const Context&,
              Workspace::Frame& frame) const {
    Pairs pairs(frame);
    add_pattern(pairs, pattern, calls.front().q.rows, static_cast<Index>(calls.size()));
    return pairs;
  }
};

}  // namespace detail

/// Softmax attention over the pairs of `pattern`, a KeyPattern or a PatternUnion, that `options.mask` keeps:
/// out_i = sum_j softmax_j(score(i, j)) v_j, j over the keys of the group query i stands in.
///
/// Shapes  q: n_q x d, k: n_k x d, values: a TokenMatrix or a ValueSource of n_k rows of d_v; returns out: n_q x d_v, lse: n_q.
/// Empty   a query in no group, or with no kept key, gets out = 0 and lse = -inf.
/// Errors  as attend; OptionError when the pattern names a token outside q or k.
/// Cost    2 (d + d_v) flops and one exponential per kept pair; memory O(n_q d_v) and a tile per thread. Tiles the mask
///         empties are skipped.
/// Threads const and re-entrant; the same bits for any context.threads.
/// Source  Milakov and Gimelshein 2018 (running softmax); Rabe and Staats 2021; Dao et al. 2022 (tiles).
template <PairPattern Pattern, class Q, class K, class Values, class ScoreMod = NoScoreMod>
auto attend_over(const Pattern& pattern, const Q& q, const K& k, const Values& values,
                 const AttentionOptions& options = {}, const Context& context = {}, const ScoreMod& score_mod = {})
    -> AttentionResult<detail::OperandScalar<Q>> {
  const auto v = detail::value_view(values);
  detail::require_operands<Q, K, std::remove_cvref_t<decltype(v)>>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, S>;
  AttentionResult<S> result;
  Call call{view_of(q), view_of(k), v, {}};
  detail::check_attention(call.q.cols, call.k.rows, call.k.cols, v.rows,
                          {call.q.rows, call.k.rows, call.k.cols, v.cols}, options);
  detail::check_pattern(pattern, call.q.rows, call.k.rows);
  result.out.resize(call.q.rows, v.cols);
  result.lse.resize(call.q.rows);
  call.out = output_view_of(result.out);
  call.lse = result.lse.data();
  detail::attend_all_heads(detail::OverPattern<Pattern, ScoreMod>{pattern, score_mod}, std::span<const Call>(&call, 1),
                           Index(1), options, context);
  return result;
}

}  // namespace heed
