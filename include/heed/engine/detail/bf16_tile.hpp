#pragma once
#include <bit>
#include <cstdint>

#include <Eigen/Core>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/key_tile.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Keys and values of one tile in bfloat16 as the pair kernels read them: rows of keys in place where features come in
/// neighbouring pairs, else copied; values always copied, so that two neighbouring keys lie together. The value
/// column c of keys j and j + 1, j even, is at v(j)[c / rows * v_block + c % rows]. See KeyTile.
class Bf16Tile {
 public:
  const Index rows;  ///< columns of a packed block of values

  /// `keys`: of the largest tile to come.
  Bf16Tile(Scratch& scratch, Index keys, Index d, Index d_v, Isa isa)
      : rows(tile_kernels<float>(isa).rows), capacity_(keys + keys % 2), kernels_(*bf16_kernels(isa)), d_v_(d_v) {
    k_tile_ = scratch.take<Bf16Pair>(capacity_ * ((d + 1) / 2));
    v_tile_ = scratch.take<Bf16Pair>(n_blocks() * v_block());
    clean_ = scratch.take<Bf16Pair>(n_blocks() * v_block());
  }

  /// `keys` are visited by `visits` panels: copying pays for several only.
  void load(const ConstView<Eigen::bfloat16>& keys_of, const ConstView<Eigen::bfloat16>& values_of,
            const TokenSet& keys, Index visits) {
    size_ = keys.size;
    finite_ = Finite::unknown;
    const Index first = keys.list == nullptr ? keys.first : 0;
    const Bfloat* k_data = kernel_pointer(keys_of.data) + first * keys_of.row_stride;
    const Bfloat* v_data = kernel_pointer(values_of.data) + first * values_of.row_stride;
    if (keys.list == nullptr && keys_of.col_stride == 1 && keys_of.cols % 2 == 0 &&
        (visits == 1 || keys_of.row_stride == keys_of.cols)) {
      k_ = k_data;
      k_stride_ = keys_of.row_stride;
    } else {
      const Index n_pairs = (keys_of.cols + 1) / 2;
      kernels_.gather(k_data, keys_of.row_stride, keys_of.col_stride, keys.list, keys.size, keys_of.cols, k_tile_,
                      n_pairs);
      k_ = reinterpret_cast<const Bfloat*>(k_tile_);
      k_stride_ = 2 * n_pairs;
    }
    kernels_.pack_values(v_data, values_of.row_stride, values_of.col_stride, keys.list, keys.size, d_v_, v_tile_,
                         v_block());
  }

  const Bfloat* k(Index j) const { return k_ + j * k_stride_; }
  Index k_stride() const { return k_stride_; }
  /// Values from key j on; j is even.
  const Bf16Pair* v(Index j) const { return v_tile_ + j / 2 * rows; }
  /// One pair row more than a block of columns holds: blocks a power of two apart would fall on the same cache lines.
  Index v_block() const { return (capacity_ / 2 + 2) * rows; }
  Index d_v() const { return d_v_; }

  /// True when the values of keys [j, j + n), and of the neighbour of an odd last one, hold no NaN or Inf; j is even.
  /// The whole tile is looked at first, once.
  bool finite(Index j, Index n) {
    if (finite_ == Finite::unknown) finite_ = finite_rows(0, size_) ? Finite::all : Finite::some;
    return finite_ == Finite::all || finite_rows(j, n);
  }
  /// Value (j, c).
  float value(Index j, Index c) const {
    const Bf16Pair& pair = v(j)[c / rows * v_block() + c % rows];
    return std::bit_cast<float>(static_cast<std::uint32_t>((j % 2 == 0 ? pair.first : pair.second).bits) << 16);
  }
  /// The values of keys [j, j + n), j even, with 0 for NaN and Inf, laid out like v(j). Lives until the next call.
  const Bf16Pair* finite_copy(Index j, Index n) {
    for (Index b = 0; b < n_blocks(); ++b)
      kernels_.clean(v(j) + b * v_block(), (n + 1) / 2 * rows, clean_ + b * v_block());
    return clean_;
  }

 private:
  Index n_blocks() const { return (d_v_ + rows - 1) / rows; }
  bool finite_rows(Index j, Index n) const {
    for (Index b = 0; b < n_blocks(); ++b) {
      if (!kernels_.all_finite(v(j) + b * v_block(), (n + 1) / 2 * rows)) return false;
    }
    return true;
  }

  enum class Finite { unknown, all, some };

  Index capacity_;
  const Bf16Kernels& kernels_;
  Index d_v_;
  Bf16Pair *k_tile_, *v_tile_, *clean_;
  const Bfloat* k_ = nullptr;
  Index k_stride_ = 0, size_ = 0;
  Finite finite_ = Finite::unknown;
};

}  // namespace heed::detail
