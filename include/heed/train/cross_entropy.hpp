#pragma once
#include "heed/core/macros_away.inl"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// The target of a row that is not asked.
inline constexpr std::int32_t no_target = -1;

/// What a batch was worth.
struct LossReport {
  double loss = 0;      ///< mean over the answers asked for, in nats
  Index n_answers = 0;  ///< rows with a target
  Index n_right = 0;    ///< of these the largest logit is the target's
  double accuracy() const { return n_answers == 0 ? 0 : static_cast<double>(n_right) / static_cast<double>(n_answers); }
};

/// Cross-entropy, -mean log softmax(logits_i)[target_i] over the rows with a target, and its gradient
/// (softmax(logits_i) - onehot(target_i)) / n_answers.
///
/// Shapes  logits, d_logits: n x n_out (d_logits without data: not wanted), targets: n numbers in [0, n_out), or
///         `no_target` for rows that are not asked.
/// Errors  ShapeError for another number of targets; OptionError for a target outside, and for a row with a target
///         whose logits are all -inf, which is no distribution. d_logits is untouched then. A target of logit -inf has
///         the loss +inf; NaN in a row stays in its gradient and in the loss.
template <class T>
LossReport cross_entropy(const ConstView<T>& logits, std::span<const std::int32_t> targets, const View<T>& d_logits) {
  if (static_cast<Index>(targets.size()) != logits.rows)
    throw ShapeError(detail::message("targets has ", static_cast<Index>(targets.size()),
                                     " entries but must have one per row of logits: ", logits.rows));
  LossReport report;
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const std::int32_t target = targets[i];
    if (target == no_target) continue;
    if (target < 0 || target >= logits.cols) {
      throw OptionError(detail::message("targets[", i, "] = ", target, " must be in [0, ", logits.cols,
                                        "), or no_target = ", no_target, " for a row that is not asked"));
    }
    Index c = 0;
    while (c < logits.cols && detail::is_minus_infinity(logits(static_cast<Index>(i), c))) ++c;
    if (c == logits.cols) {
      throw OptionError(detail::message("logits has -inf alone in row ", i, ", which has the target ", target,
                                        ", but must have another number there"));
    }
    ++report.n_answers;
  }
  const double share = report.n_answers == 0 ? 0 : 1.0 / static_cast<double>(report.n_answers);
  for (Index i = 0; i < logits.rows; ++i) {
    const std::int32_t target = targets[static_cast<std::size_t>(i)];
    if (target == no_target) {
      if (d_logits.data != nullptr) detail::row_of(d_logits, i).setZero();
      continue;
    }
    const auto row = detail::row_of(logits, i);
    Index best = 0;
    const T top = row.maxCoeff(&best);
    report.n_right += best == target;
    const T sum = (row - top).exp().sum();
    report.loss += share * (std::log(static_cast<double>(sum)) + static_cast<double>(top - row[target]));
    if (d_logits.data == nullptr) continue;
    auto d_row = detail::row_of(d_logits, i);
    d_row = (row - top).exp() * (static_cast<T>(share) / sum);
    d_row[target] -= static_cast<T>(share);
  }
  return report;
}

}  // namespace heed

#include "heed/core/macros_back.inl"
