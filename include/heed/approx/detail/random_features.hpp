#pragma once
#include <cmath>
#include <cstdint>

#include "heed/core/random.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// Normal numbers of variance 1: pairs of them from two uniform ones (Box and Muller 1958).
inline void draw_normals(CounterRng& numbers, Index n, double* to) {
  constexpr double full_turn = 6.28318530717958647693;
  for (Index c = 0; c < n; c += 2) {
    const double radius = std::sqrt(-2 * std::log(1 - numbers.uniform())), angle = full_turn * numbers.uniform();
    to[c] = radius * std::cos(angle);
    if (c + 1 < n) to[c + 1] = radius * std::sin(angle);
  }
}

/// In four sums, so that one addition does not wait for the other.
inline double dot(const double* a, const double* b, Index n) {
  double sum[4] = {};
  Index c = 0;
  for (; c + 4 <= n; c += 4) {
    for (Index u = 0; u < 4; ++u) sum[u] += a[c + u] * b[c + u];
  }
  for (; c < n; ++c) sum[0] += a[c] * b[c];
  return (sum[0] + sum[1]) + (sum[2] + sum[3]);
}

/// Rows of normal numbers, w: n_features x d; orthogonal: those of each block of d rows are orthogonal to each other,
/// every row by itself being distributed as before: its direction is that of the QR decomposition of the block, its
/// length that of the row drawn. Row f is drawn from the stream f of the seed. `room`: (d + 1) * d numbers.
template <class T>
void draw_features(std::uint64_t seed, Index n_features, Index d, bool orthogonal, T* w, double* room) {
  double* row = room + d * d;
  for (Index f = 0; f < n_features; ++f) {
    CounterRng numbers(seed, static_cast<std::uint64_t>(f));
    draw_normals(numbers, d, row);
    const double length = std::sqrt(dot(row, row, d));
    double factor = 1;
    if (orthogonal && d > 0) {
      for (int turn = 0; turn < 2; ++turn) {  // twice is enough for full precision
        for (Index p = 0; p < f % d; ++p) {
          const double along = dot(row, room + p * d, d);
          for (Index c = 0; c < d; ++c) row[c] -= along * room[p * d + c];
        }
      }
      const double left = std::sqrt(dot(row, row, d));
      for (Index c = 0; c < d; ++c) room[f % d * d + c] = row[c] /= left;
      factor = length;
    }
    for (Index c = 0; c < d; ++c) w[f * d + c] = static_cast<T>(factor * row[c]);
  }
}

}  // namespace heed::detail
