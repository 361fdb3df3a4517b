#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Adds factor times row t of `rows` to the row of token t.
template <class T>
void add_rows_to(const View<T>& to, const TokenSet& tokens, const T* rows, Index stride, T factor,
                 const GradientKernels<T>& kernels) {
  T* first = to.data + (tokens.list == nullptr ? tokens.first * to.row_stride : 0);
  kernels.add_rows(rows, stride, tokens.size, to.cols, factor, first, to.row_stride, to.col_stride, tokens.list);
}

/// Sums of the gradients of one tile's keys and values while panels of queries visit it, rows padded to whole vectors.
template <class T>
struct GradientSums {
  GradientSums(Scratch& scratch, Index n_keys, Index d, Index d_v, Isa isa) : kernels(gradient_kernels<T>(isa)) {
    const Index lanes = tile_kernels<T>(isa).lanes;
    k_width = (d + lanes - 1) / lanes * lanes;
    v_width = (d_v + lanes - 1) / lanes * lanes;
    d_k = scratch.take<T>(n_keys * k_width);
    d_v_rows = scratch.take<T>(n_keys * v_width);
  }

  void begin(const TokenSet& some) {
    keys = some;
    std::fill_n(d_k, some.size * k_width, T(0));
    std::fill_n(d_v_rows, some.size * v_width, T(0));
  }

  /// Adds the sums to the rows of their keys.
  template <class Call>
  void add_to(const Call& call, T scale) const {
    add_rows_to(call.d_k, keys, d_k, k_width, scale, kernels);
    add_rows_to(call.d_v, keys, d_v_rows, v_width, T(1), kernels);
  }

  const GradientKernels<T>& kernels;
  TokenSet keys;
  Index k_width = 0, v_width = 0;
  T *d_k, *d_v_rows;  // keys x k_width, keys x v_width
};

}  // namespace heed::detail
