#pragma once
#include <cstdint>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/vector_view.hpp"

namespace heed {

/// How r products x_k W_k of a row x W = sum_k x_k W_k stand for all d_in of them (W_k is row k of W):
///   with_replacement     r draws with p_k = |W_k|^2 / |W|_F^2, as published: sum x_k W_k / (r p_k). Unbiased.
///   product_weighted     the same with p_k ~ |x_k| |W_k|, the best p for one product. Unbiased.
///   without_replacement  r different k, included with pi_k = min(1, c |x_k| |W_k|): sum x_k W_k / pi_k. Unbiased.
///   largest              the r largest |x_k| |W_k|, as they are. Deterministic and biased, and on real rows the best.
enum class Estimator { with_replacement, product_weighted, without_replacement, largest };

/// How many products r_j token j gets, A being the weights of the head, n its kept tokens:
///   column_max   r_j = (n max_i A_ij / alpha)^2, as published
///   column_norm  the least summed squared error, each token's weighed by |A[:, j]|^2, that fraction * d_in * n
///                products can buy: r_j ~ |A[:, j]| |x_j| for the estimators that draw, whose error falls as 1 / r_j;
///                for `largest` the r_j products with |A[:, j]| |x_jk| |W_k| above a floor common to all tokens
///   constant     r_j = fraction * d_in for every kept token; needs no A
///
/// Later   column_max and column_norm look at column j of A and at n, hence at queries and tokens behind token j: under
///         a causal mask a value row they sample depends on tokens that its queries may not see, and changes when the
///         sequence grows. So does a centred row, through the mean row. Only `constant` without `centred`, always
///         sampled (ValuePath::sampled), gives token j a row that later tokens do not change.
/// Heads   `constant` with `largest` chooses once for all heads of a call, by the norms of whole rows of w_v, as long
///         as every head gives every token the same r_j. Where masks that differ by head keep other tokens, counts
///         differ, and each head chooses by the norms of its own columns.
enum class Budget { column_max, column_norm, constant };

/// How r_j becomes a whole number.
enum class Rounding {
  up,        ///< ceil, n counts kept tokens: unbiased, keeps the published bound
  published  ///< floor, n counts padded tokens too; r_j = 0 makes the row 0
};

/// How the value rows of a head are made.
enum class ValuePath {
  fastest,  ///< by sampling, or by the exact product where that is estimated to be no slower
  sampled   ///< by sampling whatever it costs: to study an estimator
};

/// How MonteCarloValues makes value rows. The defaults are the published method with its roundings corrected.
struct MonteCarloOptions {
  double alpha = 0.4;                                 ///< error knob of column_max: smaller is more exact; must be > 0
  std::uint64_t seed = 0;                             ///< same seed, same bits
  Estimator estimator = Estimator::with_replacement;  ///< which products stand for the row; default: as published
  Budget budget = Budget::column_max;                 ///< how many; default: as published
  double fraction = 0.5;  ///< mean r_j / d_in of column_norm and constant; in (0, 1]; 1/2 halves the products
  bool centred = false;   ///< samples x less the mean row of kept tokens, later ones too; `fraction` pays that row
  Rounding rounding = Rounding::up;     ///< default: corrected
  VectorView bias{};                    ///< b of x W + b, cols(w_v) entries, added after sampling; default: none
  double skip_below = 0;                ///< tokens whose largest weight is below get r_j = 0; >= 0; see skip_bound
  ValuePath path = ValuePath::fastest;  ///< default: never slower than the exact product by intent
};

namespace detail {

/// Throws OptionError for options outside their range. T: the scalar that sums are kept in, by which numbers are
/// judged.
template <class T>
void check_monte_carlo(const MonteCarloOptions& options) {
  const auto refuse = [](const char* name, double value, const char* must) {
    throw OptionError(message("MonteCarloOptions::", name, " = ", value, " must be ", must));
  };
  if (!is_finite(options.alpha) || !(options.alpha > 0)) refuse("alpha", options.alpha, "> 0 and finite");
  if (!is_finite(options.fraction) || !(options.fraction > 0) || options.fraction > 1)
    refuse("fraction", options.fraction, "in (0, 1]");
  if (!is_finite(options.skip_below) || options.skip_below < 0)
    refuse("skip_below", options.skip_below, ">= 0 and finite");
  check_number(options.alpha, number_range<T>(), "MonteCarloOptions::alpha");
  check_number(options.fraction, number_range<T>(), "MonteCarloOptions::fraction");
  check_number(options.skip_below, number_range<T>(), "MonteCarloOptions::skip_below");
}

}  // namespace detail
}  // namespace heed
