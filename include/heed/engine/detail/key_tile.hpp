#pragma once
#include <algorithm>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Keys and values of one tile as the kernels read them: in place where their layout allows, else copied once for all
/// the panels that visit the tile. Value (j, c) is at v[(c / rows) * v_block + j * v_stride + c % rows].
template <class T, class S>
class KeyTile {
 public:
  /// `keys`: of the largest tile to come.
  KeyTile(Scratch& scratch, Index keys, Index d, Index d_v, Isa isa)
      : capacity_(keys),
        tiles_(tile_kernels<T>(isa)),
        storage_(storage_kernels<T, KernelScalar<S>>(isa)),
        same_(storage_kernels<T, T>(isa)),
        rows_(tiles_.rows) {
    k_tile_ = scratch.take<T>(capacity_ * d);
    v_tile_ = scratch.take<T>((d_v + rows_ - 1) / rows_ * block_stride());
    v_rows_ = scratch.take<T>(capacity_ * d_v);
  }

  /// `keys` are visited by `visits` panels: copying pays for several only.
  void load(const ConstView<S>& keys_of, const ConstView<S>& values_of, const TokenSet& keys, Index visits) {
    size_ = keys.size;
    d_v_ = values_of.cols;
    finite_ = Finite::unknown;
    const Index first = keys.list == nullptr ? keys.first : 0;
    const bool in_place = std::is_same_v<S, T> && keys.list == nullptr;
    const auto* k_data = kernel_pointer(keys_of.data) + first * keys_of.row_stride;
    const auto* v_data = kernel_pointer(values_of.data) + first * values_of.row_stride;
    if (in_place && keys_of.col_stride == 1 && (visits < 5 || keys_of.row_stride == keys_of.cols)) {
      k_ = reinterpret_cast<const T*>(k_data);
      k_stride_ = keys_of.row_stride;
    } else {
      storage_.gather(k_data, keys_of.row_stride, keys_of.col_stride, keys.list, keys.size, keys_of.cols, k_tile_,
                      keys_of.cols);
      k_ = k_tile_;
      k_stride_ = keys_of.cols;
    }
    const Index d_v = values_of.cols;
    if (in_place && values_of.col_stride == 1 && visits == 1) {
      v_ = reinterpret_cast<const T*>(v_data);
      v_stride_ = values_of.row_stride;
      v_block_ = rows_;
      return;
    }
    v_ = v_tile_;
    v_stride_ = rows_;
    v_block_ = block_stride();
    if (values_of.col_stride == 1) {
      storage_.pack_values(v_data, values_of.row_stride, keys.list, keys.size, d_v, v_rows_, v_tile_, v_block_);
    } else {
      storage_.gather(v_data, values_of.row_stride, values_of.col_stride, keys.list, keys.size, d_v, v_rows_, d_v);
      same_.pack_values(v_rows_, d_v, nullptr, keys.size, d_v, nullptr, v_tile_, v_block_);
    }
  }

  const T* k(Index j) const { return k_ + j * k_stride_; }
  const T* v(Index j) const { return v_ + j * v_stride_; }
  Index k_stride() const { return k_stride_; }
  Index v_stride() const { return v_stride_; }
  Index v_block() const { return v_block_; }
  Index d_v() const { return d_v_; }
  /// True when the values of keys [j, j + n) hold no NaN or Inf. The whole tile is looked at first, once.
  bool finite(Index j, Index n) {
    if (finite_ == Finite::unknown) finite_ = finite_rows(0, size_) ? Finite::all : Finite::some;
    return finite_ == Finite::all || finite_rows(j, n);
  }
  /// Value (j, c).
  T value(Index j, Index c) const { return v(j)[column(c)]; }
  /// The values of keys [j, j + n) with 0 for NaN and Inf, row-major. Lives until the next call.
  const T* finite_copy(Index j, Index n) {
    for (Index r = 0; r < n; ++r) {
      for (Index c = 0; c < d_v_; ++c) v_rows_[r * d_v_ + c] = is_finite(value(j + r, c)) ? value(j + r, c) : T(0);
    }
    return v_rows_;
  }

 private:
  // Offset of value column c from v(j).
  Index column(Index c) const { return c / rows_ * v_block_ + c % rows_; }
  // One vector more than a block of columns holds: blocks a power of two apart would fall on the same cache lines.
  Index block_stride() const { return capacity_ * rows_ + 16; }

  bool finite_rows(Index j, Index n) const {
    if (v_stride_ != rows_) return tiles_.all_finite(v(j), v_stride_, n, d_v_);
    for (Index c = 0; c < d_v_; c += rows_) {
      const Index columns = std::min(rows_, d_v_ - c);
      const bool whole = columns == rows_;  // then the block is one run of memory
      if (!tiles_.all_finite(v(j) + column(c), v_stride_, whole ? 1 : n, whole ? n * rows_ : columns)) return false;
    }
    return true;
  }

  enum class Finite { unknown, all, some };

  Index capacity_;
  const TileKernels<T>& tiles_;
  const StorageKernels<T, KernelScalar<S>>& storage_;
  const StorageKernels<T, T>& same_;
  Index rows_;
  T *k_tile_, *v_tile_, *v_rows_;
  const T* k_ = nullptr;
  const T* v_ = nullptr;
  Index k_stride_ = 0, v_stride_ = 0, v_block_ = 0, size_ = 0, d_v_ = 0;
  Finite finite_ = Finite::unknown;
};

}  // namespace heed::detail
