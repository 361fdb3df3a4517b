#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <vector>

namespace heed_bench {

/// The rows of one head, `stride` elements apart, of any scalar that turns into double.
template <class S>
struct HeadRows {
  const S* data = nullptr;
  std::ptrdiff_t stride = 0;
  [[nodiscard]] double at(std::ptrdiff_t row, std::ptrdiff_t c) const {
    return static_cast<double>(data[row * stride + c]);
  }
};

/// Row i of attention in double, by plain loops that share nothing with the library. `score(i, j, scaled)` returns the
/// final score of the pair, -inf where it is masked. A row without a kept key is zeros.
template <class S, class Score>
std::vector<double> oracle_row(HeadRows<S> q, HeadRows<S> k, HeadRows<S> v, std::ptrdiff_t i, std::ptrdiff_t n_k,
                               std::ptrdiff_t d, std::ptrdiff_t d_v, const Score& score) {
  const double scale = 1.0 / std::sqrt(static_cast<double>(d));
  constexpr double masked = -std::numeric_limits<double>::infinity();
  std::vector<double> weights(static_cast<std::size_t>(n_k));
  double highest = masked;
  for (std::ptrdiff_t j = 0; j < n_k; ++j) {
    double dot = 0;
    for (std::ptrdiff_t c = 0; c < d; ++c) dot += q.at(i, c) * k.at(j, c);
    weights[static_cast<std::size_t>(j)] = score(i, j, dot * scale);
    highest = std::max(highest, weights[static_cast<std::size_t>(j)]);
  }
  std::vector<double> out(static_cast<std::size_t>(d_v), 0.0);
  if (highest == masked) return out;
  double sum = 0;
  for (std::ptrdiff_t j = 0; j < n_k; ++j) {
    const double s = weights[static_cast<std::size_t>(j)];
    if (s == masked) continue;
    const double weight = std::exp(s - highest);
    sum += weight;
    for (std::ptrdiff_t c = 0; c < d_v; ++c) out[static_cast<std::size_t>(c)] += weight * v.at(j, c);
  }
  for (double& value : out) value /= sum;
  return out;
}

/// Largest difference of a row from the oracle's, over the largest element of the oracle's row, or over 1 where that
/// row is zeros.
template <class T>
double row_error(const T* got, const std::vector<double>& want) {
  double largest = 0, difference = 0;
  for (std::size_t c = 0; c < want.size(); ++c) {
    const double here = std::abs(static_cast<double>(got[c]) - want[c]);
    difference = here <= difference ? difference : here;  // a NaN is kept
    largest = std::max(largest, std::abs(want[c]));
  }
  return largest > 0 ? difference / largest : difference;
}

/// At most `count` rows out of n, the first and the last among them.
inline std::vector<std::ptrdiff_t> sample_rows(std::ptrdiff_t n, std::ptrdiff_t count) {
  std::vector<std::ptrdiff_t> rows;
  const std::ptrdiff_t used = std::min(n, count);
  for (std::ptrdiff_t s = 0; s < used; ++s) rows.push_back(used == 1 ? n - 1 : s * (n - 1) / (used - 1));
  return rows;
}

}  // namespace heed_bench
