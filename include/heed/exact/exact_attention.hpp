#pragma once
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/softmax_engine.hpp"

namespace heed {

/// Exact softmax attention over the pairs the mask keeps: out_i = sum_j softmax_j(score(i, j)) v_j, the scores formed as
/// AttentionOptions says, then changed by `score_mod(s, i, j)` where one is given:
///
///     attend(q, k, v, {}, ExactAttention{[](float s, Index i, Index j) { return s - 0.1f * std::abs(i - j); }});
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v.
/// Cost    2 (d + d_v) flops and one exponential per kept pair; memory O(n_q d_v) for the result and a tile per thread.
/// Threads const and re-entrant; results do not depend on the number of threads. The functor is called from all of them.
/// Source  Milakov and Gimelshein 2018 (running softmax); Rabe and Staats 2021 (attention without the n x n matrix);
///         Dao et al. 2022 (tiles).
template <class ScoreMod = NoScoreMod>
struct ExactAttention {
  static constexpr bool has_softmax = true;
  static constexpr bool sees_all_keys = true;  // but for the mask

  [[no_unique_address]] ScoreMod score_mod{};

  /// The method interface: computes `calls` (heads of one shape, `heads_per_kv` consecutive ones sharing keys and values).
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    detail::run_engine(DensePattern{calls.front().q.rows, calls.front().k.rows}, calls, heads_per_kv, options,
                       score_mod, context);
  }

  /// Names the pairs: visit(calls, pattern, score_mod, options). Any method with a softmax over the pairs of a pattern offers this, and
  /// everything that asks which keys matter (key_importance, MonteCarloValues) runs over it.
  template <class Call, class Visit>
  void visit_pattern(std::span<const Call> calls, const AttentionOptions& options, const Context&,
                     const Visit& visit) const {
    if (!calls.empty()) visit(calls, DensePattern{calls.front().q.rows, calls.front().k.rows}, score_mod, options);
  }
};

template <class ScoreMod>
ExactAttention(ScoreMod) -> ExactAttention<ScoreMod>;
ExactAttention()->ExactAttention<NoScoreMod>;

}  // namespace heed
