#pragma once
#include <algorithm>
#include <cmath>
#include <span>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/sampling/monte_carlo_options.hpp"

namespace heed {

/// The published number of samples of one token: (n importance / alpha)^2, rounded up, or down for
/// Rounding::published, and at most d_in, which is the exact product. A NaN importance asks for the exact product.
///
/// Source  Kim and Ko 2022, section 3; which tokens n counts is the caller's, see Rounding.
inline Index published_count(double importance, double n, double alpha, Index d_in, Rounding rounding) {
  const double root = n * importance / alpha, wanted = root * root;
  if (!detail::is_finite(wanted) || wanted >= static_cast<double>(d_in)) return d_in;
  return static_cast<Index>(rounding == Rounding::up ? std::ceil(wanted) : std::floor(wanted));
}

/// Shares `total` products among tokens in proportion to their weights, at most d_in for each:
/// counts_j = min(d_in, c weight_j), rounded, with c such that they sum to about `total`. With weight_j =
/// |A[:, j]| |x_j| this minimises the sum over j of |A[:, j]|^2 |x_j|^2 / r_j, the squared error of independent tokens
/// (Cauchy-Schwarz).
///
/// A weight that is not finite asks for the exact product, and takes nothing from the others; a weight of 0 gets none.
inline void proportional_counts(std::span<const double> weights, double total, Index d_in, Rounding rounding,
                                std::span<Index> counts) {
  const double most = static_cast<double>(d_in);
  double factor = 0, capped_before = -1, positive = 0;
  for (const double weight : weights) positive += detail::is_finite(weight) && weight > 0 ? 1 : 0;
  const bool enough = total >= most * positive;
  if (rounding == Rounding::up) total = std::max(0.5 * total, total - 0.5 * positive);  // what rounding adds on average
  while (!enough) {
    double rest = 0, capped = 0;
    for (const double weight : weights) {
      if (!detail::is_finite(weight) || weight <= 0) continue;
      const bool full = weight * factor >= most;
      capped += full ? 1 : 0;
      rest += full ? 0 : weight;
    }
    const double left = total - capped * most;
    if (capped == capped_before || rest <= 0 || left <= 0) break;
    capped_before = capped;
    factor = left / rest;
  }
  for (std::size_t j = 0; j < weights.size(); ++j) {
    if (!detail::is_finite(weights[j])) {
      counts[j] = d_in;
      continue;
    }
    if (enough) {
      counts[j] = weights[j] > 0 ? d_in : 0;
      continue;
    }
    const double share = weights[j] * factor;
    const double whole = rounding == Rounding::up ? std::ceil(share * (1 - 1e-12)) : std::floor(share * (1 + 1e-12));
    counts[j] = whole >= most ? d_in : static_cast<Index>(whole);
  }
}

}  // namespace heed
