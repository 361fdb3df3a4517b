#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "heed/core/random.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// The points of one node, rows of `width` numbers: row i is the list[i]-th, or the i-th without a list.
template <class T>
struct NodePoints {
  const T* rows = nullptr;
  const Index* list = nullptr;
  Index size = 0;
  Index width = 0;

  const T* operator[](Index i) const { return rows + (list == nullptr ? i : list[i]) * width; }

  T dot(const T* a, const T* b) const {
    T sum = 0;
    for (Index c = 0; c < width; ++c) sum += a[c] * b[c];
    return sum;
  }
  /// The largest size of a number among them.
  T largest() const {
    T top = 0;
    for (Index i = 0; i < size; ++i) {
      for (Index c = 0; c < width; ++c) top = std::max(top, std::abs((*this)[i][c]));
    }
    return top;
  }
  /// w to length 1; stays 0 where it is.
  void normalise(T* w) const {
    T top = 0;
    for (Index c = 0; c < width; ++c) top = std::max(top, std::abs(w[c]));
    if (top == 0) return;
    for (Index c = 0; c < width; ++c) w[c] /= top;  // squares of what is left neither overflow nor vanish
    const T inverse = T(1) / std::sqrt(dot(w, w));
    for (Index c = 0; c < width; ++c) w[c] *= inverse;
  }
};

/// w: the direction along which the points vary most, of length 1. Power iteration on the covariance, a dozen steps:
/// the split needs a direction of much variance, not the eigenvector. Numbers must be of a size that safe_power leaves
/// alone.
template <class T>
void principal_direction(const NodePoints<T>& points, CounterRng& rng, T* w) {
  const Index width = points.width;
  std::vector<T> mean(static_cast<std::size_t>(width)), next(static_cast<std::size_t>(width));
  for (Index i = 0; i < points.size; ++i) {
    for (Index c = 0; c < width; ++c) mean[static_cast<std::size_t>(c)] += points[i][c];
  }
  for (T& x : mean) x /= static_cast<T>(points.size);
  for (Index c = 0; c < width; ++c) w[c] = static_cast<T>(rng.uniform() - 0.5);
  for (int step = 0; step < 12; ++step) {
    points.normalise(w);
    const T shift = points.dot(mean.data(), w);
    std::fill(next.begin(), next.end(), T(0));
    for (Index i = 0; i < points.size; ++i) {
      const T* x = points[i];
      const T along = points.dot(x, w) - shift;
      for (Index c = 0; c < width; ++c)
        next[static_cast<std::size_t>(c)] += along * (x[c] - mean[static_cast<std::size_t>(c)]);
    }
    std::copy(next.begin(), next.end(), w);
  }
  points.normalise(w);
}

/// w: the direction from one centre of two to the other, of length 1: Lloyd's algorithm from two drawn points. Sizes as
/// above; at least two points.
template <class T>
void two_means(const NodePoints<T>& points, CounterRng& rng, T* w) {
  const Index n = points.size;
  const Index a = rng.below(n), b = (a + 1 + rng.below(n - 1)) % n;
  const auto width = static_cast<std::size_t>(points.width);
  std::vector<T> centre[2] = {{points[a], points[a] + points.width}, {points[b], points[b] + points.width}};
  for (int step = 0; step < 8; ++step) {
    std::vector<T> sum[2] = {std::vector<T>(width), std::vector<T>(width)};
    Index count[2] = {0, 0};
    const T *first = centre[0].data(), *second = centre[1].data();
    const T half = (points.dot(second, second) - points.dot(first, first)) / 2;
    for (Index i = 0; i < n; ++i) {
      const T* x = points[i];
      const int nearer = points.dot(x, second) - points.dot(x, first) >= half ? 1 : 0;
      ++count[nearer];
      for (std::size_t c = 0; c < width; ++c) sum[nearer][c] += x[c];
    }
    for (const int side : {0, 1}) {
      for (std::size_t c = 0; c < width && count[side] > 0; ++c)
        centre[side][c] = sum[side][c] / static_cast<T>(count[side]);
    }
  }
  for (std::size_t c = 0; c < width; ++c) w[c] = centre[1][c] - centre[0][c];
  points.normalise(w);
}

}  // namespace heed::detail
