#pragma once
#include <algorithm>
#include <type_traits>

#include "heed/core/pair_view.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Weights d_in x columns as the value kernel reads them: blocks of a few columns, each one run of memory. Made once
/// a call.
template <class S>
class PackedWeights {
 public:
  using T = Accumulator<S>;

  PackedWeights(const ConstView<S>& w, Isa isa) : PackedWeights(w, TokenSet{0, w.rows}, isa) {}
  /// Of `tokens`, some rows of w, alone.
  PackedWeights(const ConstView<S>& w, const TokenSet& tokens, Isa isa)
      : w_(w), tokens_(tokens), isa_(isa), rows_(tile_kernels<T>(isa).rows) {}

  Index n_blocks() const { return (w_.cols + rows_ - 1) / rows_; }
  /// One vector more than a block holds: blocks a power of two apart would fall on the same cache lines.
  Index block_stride() const { return tokens_.size * rows_ + 16; }
  /// The packed column `c`, which must be the first of a block.
  const T* column(Index c) const { return packed_ + c / rows_ * block_stride(); }

  void pack(Workspace::Frame& frame, int threads) {
    packed_ = frame.take<T>(n_blocks() * block_stride());
    const Index n = tokens_.size;
    for_each_task((n + chunk - 1) / chunk, threads, frame,
                  [&](Scratch& scratch) { return scratch.take<T>(w_.cols * chunk + 16); },
                  [&](T* rows, Index task) { pack_rows(task * chunk, std::min(n, (task + 1) * chunk), rows); });
  }

 private:
  static constexpr Index chunk = 32;

  void pack_rows(Index from, Index to, T* rows) {
    const Index* list = tokens_.list == nullptr ? nullptr : tokens_.list + from;
    const auto* data = kernel_pointer(w_.data) + (list == nullptr ? (tokens_.first + from) * w_.row_stride : 0);
    const auto& stored = storage_kernels<T, KernelScalar<S>>(isa_);
    if (w_.col_stride == 1) {
      stored.pack_values(data, w_.row_stride, list, to - from, w_.cols, rows, packed_ + from * rows_, block_stride());
      return;
    }
    stored.gather(data, w_.row_stride, w_.col_stride, list, to - from, w_.cols, rows, w_.cols);
    storage_kernels<T, T>(isa_).pack_values(rows, w_.cols, nullptr, to - from, w_.cols, nullptr, packed_ + from * rows_,
                                            block_stride());
  }

  ConstView<S> w_;
  TokenSet tokens_;
  Isa isa_;
  Index rows_;
  T* packed_ = nullptr;
};

/// Writes sums[r * panel + t], r < n, to out(tokens[t], column + r). `rows` has room for tokens.size * n entries.
template <class T, class Out>
void store_panel(const T* sums, Index panel, Index n, const TokenSet& tokens, Index column, Isa isa, T* rows,
                 const View<Out>& out) {
  const StorageKernels<T, T>& same = storage_kernels<T, T>(isa);
  if constexpr (std::is_same_v<Out, T>) {
    if (tokens.list == nullptr && out.col_stride == 1) {
      same.transpose(sums, panel, 1, nullptr, n, nullptr, tokens.size,
                     out.data + tokens.first * out.row_stride + column, out.row_stride, T(1), false);
      return;
    }
  }
  same.transpose(sums, panel, 1, nullptr, n, nullptr, tokens.size, rows, n, T(1), false);
  for (Index t = 0; t < tokens.size; ++t) {
    if constexpr (std::is_same_v<Out, T>) {
      if (out.col_stride == 1) {
        std::copy(rows + t * n, rows + (t + 1) * n, &out(tokens[t], column));
        continue;
      }
    }
    for (Index r = 0; r < n; ++r) out(tokens[t], column + r) = static_cast<Out>(rows[t * n + r]);
  }
}

/// Multiplies panels of tokens by packed weights: out(j, c) = sum_k x(j, k) w(k, c) + bias[c], vector lanes along
/// tokens. One object per thread; holds the packed tokens of one panel.
template <class S>
class DensePanel {
 public:
  using T = Accumulator<S>;

  DensePanel(Scratch& scratch, Index d_in, Isa isa)
      : tiles_(tile_kernels<T>(isa)), isa_(isa), d_in_(d_in), width_(tiles_.lanes * tiles_.vectors) {
    x_ = scratch.take<T>(width_ * d_in);
    out_ = scratch.take<T>(width_ * columns());
    rows_ = scratch.take<T>(width_ * columns());
    ones_ = scratch.take<T>(width_);
  }

  /// Tokens of a panel.
  static Index width(Isa isa) { return tile_kernels<T>(isa).lanes * tile_kernels<T>(isa).vectors; }

  /// Takes up to `width` tokens of x, rows of any storage scalar.
  template <class Row>
  void begin(const ConstView<Row>& x, const TokenSet& tokens) {
    tokens_ = tokens;
    vectors_ = (tokens.size + tiles_.lanes - 1) / tiles_.lanes;
    panel_ = vectors_ * tiles_.lanes;
    const auto* from = kernel_pointer(x.data) + (tokens.list == nullptr ? tokens.first * x.row_stride : 0);
    storage_kernels<T, KernelScalar<Row>>(isa_).transpose(from, x.row_stride, x.col_stride, tokens.list, tokens.size,
                                                          nullptr, d_in_, x_, panel_, T(1), true);
    std::fill(ones_, ones_ + panel_, T(1));
  }

  /// Writes columns [first, last) of the tokens' rows to `out` (which has column `first` at 0); `first` begins a block.
  template <class Out>
  void multiply(const PackedWeights<S>& weights, Index first, Index last, const T* bias, const View<Out>& out) {
    for (Index c = first; c < last; c += columns()) {
      const Index n = std::min(columns(), last - c);
      for (Index r = 0; r < n; ++r) std::fill(out_ + r * panel_, out_ + (r + 1) * panel_, bias ? bias[c + r] : T(0));
      tiles_.values(weights.column(c), tiles_.rows, weights.block_stride(), d_in_, x_, n, panel_, 0, vectors_, ones_,
                    out_);
      store_panel(out_, panel_, n, tokens_, c - first, isa_, rows_, out);
    }
  }

 private:
  // Columns multiplied before they are written: their sums stay in the nearest cache.
  Index columns() const { return 8 * tiles_.rows; }

  const TileKernels<T>& tiles_;
  Isa isa_;
  Index d_in_, width_;
  T *x_, *out_, *rows_, *ones_;
  TokenSet tokens_;
  Index vectors_ = 0, panel_ = 0;
};

/// The bias as the accumulator reads it, null without one.
template <class T>
T* take_bias(Workspace::Frame& frame, const PairView& bias, Index columns) {
  if (!bias.given()) return nullptr;
  T* values = frame.take<T>(columns);
  for (Index c = 0; c < columns; ++c) values[c] = static_cast<T>(bias.rows() == 1 ? bias.at(0, c) : bias.at(c, 0));
  return values;
}

/// out(j, :) = x(j, :) w + bias for the tokens j of x: 2 n_tokens d_in cols(w) flops at the speed of the tile kernels,
/// whatever the user's flags. x has storage Row, all else S or its accumulator.
template <class S, class Row, class Out>
void project_tokens(const ConstView<Row>& x, const TokenSet& tokens, const PackedWeights<S>& weights, Index first,
                    Index last, const Accumulator<S>* bias, const View<Out>& out, Workspace& workspace, int threads) {
  Workspace::Frame frame(workspace);
  const Isa isa = active_isa();
  const Index width = DensePanel<S>::width(isa);
  for_each_task((tokens.size + width - 1) / width, threads, frame,
                [&](Scratch& scratch) { return DensePanel<S>(scratch, x.cols, isa); },
                [&](DensePanel<S>& panel, Index task) {
                  panel.begin(x, tokens.part(task * width, std::min(width, tokens.size - task * width)));
                  panel.multiply(weights, first, last, bias, out);
                });
}

/// The same for every row of x.
template <class S, class Row, class Out>
void project_rows(const ConstView<Row>& x, const PackedWeights<S>& weights, Index first, Index last,
                  const Accumulator<S>* bias, const View<Out>& out, Workspace& workspace, int threads) {
  project_tokens<S>(x, TokenSet{0, x.rows}, weights, first, last, bias, out, workspace, threads);
}

}  // namespace heed::detail
