#pragma once
#include <algorithm>

#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Sums of the gradients of one tile's keys and values while panels of queries visit it, rows padded to whole vectors.
template <class T>
struct GradientSums {
  GradientSums(Scratch& scratch, Index n_keys, Index d, Index d_v, Index lanes) {
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
    for (Index j = 0; j < keys.size; ++j) {
      for (Index c = 0; c < call.k.cols; ++c) call.d_k(keys[j], c) += scale * d_k[j * k_width + c];
      for (Index c = 0; c < call.v.cols; ++c) call.d_v(keys[j], c) += d_v_rows[j * v_width + c];
    }
  }

  TokenSet keys;
  Index k_width = 0, v_width = 0;
  T *d_k, *d_v_rows;  // keys x k_width, keys x v_width
};

}  // namespace heed::detail
