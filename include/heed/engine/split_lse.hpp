#pragma once
#include <cmath>
#include <limits>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// The log-sum-exp of a head's queries in two numbers each, lse = (factor top + log_sum) / log2(e): the largest score,
/// in the units `factor` brings to base-2 exponents, and the base-2 logarithm of the sum of all weights relative to it.
/// One number of the size of a huge score has no digits left for the sum.
template <class T>
struct SplitLse {
  T factor = 1;
  T* top = nullptr;      // n_q
  T* log_sum = nullptr;  // n_q
};

/// Whether lse is so large that its rounding shows in the weights recomputed from it: by 2^-16 and more.
template <class T>
bool needs_split(T lse) {
  constexpr T limit = T(0x1p-15) / std::numeric_limits<T>::epsilon();
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
  constexpr double log2_e = 1.4426950408889634074;
  const T lse = call.known_lse[i * call.known_lse_stride];
  if (is_minus_infinity(lse)) return weightless<T>;
  const double exponent = static_cast<double>(lse) * log2_e;
  if (call.split != nullptr && needs_split(lse)) {
    const SplitLse<T>& split = *call.split;
    const double again =
        static_cast<double>(split.top[i]) * static_cast<double>(split.factor) + static_cast<double>(split.log_sum[i]);
    constexpr double few = 8 * std::numeric_limits<T>::epsilon();
    if (std::abs(again - exponent) <= few * std::abs(exponent)) {
      const T top = is_zero(split.factor - factor) ? split.top[i] : split.top[i] * (split.factor / factor);
      return {top, -split.log_sum[i]};
    }
  }
  return {static_cast<T>(exponent / static_cast<double>(factor)), 0};
}

/// Room for the split log-sum-exp of those `calls` where some query needs it: run_backward fills it.
template <class Calls>
void make_split_room(const Calls& calls, Workspace::Frame& frame) {
  using T = typename Calls::value_type::Sum;
  for (auto& call : calls) {
    bool needed = false;
    for (Index i = 0; call.known_lse != nullptr && i < call.q.rows; ++i)
      needed = needed || needs_split(call.known_lse[i * call.known_lse_stride]);
    if (!needed) continue;
    call.split = new (frame.take<SplitLse<T>>(1)) SplitLse<T>{};
    call.split->top = frame.take<T>(call.q.rows);
    call.split->log_sum = frame.take<T>(call.q.rows);
  }
}

}  // namespace heed::detail
