#pragma once
#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Ends the softmax of `queries`: adds the sink, divides by the denominator, and writes out rows, lse and what else
/// `call` wants.
template <class T, class Call>
void write_out(const Call& call, const TokenSet& queries, const SoftmaxState<T>& state, const PerHead& sinks, Isa isa) {
  for (Index i = 0; sinks.given() && i < queries.size; ++i) state.add_sink(i, sinks.of(call.head));
  if (call.lse != nullptr) {
    for (Index i = 0; i < queries.size; ++i)
      call.lse[queries[i] * call.lse_stride] = static_cast<typename Call::Sum>(state.lse(i));
  }
  for (Index i = 0; call.split_lse != nullptr && i < queries.size; ++i) call.split_lse[queries[i]] = state.split_lse(i);
  const View<typename Call::Out>& out = call.out;
  if (state.width == 1) {
    const bool empty = is_zero(state.l[0]);
    const T inverse = empty ? T(0) : T(1) / state.l[0];
    for (Index c = 0; c < state.d_v; ++c)
      out(queries[0], c) = static_cast<typename Call::Out>(empty ? T(0) : state.out[c] * inverse);
    return;
  }
  using Stored = KernelScalar<typename Call::Out>;
  const StorageKernels<T, Stored>& kernels = storage_kernels<T, Stored>(isa);
  auto* to = reinterpret_cast<Stored*>(out.data) + (queries.list == nullptr ? queries.first * out.row_stride : 0);
  kernels.write_rows(state.out, state.width, state.l, queries.size, state.d_v, to, out.row_stride, out.col_stride,
                     queries.list);
}

}  // namespace heed::detail
