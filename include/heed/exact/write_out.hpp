#pragma once
#include <algorithm>
#include <cstddef>
#include <cstring>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/head_call.hpp"
#include "heed/exact/softmax_state.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Ends the softmax of `queries`: adds the sink, divides by the denominator, and writes out rows and lse of `call`.
template <class T, class Call>
void write_out(const Call& call, const TokenSet& queries, const SoftmaxState<T>& state, const PerHead& sinks, Isa isa) {
  for (Index i = 0; sinks.given() && i < queries.size; ++i) state.add_sink(i, sinks.of(call.head));
  if (call.lse != nullptr) {
    for (Index i = 0; i < queries.size; ++i)
      call.lse[queries[i] * call.lse_stride] = static_cast<typename Call::Sum>(state.lse(i));
  }
  const View<typename Call::Out>& out = call.out;
  if (state.width == 1) {
    const bool empty = is_zero(state.l[0]);
    const T inverse = empty ? T(0) : T(1) / state.l[0];
    for (Index c = 0; c < state.d_v; ++c)
      out(queries[0], c) = static_cast<typename Call::Out>(empty ? T(0) : state.out[c] * inverse);
    return;
  }
  tile_kernels<T>(isa).normalise(state.d_v, state.width, state.l, state.out);
  if constexpr (std::is_same_v<typename Call::Out, T>) {
    if (queries.list == nullptr && (out.col_stride == 1 || out.row_stride == 1)) {
      T* to = out.data + queries.first * out.row_stride;
      const StorageKernels<T, T>& same = storage_kernels<T, T>(isa);
      if (out.col_stride == 1) {
        same.transpose(state.out, state.width, 1, nullptr, state.d_v, nullptr, queries.size, to, out.row_stride, T(1),
                       false);
      } else {
        same.gather(state.out, state.width, 1, nullptr, state.d_v, queries.size, to, out.col_stride);
      }
      return;
    }
  }
  if constexpr (std::is_same_v<typename Call::Out, Eigen::bfloat16> && std::is_same_v<T, float>) {
    if (const TwinKernels* twins = twin_kernels(isa); twins != nullptr) {
      auto* to = reinterpret_cast<Bfloat*>(out.data) + (queries.list == nullptr ? queries.first * out.row_stride : 0);
      twins->store(state.out, state.width, queries.size, state.d_v, to, out.row_stride, out.col_stride, queries.list);
      return;
    }
  }
  // A few rows at a time are turned by the kernel, then go where their queries stand.
  constexpr Index tile_rows = 16, tile_columns = 64;
  T tile[tile_rows * tile_columns];
  for (Index first = 0; first < queries.size; first += tile_rows) {
    const Index n = std::min(tile_rows, queries.size - first);
    for (Index c0 = 0; c0 < state.d_v; c0 += tile_columns) {
      const Index columns = std::min(tile_columns, state.d_v - c0);
      storage_kernels<T, T>(isa).transpose(state.out + c0 * state.width + first, state.width, 1, nullptr, columns,
                                           nullptr, n, tile, tile_columns, T(1), false);
      for (Index i = 0; i < n; ++i) {
        const T* row = tile + i * tile_columns;
        typename Call::Out* to = &out(queries[first + i], c0);
        if (std::is_same_v<typename Call::Out, T> && out.col_stride == 1) {
          std::memcpy(static_cast<void*>(to), row, static_cast<std::size_t>(columns) * sizeof(T));
        } else {
          for (Index c = 0; c < columns; ++c) to[c * out.col_stride] = static_cast<typename Call::Out>(row[c]);
        }
      }
    }
  }
}

}  // namespace heed::detail
