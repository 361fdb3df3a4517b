#pragma once
#include <algorithm>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/softmax_engine.hpp"

namespace heed {

/// Sliding-window attention: softmax over the keys from `left` before the aligned diagonal to `right` after it, both inclusive, that
/// the mask keeps. The same as Mask::window_left and window_right, as a method; given both, the narrower holds.
///
/// Shapes  as attend.
/// Errors  as attend; OptionError for a negative bound.
/// Cost    2 (d + d_v) flops and one exponential per kept pair, n_q (left + right + 1) of them at most.
/// Threads const and re-entrant; results do not depend on context.threads.
/// Source  Beltagy, Peters, Cohan 2020 (Longformer), section 3.1.
class WindowAttention {
 public:
  static constexpr bool has_softmax = true;

  explicit WindowAttention(Index left, Index right = 0) : left_(left), right_(right) {
    if (left < 0) throw OptionError(detail::message("WindowAttention: left = ", left, " must be >= 0"));
    if (right < 0) throw OptionError(detail::message("WindowAttention: right = ", right, " must be >= 0"));
  }

  Index left() const { return left_; }
  Index right() const { return right_; }

  /// The method interface: see ExactAttention.
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    detail::run_engine(DensePattern{calls.front().q.rows, calls.front().k.rows}, calls, heads_per_kv, narrowed(options),
                       NoScoreMod{}, context);
  }
  template <class Call, class Visit>
  void visit_pattern(std::span<const Call> calls, const AttentionOptions& options, const Context&,
                     const Visit& visit) const {
    if (calls.empty()) return;
    visit(calls, DensePattern{calls.front().q.rows, calls.front().k.rows}, NoScoreMod{}, narrowed(options));
  }

 private:
  AttentionOptions narrowed(AttentionOptions options) const {
    options.mask.window_left = std::min(options.mask.window_left, left_);
    options.mask.window_right = std::min(options.mask.window_right, right_);
    return options;
  }

  Index left_;
  Index right_;
};

}  // namespace heed
