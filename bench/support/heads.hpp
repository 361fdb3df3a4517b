#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include <Eigen/Core>

#include "heed/core/types.hpp"
#include "support/inputs.hpp"
#include "support/oracle.hpp"

namespace heed_bench {

/// Packed q, k, v and the outputs of one call: n x (heads d), row-major, any storage scalar, values drawn as float.
template <class S>
struct PackedHeads {
  using Rows = heed::Matrix<S>;
  heed::Index n_q, n_k, d, n_heads;
  Rows q, k, v, out;                       // n_q or n_k x (n_heads d)
  heed::Matrix<heed::Accumulator<S>> lse;  // n_q x n_heads

  PackedHeads(heed::Index queries, heed::Index keys, heed::Index width, heed::Index heads, std::uint64_t seed = 1)
      : n_q(queries),
        n_k(keys),
        d(width),
        n_heads(heads),
        q(rows(queries, 3 * seed)),
        k(rows(keys, 3 * seed + 1)),
        v(rows(keys, 3 * seed + 2)),
        out(Rows::Zero(queries, width * heads)),
        lse(queries, heads) {}

  /// Largest relative error of rows sampled from the first, the middle and the last head. `score(i, j, h, scaled)` is
  /// the oracle's score of head h.
  template <class Score>
  [[nodiscard]] double error(const Score& score, std::ptrdiff_t rows_a_head = 16) const {
    double largest = 0;
    for (const std::ptrdiff_t h : sample_rows(n_heads, 3)) {
      const std::ptrdiff_t stride = d * n_heads;
      const HeadRows<S> qh{q.data() + h * d, stride}, kh{k.data() + h * d, stride}, vh{v.data() + h * d, stride};
      for (const std::ptrdiff_t i : sample_rows(n_q, rows_a_head)) {
        const auto want =
            oracle_row(qh, kh, vh, i, n_k, d, d, [&](auto row, auto key, double s) { return score(row, key, h, s); });
        const double here = row_error(out.data() + i * stride + h * d, want);
        largest = here <= largest ? largest : here;  // a NaN is kept
      }
    }
    return largest;
  }

 private:
  Rows rows(heed::Index n, std::uint64_t seed) const {
    const std::vector<float> values = random_values(static_cast<std::size_t>(n * d * n_heads), seed);
    Rows m(n, d * n_heads);
    for (heed::Index p = 0; p < m.size(); ++p) m.data()[p] = static_cast<S>(values[static_cast<std::size_t>(p)]);
    return m;
  }
};

}  // namespace heed_bench
