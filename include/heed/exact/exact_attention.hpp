#pragma once
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"

namespace heed {

/// Exact softmax attention over the pairs the mask keeps: out_i = sum_j softmax_j(score(i, j)) v_j, the scores formed
/// as AttentionOptions says, then changed by `score_mod(s, i, j)` where one is given:
///
///     attend(q, k, v, {}, ExactAttention{[](float s, Index i, Index j) { return s - 0.1f * std::abs(i - j); }});
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v.
/// Cost    2 (d + d_v) flops and one exponential per kept pair; memory O(n_q d_v) for the result and a tile per thread.
/// Threads const and re-entrant; results do not depend on the number of threads. The functor is called from all of
/// them;
///         where it throws, rows of the outputs may be written or not (NoScoreMod).
/// Source  Milakov and Gimelshein 2018 (running softmax); Rabe and Staats 2021 (attention without the n x n matrix);
///         Dao et al. 2022 (tiles).
template <class ScoreMod = NoScoreMod>
struct ExactAttention {
  static constexpr bool has_softmax = true;
  static constexpr bool sees_all_keys = true;  // but for the mask
  static constexpr bool reads_no_keys = true;

  [[no_unique_address]] ScoreMod score_mod{};

  /// See core/method.hpp: every pair.
  template <class Call>
  detail::Pairs pairs(std::span<const Call> calls, Index, const AttentionOptions& options, const Context&,
                      Workspace::Frame& frame) const {
    return detail::every_pair(calls, options.mask, frame);
  }
};

template <class ScoreMod>
ExactAttention(ScoreMod) -> ExactAttention<ScoreMod>;
ExactAttention()->ExactAttention<NoScoreMod>;

}  // namespace heed
