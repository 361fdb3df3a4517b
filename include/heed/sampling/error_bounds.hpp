#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/sampling/inclusion.hpp"
#include "heed/sampling/monte_carlo_options.hpp"

namespace heed {

/// The published bound on the error of one output row, for with_replacement and column_max:
/// E |out~_i - out_i| <= alpha beta |W|_F, beta = mean_j |x_j| over the tokens that n counts.
///
/// Rounding::published costs at most sqrt(2): a floored r >= 1 is at least half of what was asked, and a floored 0 errs
/// by less than its term of the bound. No independence between tokens is used, so shared sequences keep it.
/// Source  Kim and Ko 2022, section 3, constants corrected.
inline double published_bound(double alpha, double mean_x_norm, double w_norm, Rounding rounding = Rounding::up) {
  return alpha * mean_x_norm * w_norm * (rounding == Rounding::up ? 1.0 : std::sqrt(2.0));
}

/// The bound that holds with probability at least 1 - delta, 0 < delta <= 1 (Markov):
/// |out~_i - out_i| <= alpha beta |W|_F / delta.
inline double published_bound_within(double delta, double alpha, double mean_x_norm, double w_norm,
                                     Rounding rounding = Rounding::up) {
  return published_bound(alpha, mean_x_norm, w_norm, rounding) / delta;
}

/// The most that leaving out tokens of importance below `threshold` costs any output row: the sum over these tokens of
/// importance_j |x_j| |W|_F >= sum_j A_ij |x_j W|. With a bias their rows are the bias, and the bound is the same.
inline double skip_bound(std::span<const double> importance, std::span<const double> x_norms, double w_norm,
                         double threshold) {
  double sum = 0;
  for (std::size_t j = 0; j < importance.size(); ++j) {
    if (importance[j] < threshold) sum += importance[j] * x_norms[j];
  }
  return sum * w_norm;
}

namespace detail {

/// Squared error of a row, averaged over u: the systematic sample changes only where u passes the fractional part of a
/// sum of pi. T is double.
template <class T>
double systematic_variance(const std::vector<T>& x, const std::vector<T>& w, Index d_v, const std::vector<T>& pi) {
  const std::size_t d_in = x.size();
  std::vector<T> ends{0.0, 1.0};
  double place = 0;
  for (const double share : pi) {
    if (share >= 1) continue;
    place += share;
    ends.push_back(1 - (place - std::floor(place)));  // from this u on, one index more of those so far is taken
  }
  std::sort(ends.begin(), ends.end());
  std::vector<std::int32_t> list(d_in + 1);
  std::vector<T> miss(static_cast<std::size_t>(d_v));
  double variance = 0;
  for (std::size_t e = 0; e + 1 < ends.size(); ++e) {
    const double length = ends[e + 1] - ends[e];
    if (length <= 0) continue;
    const Index taken = systematic_sample<T>(pi, ends[e] + 0.5 * length, list.data());
    std::fill(miss.begin(), miss.end(), 0.0);
    std::size_t at = 0;
    for (std::size_t k = 0; k < d_in; ++k) {
      double factor = -1;
      if (at < static_cast<std::size_t>(taken) && list[at] == static_cast<std::int32_t>(k)) {
        factor += 1 / pi[k];
        ++at;
      }
      const std::size_t row = k * static_cast<std::size_t>(d_v);
      for (std::size_t c = 0; c < miss.size() && factor != 0; ++c) miss[c] += factor * x[k] * w[row + c];
    }
    double square = 0;
    for (const double off : miss) square += off * off;
    variance += length * square;
  }
  return variance;
}

}  // namespace detail

/// E |H - x W|^2 of one token with r samples over the draws, exactly; for `largest`, which draws nothing, the squared
/// error itself:
///   with_replacement     (|x|^2 |W|_F^2 - |x W|^2) / r
///   product_weighted     ((sum_k |x_k| |W_k|)^2 - |x W|^2) / r
///   without_replacement  the mean over all systematic samples, at most d_in + 1 of them
///   largest              |sum over the k left out of x_k W_k|^2
/// It is 0 for r >= d_in, where the product is exact, and |x W|^2 for r = 0, where the row is 0. With centring, x is
/// the row less the mean row, which is what is sampled.
///
/// Shapes  x: 1 x d_in, w: d_in x d_v, any TokenMatrix.
/// Cost    O(d_in d_v), and O(d_in^2 d_v) for without_replacement: for tests and reports, not for loops.
template <class X, class W>
double sampling_variance(Estimator estimator, const X& x, const W& w, Index r) {
  const auto x_view = view_of(x);
  const auto w_view = view_of(w);
  if (x_view.rows != 1 || x_view.cols != w_view.rows)
    throw ShapeError(
        detail::message("x is ", x_view.rows, " x ", x_view.cols, " but must be 1 x rows(w) = 1 x ", w_view.rows));
  const auto d_in = static_cast<std::size_t>(w_view.rows), d_v = static_cast<std::size_t>(w_view.cols);
  if (r >= w_view.rows) return 0;
  std::vector<double> row(d_in), weights(d_in * d_v), product(d_v, 0.0), size(d_in);
  double x_square = 0, w_square = 0, product_square = 0, size_sum = 0;
  for (std::size_t k = 0; k < d_in; ++k) {
    row[k] = static_cast<double>(x_view(0, static_cast<Index>(k)));
    double square = 0;
    for (std::size_t c = 0; c < d_v; ++c) {
      const double entry = static_cast<double>(w_view(static_cast<Index>(k), static_cast<Index>(c)));
      weights[k * d_v + c] = entry;
      product[c] += row[k] * entry;
      square += entry * entry;
    }
    x_square += row[k] * row[k];
    w_square += square;
    size[k] = std::abs(row[k]) * std::sqrt(square);
    size_sum += size[k];
  }
  for (const double entry : product) product_square += entry * entry;
  if (r <= 0) return product_square;
  switch (estimator) {
    case Estimator::with_replacement: return (x_square * w_square - product_square) / static_cast<double>(r);
    case Estimator::product_weighted: return (size_sum * size_sum - product_square) / static_cast<double>(r);
    case Estimator::without_replacement: {
      std::vector<double> pi(d_in);
      inclusion_probabilities<double>(size, r, pi);
      return detail::systematic_variance(row, weights, w_view.cols, pi);
    }
    case Estimator::largest:
    default: break;
  }
  std::vector<std::size_t> order(d_in);
  for (std::size_t k = 0; k < d_in; ++k) order[k] = k;
  std::sort(order.begin(), order.end(),
            [&](std::size_t a, std::size_t b) { return size[a] != size[b] ? size[a] > size[b] : a < b; });
  std::fill(product.begin(), product.end(), 0.0);
  for (std::size_t t = static_cast<std::size_t>(r); t < d_in; ++t) {
    for (std::size_t c = 0; c < d_v; ++c) product[c] += row[order[t]] * weights[order[t] * d_v + c];
  }
  double square = 0;
  for (const double entry : product) square += entry * entry;
  return square;
}

}  // namespace heed
