#pragma once
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"

namespace heed {

/// Sliding-window attention: softmax over the keys from `left` before the aligned diagonal to `right` after it, both
/// inclusive, that the mask keeps. The same as Mask::window_left and window_right, as a method; given both, the
/// narrower holds.
///
/// Shapes  as attend.
/// Errors  as attend; OptionError for a negative bound.
/// Cost    2 (d + d_v) flops and one exponential per kept pair, n_q (left + right + 1) of them at most.
/// Threads const and re-entrant; results do not depend on context.threads.
/// Source  Beltagy, Peters, Cohan 2020 (Longformer), section 3.1.
class WindowAttention {
 public:
  static constexpr bool has_softmax = true;
  static constexpr bool reads_no_keys = true;

  explicit WindowAttention(Index left, Index right = 0) : left_(left), right_(right) {
    if (left < 0) throw OptionError(detail::message("WindowAttention: left = ", left, " must be >= 0"));
    if (right < 0) throw OptionError(detail::message("WindowAttention: right = ", right, " must be >= 0"));
  }

  Index left() const { return left_; }
  Index right() const { return right_; }

  /// See core/method.hpp.
  template <class Call>
  detail::Pairs pairs(std::span<const Call> calls, Index, const AttentionOptions& options, const Context&,
                      Workspace::Frame& frame) const {
    return detail::every_pair(calls, options.mask, frame, left_, right_);
  }

 private:
  Index left_;
  Index right_;
};

}  // namespace heed
