#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// How raw products q.k of one head become base-2 exponents, for scalar T. Where nothing but the scale acts the
/// softmax kernel applies it (`softmax_factor`); otherwise the adjust kernel first brings scores to the units the
/// softmax expects.
template <class T>
struct ScoreRule {
  static constexpr double log2_e = 1.4426950408889634074;

  T query_factor;    // folded into packed queries: the sign of the scale, 0 for scale 0
  T softmax_factor;  // > 0: from what the softmax sees to base-2 exponents
  T scale;           // |scale|, applied by the adjust kernel
  T cap;             // softcap, 0 = off
  T slope;           // ALiBi slope, 0 = off
  bool adjusts_all;  // the adjust kernel runs on every pair

  ScoreRule(const AttentionOptions& options, Index d, Index head, bool has_functor) {
    const double given = options.scale ? *options.scale : 1.0 / std::sqrt(static_cast<double>(d));
    const double slope_given = options.mask.alibi_slope.given() ? options.mask.alibi_slope.of(head) : 0.0;
    query_factor = static_cast<T>(given > 0 ? 1 : given < 0 ? -1 : 0);
    scale = static_cast<T>(given == 0 ? 1.0 : std::abs(given));
    cap = options.softcap && can_bend(given, *options.softcap) ? static_cast<T>(*options.softcap) : T(0);
    adjusts_all = has_functor || cap != 0 || slope_given != 0 || options.mask.bias.given() ||
                  !keeps_raw(static_cast<double>(scale) * log2_e, options.sinks, head);
    if (adjusts_all) {
      softmax_factor = static_cast<T>(log2_e);
    } else {  // boolean masks alone leave the units of raw scores
      softmax_factor = static_cast<T>(static_cast<double>(scale) * log2_e);
      scale = 1;
    }
    slope = static_cast<T>(slope_given);
  }

 private:
  static constexpr double least = static_cast<double>(std::numeric_limits<T>::min());
  static constexpr double largest = static_cast<double>(std::numeric_limits<T>::max());

  // False where the cap changes nothing: scores are all 0, or scale / cap is below the normal numbers, so that only
  // products of queries and keys past 1e34 would come near it.
  static bool can_bend(double scale, double softcap) { return std::abs(scale) / softcap * (2 * log2_e) >= least; }

  // Whether raw scores can be the units of the softmax: `factor` brings them to base-2 exponents, and its inverse a
  // sink and an lse to them. The margin is for sums.
  static bool keeps_raw(double factor, const PerHead& sinks, Index head) {
    constexpr double margin = 0x1p26;
    if (!(factor >= least * margin && factor <= largest / margin)) return false;
    if (!sinks.given()) return true;
    const double sink = sinks.of(head);
    return is_minus_infinity(sink) || std::abs(sink) * log2_e <= largest / margin * factor;
  }
};

/// What brings the scores of a head to base-2 exponents.
template <class T, class ScoreMod>
T softmax_factor_of(const AttentionOptions& options, Index d, Index head) {
  return ScoreRule<T>(options, d, head, !std::is_same_v<ScoreMod, NoScoreMod>).softmax_factor;
}

}  // namespace heed::detail
