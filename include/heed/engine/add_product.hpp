#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Which rows of a, columns of a and rows of b, and columns of b take part in a product; rows and columns of what is
/// added to are the same ones.
struct ProductTokens {
  TokenSet rows, inner, columns;
};

/// tile(r, c) = from(rows[r], columns[c]); one of the two may be a list.
template <class T, class S>
void gather_tile(const ConstView<S>& from, const TokenSet& rows, const TokenSet& columns, T* tile, Index stride,
                 Isa isa) {
  const StorageKernels<T, KernelScalar<S>>& stored = storage_kernels<T, KernelScalar<S>>(isa);
  const auto* data = kernel_pointer(from.data) + rows.first * from.row_stride + columns.first * from.col_stride;
  if (columns.list == nullptr) {
    stored.gather(data, from.row_stride, from.col_stride, rows.list, rows.size, columns.size, tile, stride);
  } else {
    stored.transpose(data, from.col_stride, from.row_stride, columns.list, columns.size, rows.list, rows.size, tile,
                     stride, T(1), false);
  }
}

/// to += a b for matrices of any strides, whose factors are read a piece at a time: for products whose inner side is
/// the long one, as those of projections of keys, or whose factors are transposes, as those of their gradients. Rows
/// and columns that are not `some` are neither read nor written.
///
/// Shapes  a: n x m, b: m x columns(to), to: n x columns(to); to holds sums, a and b any storage scalar.
/// Cost    2 flops for each of some.rows, some.inner and some.columns, at the speed of the tile kernels; memory a few
///         tiles a thread.
/// Threads a task is a block of `to`: the same bits for any number of threads.
template <class T, class A, class B>
void add_product(const View<T>& to, const ConstView<A>& a, const ConstView<B>& b, const ProductTokens& some,
                 Workspace& workspace, int threads) {
  constexpr Index row_block = 48, column_block = 256, piece = 128;  // 128 x 256 numbers of b: the second level cache
  const Isa isa = active_isa();
  const Index lanes = tile_kernels<T>(isa).lanes, n_columns = std::min(some.columns.size, column_block),
              stride = (n_columns + lanes - 1) / lanes * lanes + lanes;
  const Index n_row_blocks = (some.rows.size + row_block - 1) / row_block,
              n_column_blocks = (some.columns.size + column_block - 1) / column_block;
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
        const TokenSet rows = some.rows.part(row, std::min(row_block, some.rows.size - row)),
                       columns = some.columns.part(column, std::min(column_block, some.columns.size - column));
        const Index whole = (columns.size + lanes - 1) / lanes * lanes;
        std::fill_n(tiles.sum, rows.size * stride, T(0));
        for (Index at = 0; at < some.inner.size; at += piece) {
          const TokenSet inner = some.inner.part(at, std::min(piece, some.inner.size - at));
          gather_tile(a, rows, inner, tiles.a, piece, isa);
          gather_tile(b, inner, columns, tiles.b, stride, isa);
          for (Index j = 0; j < inner.size; ++j)
            std::fill(tiles.b + j * stride + columns.size, tiles.b + j * stride + whole, T(0));
          gradient_kernels<T>(isa).add_products(tiles.a, piece, rows.size, tiles.b, stride, inner.size, whole,
                                                tiles.sum, stride);
        }
        for (Index i = 0; i < rows.size; ++i) {
          for (Index c = 0; c < columns.size; ++c) to(rows[i], columns[c]) += tiles.sum[i * stride + c];
        }
      });
}

}  // namespace heed::detail
