#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/matrix_product.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// A panel of columns k of `a` times columns of packed rows b: sums over tokens, which come a chunk after the other, so
/// that what a thread holds does not grow with their number. Vector lanes run along k. One object per thread.
template <class T>
class TransposedPanel {
 public:
  TransposedPanel(Scratch& scratch, Isa isa)
      : tiles_(tile_kernels<T>(isa)), isa_(isa), width_(tiles_.lanes * tiles_.vectors) {
    a_ = scratch.take<T>(chunk * width_);
    sums_ = scratch.take<T>(width_ * columns(isa));
    rows_ = scratch.take<T>(width_ * columns(isa));
    ones_ = scratch.take<T>(width_);
  }

  /// Columns of b that one call takes.
  static Index columns(Isa isa) { return 32 * tile_kernels<T>(isa).rows; }

  /// Writes columns [first, last) of rows [k, k + n) of A^T B, n at most a panel's width.
  template <class A, class Out>
  void multiply(const ConstView<A>& a, const TokenSet& tokens, Index k, Index n, const PackedWeights<T>& b, Index first,
                Index last, const View<Out>& to) {
    const Index vectors = (n + tiles_.lanes - 1) / tiles_.lanes, panel = vectors * tiles_.lanes;
    std::fill(ones_, ones_ + panel, T(1));
    for (Index t = 0; t < tokens.size; t += chunk) {
      const TokenSet some = tokens.part(t, std::min(chunk, tokens.size - t));
      const auto* from =
          kernel_pointer(a.data) + k * a.col_stride + (some.list == nullptr ? some.first : 0) * a.row_stride;
      storage_kernels<T, KernelScalar<A>>(isa_).transpose(from, a.col_stride, a.row_stride, nullptr, n, some.list,
                                                          some.size, a_, panel, T(1), true);
      // The first chunk only writes: there are no sums to add to.
      tiles_.values(b.column(first) + t * tiles_.rows, tiles_.rows, b.block_stride(), some.size, a_, last - first,
                    panel, 0, vectors, t == 0 ? nullptr : ones_, sums_);
    }
    store_panel(sums_, panel, last - first, TokenSet{k, n}, first, isa_, rows_, to);
  }

  static Index width(Isa isa) { return tile_kernels<T>(isa).lanes * tile_kernels<T>(isa).vectors; }

 private:
  static constexpr Index chunk = 128;

  const TileKernels<T>& tiles_;
  Isa isa_;
  Index width_;
  T *a_, *sums_, *rows_, *ones_;
};

/// to(k, c) = sum of a(j, k) b(j, c) over the tokens j: A^T B over some rows, which alone are read.
///
/// Shapes  a: n x d, b: n x columns in the scalar of sums, tokens of [0, n); to: d x columns, written, 0 without
///         tokens.
/// Cost    2 n_tokens d columns flops at the speed of the tile kernels; memory O(n_tokens columns) from the workspace.
/// Threads the same bits for any number: each entry is one sum in the order of the tokens.
template <class A, class T, class Out>
void multiply_transposed(const ConstView<A>& a, const ConstView<T>& b, const TokenSet& tokens, const View<Out>& to,
                         Workspace& workspace, int threads) {
  if (tokens.size == 0) return fill(to, Out(0));
  Workspace::Frame frame(workspace);
  const Isa isa = active_isa();
  PackedWeights<T> packed(b, tokens, isa);
  packed.pack(frame, threads);
  const Index width = TransposedPanel<T>::width(isa), columns = TransposedPanel<T>::columns(isa);
  const Index n_panels = (a.cols + width - 1) / width;
  for_each_task(
      n_panels * ((b.cols + columns - 1) / columns), threads, frame,
      [&](Scratch& scratch) { return TransposedPanel<T>(scratch, isa); },
      [&](TransposedPanel<T>& panel, Index task) {
        const Index k = task % n_panels * width, first = task / n_panels * columns;
        panel.multiply(a, tokens, k, std::min(width, a.cols - k), packed, first, std::min(b.cols, first + columns), to);
      });
}

}  // namespace heed::detail
