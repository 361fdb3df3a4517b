#pragma once
#include <algorithm>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// How rows of keys and values meet one query of each of several heads: brought to the scalar sums are kept in, which
/// serves every storage scalar. Int8RowOperands has the same members.
template <class T, class Key>
class RowOperands {
 public:
  static constexpr bool all_finite = false;  ///< true: no row holds NaN or Inf
  static constexpr Index first_edge = 0;     ///< chunks of keys may end here and at multiples of their size from here

  RowOperands(Scratch& scratch, Index tile_keys, Index /*max_heads*/, Index d, Index d_v, Isa isa)
      : keys_(storage_kernels<T, KernelScalar<Key>>(isa)), same_(storage_kernels<T, T>(isa)) {
    k_tile_ = scratch.take<T>(tile_keys * d);
    v_tile_ = scratch.take<T>(tile_keys * d_v);
  }

  /// Queries of the run to come, their keys, and what multiplies their scores.
  void begin(const ConstView<Key>&, const T*, Index, Index, T) {}
  /// Where a tile of at most `n` keys from `at` on should end.
  static Index tile_end(Index at, Index n) { return at + n; }

  /// s[h * s_stride + j] = q_h . k of key at + j.
  void scores(const ConstView<Key>& k, Index at, Index n, const T* q, Index q_stride, Index n_heads, T* s,
              Index s_stride) {
    const auto* data = kernel_pointer(k.data) + at * k.row_stride;
    if (k.col_stride == 1) {
      keys_.row_scores(data, k.row_stride, n, q, q_stride, n_heads, k.cols, s, s_stride);
    } else {
      keys_.gather(data, k.row_stride, k.col_stride, nullptr, n, k.cols, k_tile_, k.cols);
      same_.row_scores(k_tile_, k.cols, n, q, q_stride, n_heads, k.cols, s, s_stride);
    }
  }

  /// Reads the values of a tile, for add_values.
  void load_values(const ConstView<Key>& v, Index at, Index n) {
    if (v.col_stride != 1) {
      keys_.gather(kernel_pointer(v.data) + at * v.row_stride, v.row_stride, v.col_stride, nullptr, n, v.cols, v_tile_,
                   v.cols);
    }
  }
  /// out_h = factor[h] * out_h + the sum of w[h * w_stride + j] times value at + from + j, for `n` keys; `at` is the
  /// tile's.
  void add_values(const ConstView<Key>& v, Index at, Index from, Index n, const T* w, Index w_stride, Index n_heads,
                  const T* factor, T* out, Index out_stride) {
    if (v.col_stride == 1) {
      keys_.row_values(kernel_pointer(v.data) + (at + from) * v.row_stride, v.row_stride, n, w, w_stride, n_heads,
                       v.cols, factor, out, out_stride);
    } else {
      same_.row_values(v_tile_ + from * v.cols, v.cols, n, w, w_stride, n_heads, v.cols, factor, out, out_stride);
    }
  }

 private:
  const StorageKernels<T, KernelScalar<Key>>& keys_;
  const StorageKernels<T, T>& same_;
  T *k_tile_, *v_tile_;
};

}  // namespace heed::detail
