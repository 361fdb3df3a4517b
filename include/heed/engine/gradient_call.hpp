#pragma once
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/head_call.hpp"

namespace heed::detail {

/// The operands of one query head in a backward pass. SQ: storage of queries and of d_out; SK: of keys and values. Sums
/// are kept in the accumulator: gradients are added to views of it, which heads that share keys share.
template <class SQ, class SK>
struct GradientCall : HeadCall<SQ, SK, Accumulator<SQ>> {
  using T = Accumulator<SQ>;

  ConstView<SQ> d_out{};
  const T* known_lse = nullptr;  ///< n_q, what the forward pass wrote
  Index known_lse_stride = 1;
  const T* mean = nullptr;  ///< n_q: d_out_i . out_i, less d_lse_i
  View<T> d_q{}, d_k{}, d_v{};
  View<T> d_bias{};  ///< n_q x n_k, a row stride of 0 where queries share a row; no data: not wanted
};

}  // namespace heed::detail
