#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"
#include "heed/sampling/alias_table.hpp"
#include "heed/sampling/monte_carlo_options.hpp"

namespace heed::detail {

/// One head's d_in x d_v weights as sampling reads them: rows one after the other, padded with zeros to whole vectors,
/// so that a head fits the nearest caches; the norms of the rows; and for with_replacement the table that draws rows.
template <class T>
struct HeadWeights {
  Index d_in = 0;
  Index d_v = 0;
  Index padded = 0;            ///< columns with padding
  T* rows = nullptr;           ///< W_k, or W_k / p_k for with_replacement, so that a draw costs no further product
  T* norms = nullptr;          ///< |W_k|, and 0 behind d_in up to a whole vector
  AliasCell* cells = nullptr;  ///< with_replacement only
  double norm = 0;             ///< |W|_F

  /// Takes the memory; `fill` fills it.
  template <class Memory>
  void take(Memory& memory, Index n_rows, Index n_columns, Index lanes, Estimator estimator) {
    d_in = n_rows;
    d_v = n_columns;
    padded = (d_v + lanes - 1) / lanes * lanes;
    rows = memory.template take<T>(d_in * padded);
    norms = memory.template take<T>((d_in + lanes - 1) / lanes * lanes);
    if (estimator == Estimator::with_replacement) cells = memory.template take<AliasCell>(d_in);
  }

  /// 1 / p_k of with_replacement, 0 for a row of zeros.
  double inverse_p(Index k) const {
    if (!(norms[k] > 0)) return 0;
    const double root = norm / static_cast<double>(norms[k]);
    return root * root;
  }

  /// `share` and `order` are scratch of d_in entries.
  template <class S>
  void fill(const ConstView<S>& w, Isa isa, double* share, std::uint32_t* order) {
    const Index lanes = tile_kernels<T>(isa).lanes;
    if (padded != d_v) std::fill(rows, rows + d_in * padded, T(0));
    storage_kernels<T, KernelScalar<S>>(isa).gather(kernel_pointer(w.data), w.row_stride, w.col_stride, nullptr, d_in,
                                                    d_v, rows, padded);
    std::fill(norms, norms + (d_in + lanes - 1) / lanes * lanes, T(0));
    const ProjectKernels<T>& kernels = project_kernels<T>(isa);
    double total = 0;
    for (Index k = 0; k < d_in; ++k) {
      const T square = kernels.square(d_v, rows + k * padded, nullptr);
      norms[k] = std::sqrt(square);
      share[k] = static_cast<double>(square);
      total += share[k];
    }
    norm = std::sqrt(total);
    if (cells == nullptr) return;
    const double n = static_cast<double>(d_in), to_share = total > 0 ? n / total : 0.0;
    for (Index k = 0; k < d_in; ++k) {
      share[k] = total > 0 ? share[k] * to_share : 1.0;                                  // d_in p_k
      const T factor = share[k] > 0 && total > 0 ? static_cast<T>(n / share[k]) : T(0);  // rows of zeros stay zeros
      kernels.multiply(padded, factor, rows + k * padded);
    }
    build_alias_cells({share, static_cast<std::size_t>(d_in)}, cells, order);
  }
};

}  // namespace heed::detail
