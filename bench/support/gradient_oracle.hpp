#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

#include "support/oracle.hpp"

namespace heed_bench {

/// One row of weights of attention backwards, in double, by plain loops that share nothing with the library: weights,
/// their slopes d_r by the unscaled product, and the row of d_q.
struct GradientRow {
  std::vector<double> weights, slopes;  ///< n_k each
  std::vector<double> d_q;              ///< d
};

/// Row i. `score(i, j, scaled)` returns the final score, -inf where the pair is masked; it is differentiated
/// numerically.
template <class S, class Score>
GradientRow gradient_row(HeadRows<S> d_out, HeadRows<S> q, HeadRows<S> k, HeadRows<S> v, std::ptrdiff_t i,
                         std::ptrdiff_t n_k, std::ptrdiff_t d, const Score& score) {
  constexpr double masked = -std::numeric_limits<double>::infinity();
  const double scale = 1.0 / std::sqrt(static_cast<double>(d)), step = 1e-5;
  const auto n = static_cast<std::size_t>(n_k);
  GradientRow row{std::vector<double>(n), std::vector<double>(n), std::vector<double>(static_cast<std::size_t>(d))};
  std::vector<double> final_scores(n), bends(n);
  double highest = masked;
  for (std::ptrdiff_t j = 0; j < n_k; ++j) {
    double dot = 0;
    for (std::ptrdiff_t c = 0; c < d; ++c) dot += q.at(i, c) * k.at(j, c);
    const double s = score(i, j, dot * scale);
    final_scores[static_cast<std::size_t>(j)] = s;
    if (s == masked) continue;
    highest = std::max(highest, s);
    bends[static_cast<std::size_t>(j)] =
        (score(i, j, dot * scale + step) - score(i, j, dot * scale - step)) / (2 * step) * scale;
  }
  double sum = 0, mean = 0;
  std::vector<double> d_weights(n);
  for (std::size_t j = 0; j < n; ++j) {
    if (final_scores[j] == masked) continue;
    row.weights[j] = std::exp(final_scores[j] - highest);
    sum += row.weights[j];
    for (std::ptrdiff_t c = 0; c < d; ++c) d_weights[j] += d_out.at(i, c) * v.at(static_cast<std::ptrdiff_t>(j), c);
    mean += row.weights[j] * d_weights[j];
  }
  if (sum == 0) return row;
  for (std::size_t j = 0; j < n; ++j) {
    row.weights[j] /= sum;
    row.slopes[j] = row.weights[j] * (d_weights[j] - mean / sum) * bends[j];
    for (std::ptrdiff_t c = 0; c < d; ++c)
      row.d_q[static_cast<std::size_t>(c)] += row.slopes[j] * k.at(static_cast<std::ptrdiff_t>(j), c);
  }
  return row;
}

/// Largest error of sampled rows of the gradients of one head, each over the largest entry of the sampled rows of the
/// same gradient: a query with one key has a d_q of zeros. got_q, got_k, got_v: as q, k, v.
template <class S, class Score>
double gradient_error(HeadRows<S> d_out, HeadRows<S> q, HeadRows<S> k, HeadRows<S> v, HeadRows<S> got_q,
                      HeadRows<S> got_k, HeadRows<S> got_v, std::ptrdiff_t n_q, std::ptrdiff_t n_k, std::ptrdiff_t d,
                      const Score& score) {
  const auto queries = sample_rows(n_q, 8), keys = sample_rows(n_k, 8);
  const auto width = static_cast<std::size_t>(d);
  using Rows = std::vector<std::vector<double>>;
  Rows d_q, d_k(keys.size(), std::vector<double>(width)), d_v = d_k;
  for (std::ptrdiff_t i = 0; i < n_q; ++i) {
    const GradientRow row = gradient_row(d_out, q, k, v, i, n_k, d, score);
    if (std::find(queries.begin(), queries.end(), i) != queries.end()) d_q.push_back(row.d_q);
    for (std::size_t s = 0; s < keys.size(); ++s) {
      const auto j = static_cast<std::size_t>(keys[s]);
      for (std::size_t c = 0; c < width; ++c) {
        d_k[s][c] += row.slopes[j] * q.at(i, static_cast<std::ptrdiff_t>(c));
        d_v[s][c] += row.weights[j] * d_out.at(i, static_cast<std::ptrdiff_t>(c));
      }
    }
  }
  const auto error_of = [&](const HeadRows<S>& got, const auto& sampled, const Rows& want) {
    double largest = 0, difference = 0;
    for (std::size_t s = 0; s < sampled.size(); ++s) {
      for (std::size_t c = 0; c < width; ++c) {
        const double here = std::abs(got.at(sampled[s], static_cast<std::ptrdiff_t>(c)) - want[s][c]);
        difference = here <= difference ? difference : here;  // a NaN is kept
        largest = std::max(largest, std::abs(want[s][c]));
      }
    }
    return largest > 0 ? difference / largest : difference;
  };
  return std::max({error_of(got_q, queries, d_q), error_of(got_k, keys, d_k), error_of(got_v, keys, d_v)});
}

}  // namespace heed_bench
