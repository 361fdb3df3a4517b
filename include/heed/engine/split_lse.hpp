#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// The logit of a sink in the units that `factor` brings to base-2 exponents.
template <class T>
T score_of_sink(double logit, T factor) {
  return static_cast<T>(logit * 1.4426950408889634074 / static_cast<double>(factor));
}

/// A log-sum-exp in parts, log2(e) lse = top + low + rest: the base-2 exponent of the largest score, what its rounding
/// took, and the logarithm of the sum of weights relative to it. One number of the size of a huge score has no digits
/// left for that sum.
struct SplitLse {
  static constexpr double log2_e = 1.4426950408889634074;

  double top = minus_infinity<double>;
  double low = 0, rest = 0;

  /// Of a score which `factor` brings to base-2 exponents.
  template <class T>
  static SplitLse of_score(T score, T factor) {
    const double s = static_cast<double>(score), f = static_cast<double>(factor);
    if (is_minus_infinity(s)) return {};
    return {s * f, std::fma(s, f, -(s * f)), 0};
  }
  /// Of the logit of a sink, rounded as the softmax rounds it to the units of scores.
  template <class T>
  static SplitLse of_sink(double logit, T factor) {
    return of_score(score_of_sink(logit, factor), factor);
  }
  /// Of a log-sum-exp of which nothing more is known.
  template <class T>
  static SplitLse of_lse(T lse) {
    return is_minus_infinity(lse) ? SplitLse{} : SplitLse{static_cast<double>(lse) * log2_e, 0, 0};
  }

  double exponent() const { return top + (low + rest); }
  /// What a sum makes of this one's weights: 2^(this - all).
  double share_of(const SplitLse& all) const {
    return std::exp2((top - all.top) + (low - all.low) + (rest - all.rest));
  }
  SplitLse plus(const SplitLse& other) const {
    if (is_minus_infinity(other.top)) return *this;
    if (is_minus_infinity(top)) return other;
    const bool mine = (top - other.top) + (low - other.low) + (rest - other.rest) >= 0;
    const SplitLse &large = mine ? *this : other, &small = mine ? other : *this;
    return {large.top, large.low, large.rest + std::log2(1 + small.share_of(large))};
  }
};

/// Whether lse is so large that its rounding shows in the weights recomputed from it: by 2^-16 and more in float, by
/// 2^-31 in double.
template <class T>
bool needs_split(T lse) {
  constexpr T limit = (sizeof(T) == 4 ? T(0x1p-15) : T(0x1p-30)) / std::numeric_limits<T>::epsilon();
  return is_finite(lse) && std::abs(lse) > limit;
}

/// What the weights of one query are relative to: weight = 2^(factor (score - base) + shift).
template <class T>
struct WeightBase {
  T base, shift;
};

/// A query without keys, or a lane without a query: every weight is 2^-inf = 0.
template <class T>
inline constexpr WeightBase<T> weightless = {std::numeric_limits<T>::infinity(), 0};

/// Of query i of a call whose log-sum-exp is known, `factor` being that of its scores. From the two numbers of a huge
/// one, if they are this lse: of a call that is a part of a larger one, it is the log-sum-exp of the whole.
template <class Call, class T = typename Call::Sum>
WeightBase<T> weight_base(const Call& call, Index i, T factor) {
  const T lse = call.known_lse[i * call.known_lse_stride];
  if (is_minus_infinity(lse)) return weightless<T>;
  const double f = static_cast<double>(factor), exponent = static_cast<double>(lse) * SplitLse::log2_e;
  if (call.split_lse == nullptr || !needs_split(lse)) return {static_cast<T>(exponent / f), 0};
  SplitLse split = call.split_lse[i];
  constexpr double few = 8 * static_cast<double>(std::numeric_limits<T>::epsilon());
  if (std::abs(split.exponent() - exponent) > few * std::abs(exponent)) split = SplitLse::of_lse(lse);
  T base = static_cast<T>(split.top / f);
  const auto beside = [&] { return std::fma(static_cast<double>(base), f, -split.top) - split.low; };
  base -= static_cast<T>(beside() / f);  // the score itself, which top / f may miss by a rounding
  // A sum over n keys is below 64 bits. Where units differ, roundings of a base may be more than that.
  return {base, static_cast<T>(std::clamp(beside() - split.rest, -64.0, 64.0))};
}

/// Room for the split log-sum-exp of those `calls` where some query needs it: run_backward finds it.
template <class Calls>
void make_split_room(const Calls& calls, Workspace::Frame& frame) {
  for (auto& call : calls) {
    bool needed = false;
    for (Index i = 0; call.known_lse != nullptr && i < call.q.rows; ++i)
      needed = needed || needs_split(call.known_lse[i * call.known_lse_stride]);
    if (needed) call.split_lse = frame.take<SplitLse>(call.q.rows);
  }
}

}  // namespace heed::detail
