#pragma once
#include <algorithm>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// to += a b for matrices of any strides, whose factors are read a piece at a time: for products whose inner side is
/// the long one, as those of projections of keys, or whose factors are transposes, as those of their gradients.
///
/// Shapes  a: n x m, b: m x columns(to), to: n x columns(to); to holds sums, a and b any storage scalar.
/// Cost    2 n m columns(to) flops at the speed of the tile kernels; memory a few tiles a thread.
/// Threads a task is a block of `to`: the same bits for any number of threads.
template <class T, class A, class B>
void add_product(const View<T>& to, const ConstView<A>& a, const ConstView<B>& b, Workspace& workspace, int threads) {
  constexpr Index row_block = 48, column_block = 256, piece = 128;  // 128 x 256 numbers of b: the second level cache
  const Isa isa = active_isa();
  const Index lanes = tile_kernels<T>(isa).lanes, n_columns = std::min(to.cols, column_block),
              stride = (n_columns + lanes - 1) / lanes * lanes + lanes;
  const Index n_row_blocks = (to.rows + row_block - 1) / row_block,
              n_column_blocks = (to.cols + column_block - 1) / column_block;
  struct Tiles {
    T *a, *b, *sum;
  };
  Workspace::Frame frame(workspace);
  for_each_task(
      n_row_blocks * n_column_blocks, threads, frame,
      [&](Scratch& scratch) {
        Tiles tiles{};
        tiles.a = scratch.take<T>(row_block * piece);
        tiles.b = scratch.take<T>(piece * stride);
        tiles.sum = scratch.take<T>(row_block * stride);
        return tiles;
      },
      [&](const Tiles& tiles, Index task) {
        const Index row = task % n_row_blocks * row_block, column = task / n_row_blocks * column_block;
        const Index rows = std::min(row_block, to.rows - row), columns = std::min(column_block, to.cols - column);
        const Index whole = (columns + lanes - 1) / lanes * lanes;
        std::fill_n(tiles.sum, rows * stride, T(0));
        for (Index at = 0; at < a.cols; at += piece) {
          const Index n = std::min(piece, a.cols - at);
          storage_kernels<T, KernelScalar<A>>(isa).gather(
              kernel_pointer(a.data) + row * a.row_stride + at * a.col_stride, a.row_stride, a.col_stride, nullptr,
              rows, n, tiles.a, piece);
          storage_kernels<T, KernelScalar<B>>(isa).gather(
              kernel_pointer(b.data) + at * b.row_stride + column * b.col_stride, b.row_stride, b.col_stride, nullptr,
              n, columns, tiles.b, stride);
          for (Index j = 0; j < n; ++j) std::fill(tiles.b + j * stride + columns, tiles.b + j * stride + whole, T(0));
          gradient_kernels<T>(isa).add_products(tiles.a, piece, rows, tiles.b, stride, n, whole, tiles.sum, stride);
        }
        for (Index i = 0; i < rows; ++i) {
          for (Index c = 0; c < columns; ++c) to(row + i, column + c) += tiles.sum[i * stride + c];
        }
      });
}

}  // namespace heed::detail
