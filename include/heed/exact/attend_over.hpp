#pragma once
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/result.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/pattern_pairs.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/check_pattern.hpp"

namespace heed {

namespace detail {

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
/// Shapes  q: n_q x d, k: n_k x d, values: a TokenMatrix or a ValueSource of n_k rows of d_v; returns out: n_q x d_v,
///         lse: n_q.
/// Empty   a query in no group, or with no kept key, gets out = 0 and lse = -inf, or its sink.
/// Errors  as attend; OptionError when the pattern names a token outside q or k, or out of order, a query in two groups
///         or a key in two segments of one group. Every entry is looked at.
/// Cost    2 (d + d_v) flops and one exponential per kept pair; memory O(n_q d_v) and a tile per thread. Tiles the mask
///         empties are skipped.
/// Threads const and re-entrant; the same bits for any context.threads.
/// Source  Milakov and Gimelshein 2018 (running softmax); Rabe and Staats 2021; Dao et al. 2022 (tiles).
template <PairPattern Pattern, class Q, class K, class Values, class ScoreMod = NoScoreMod>
auto attend_over(const Pattern& pattern, const Q& q, const K& k, const Values& values,
                 const AttentionOptions& options = {}, const Context& context = {}, const ScoreMod& score_mod = {})
    -> AttentionResult<detail::OperandScalar<Q>> {
  detail::require_call_operands<Q, K, Values>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, S>;
  Call call{view_of(q), view_of(k), {}, {}};
  const detail::ValueShape shape = detail::shape_of_values(values);
  detail::check_head(call, shape, options, context);
  const detail::WithWorkspace inner(context);
  detail::check_pattern(pattern, call.q.rows, call.k.rows, inner.workspace());
  AttentionResult<S> result;
  detail::give_outputs(call, result, shape.cols, true);
  const detail::OverPattern<Pattern, ScoreMod> method{pattern, score_mod};
  detail::attend_values(values, method, std::span<Call>(&call, 1), Index(1), options, inner.context());
  return result;
}

}  // namespace heed
