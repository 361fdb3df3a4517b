#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Some tokens, transposed, to be multiplied by rows of tables that change from panel to panel:
/// to(r, i) = table_r . x_i, vector lanes along tokens. One object per thread.
template <class T>
class TokenPanel {
 public:
  TokenPanel(Scratch& scratch, Index d, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        isa_(isa),
        d_(d),
        x_(scratch.take<T>(d * full_width())),
        ignored_(scratch.take<T>(full_width())) {}

  /// Tokens of a full panel.
  Index full_width() const { return tiles_.lanes * tiles_.vectors; }
  /// Entries of a row of products: whole vectors; those beyond the tokens are 0.
  Index width() const { return vectors_ * tiles_.lanes; }

  /// Takes up to full_width() tokens.
  template <class S>
  void load(const ConstView<S>& x, const TokenSet& tokens) {
    vectors_ = (tokens.size + tiles_.lanes - 1) / tiles_.lanes;
    const auto* from = kernel_pointer(x.data) + (tokens.list == nullptr ? tokens.first * x.row_stride : 0);
    storage_kernels<T, KernelScalar<S>>(isa_).transpose(from, x.row_stride, x.col_stride, tokens.list, tokens.size,
                                                        nullptr, d_, x_, width(), T(1), true);
  }

  /// to: n_rows x width().
  void multiply(const T* table, Index stride, Index n_rows, T* to) const {
    if (n_rows == 0) return;
    std::fill_n(ignored_, width(), T(0));
    tiles_.scores(table, stride, n_rows, x_, d_, width(), 0, vectors_, to, ignored_, nullptr);
  }

 private:
  const TileKernels<T>& tiles_;
  Isa isa_;
  Index d_, vectors_ = 0;
  T *x_, *ignored_;
};

}  // namespace heed::detail
