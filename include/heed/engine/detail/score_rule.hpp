#pragma once
#include <cmath>

#include "heed/core/options.hpp"
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
    cap = options.softcap ? static_cast<T>(*options.softcap) : T(0);
    adjusts_all = has_functor || cap != 0 || slope_given != 0 || options.mask.bias.given();
    if (adjusts_all) {
      softmax_factor = static_cast<T>(log2_e);
    } else {  // boolean masks alone leave the units of raw scores
      softmax_factor = static_cast<T>(static_cast<double>(scale) * log2_e);
      scale = 1;
    }
    slope = static_cast<T>(slope_given);
  }
};

}  // namespace heed::detail
