#pragma once
#include <algorithm>
#include <cassert>

#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/score_rule.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/detail/tiling.hpp"
#include "heed/engine/detail/write_out.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Chunks of keys whose sums a call of n_q queries over n_k keys keeps apart until it merges them in order: many where
/// all queries stand in one panel, one where they do not.
template <class T>
Index chunks_of_call(Index n_q, Index n_k, Isa isa) {
  if (n_q == 1) return chunks_of(n_k, row_chunk_keys);
  const TileKernels<T>& kernels = tile_kernels<T>(isa);
  return n_q <= kernels.lanes * kernels.vectors ? chunks_of(n_k, panel_chunk_keys) : 1;
}

/// The unfinished softmax of one head: for each chunk of keys and each query i the sums of SoftmaxState, as numbers in
/// a row, n_chunks x (m: n_q, l: n_q, out: d_v x n_q). A call that is given them (HeadCall::sums) leaves its chunks
/// there unmerged, and no out, lse or sink; sums over disjoint keys, of other calls or machines, are merged in any
/// order that is fixed, and finished once. Merging the chunks of consecutive keys in their order is what a call over
/// all of these keys does, bit for bit.
/// Source: Milakov and Gimelshein 2018; Dao et al. 2023, Flash-Decoding (keys split, partial results merged).
template <class T>
struct SoftmaxSums {
  T* numbers = nullptr;
  Index n_q = 0, d_v = 0, n_chunks = 1;
  T factor = 1;  ///< brings scores to base-2 exponents: softmax_factor_of (detail/score_rule.hpp)

  /// Numbers of one chunk.
  static Index size(Index n_q, Index d_v) { return n_q * (d_v + 2); }

  SoftmaxState<T> chunk(Index c) const {
    SoftmaxState<T> state;
    state.width = n_q;
    state.d_v = d_v;
    state.factor = factor;
    state.m = numbers + c * size(n_q, d_v);
    state.l = state.m + n_q;
    state.out = state.l + n_q;
    return state;
  }
  /// Forgets all keys.
  void clear() const {
    for (Index c = 0; c < n_chunks; ++c) chunk(c).clear();
  }
  /// Writes the sums of `queries`, which stand in order in `from`.
  void store(Index c, const TokenSet& queries, const SoftmaxState<T>& from) const {
    assert(is_zero(factor - from.factor));
    const SoftmaxState<T> to = chunk(c);
    for (Index i = 0; i < queries.size; ++i) {
      to.m[queries[i]] = from.m[i];
      to.l[queries[i]] = from.l[i];
    }
    for (Index x = 0; x < d_v; ++x) {
      for (Index i = 0; i < queries.size; ++i) to.out[x * n_q + queries[i]] = from.out[x * from.width + i];
    }
  }
  /// Merges chunks 1, 2, ... into the first, in order.
  void merge_chunks() const {
    for (Index c = 1; c < n_chunks; ++c) chunk(0).merge(chunk(c));
  }
  /// Merges the chunks of `later` into the first, in order.
  void merge(const SoftmaxSums& later) const {
    for (Index c = 0; c < later.n_chunks; ++c) chunk(0).merge(later.chunk(c));
  }
  /// Merges the first chunk of `later`, whose queries are those from `first` on.
  void merge_rows(const SoftmaxSums& later, Index first) const { chunk(0).merge(later.chunk(0), first); }
};

/// Room for finish_sums, for heads of any number of queries.
template <class T>
SoftmaxState<T> take_finishing_room(Workspace::Frame& frame, Index d_v, Isa isa) {
  SoftmaxState<T> some;
  some.width = tile_kernels<T>(isa).lanes;
  some.d_v = d_v;
  some.m = frame.take<T>(some.width);
  some.l = frame.take<T>(some.width);
  some.out = frame.take<T>(some.width * d_v);
  return some;
}

/// Ends the softmax of one head, whose `sums` stand in the first chunk: adds the sink, and writes out and lse as the
/// call over all keys would have. Throws nothing.
template <class T, class Call>
void finish_sums(const Call& call, const SoftmaxSums<T>& sums, const PerHead& sinks, Isa isa, SoftmaxState<T> some) {
  const SoftmaxState<T> all = sums.chunk(0);
  if (sums.n_q == 1) return write_out(call, TokenSet{0, 1}, all, sinks, isa);
  const Index width = some.width;
  some.factor = sums.factor;
  for (Index first = 0; first < sums.n_q; first += width) {
    const Index n = std::min(width, sums.n_q - first);
    some.clear();
    std::copy_n(all.m + first, n, some.m);
    std::copy_n(all.l + first, n, some.l);
    for (Index c = 0; c < sums.d_v; ++c) std::copy_n(all.out + c * sums.n_q + first, n, some.out + c * width);
    write_out(call, TokenSet{first, n}, some, sinks, isa);
  }
}

}  // namespace heed::detail
