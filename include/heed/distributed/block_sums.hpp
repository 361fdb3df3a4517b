#pragma once
#include <cstddef>
#include <new>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/rank_outputs.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/engine/softmax_sums.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed::detail {

/// Rows first .. first + count - 1.
template <class S>
ConstView<S> rows_of(const ConstView<S>& m, Index first, Index count) {
  return {entry(m.data, first * m.row_stride), count, m.cols, m.row_stride, m.col_stride};
}

/// What brings the scores of each head to base-2 exponents.
template <class T, class ScoreMod>
auto factor_of_heads(const ExactAttention<ScoreMod>&, const AttentionOptions& options, const PackedHeads& packed) {
  return [options, d = packed.d](Index head) { return softmax_factor_of<T, ScoreMod>(options, d, head); };
}

/// Sums of all heads, without any key yet.
template <class T, class FactorOf>
std::span<SoftmaxSums<T>> take_sums(Workspace::Frame& frame, Index n_heads, Index n_q, Index d_v, Index n_chunks,
                                    const FactorOf& factor_of) {
  auto* sums = frame.take<SoftmaxSums<T>>(n_heads);
  const Index size = SoftmaxSums<T>::size(n_q, d_v) * n_chunks;
  T* numbers = frame.take<T>(n_heads * size);
  for (Index h = 0; h < n_heads; ++h) {
    new (sums + h) SoftmaxSums<T>{numbers + h * size, n_q, d_v, n_chunks, factor_of(h)};
    sums[h].clear();
  }
  return {sums, static_cast<std::size_t>(n_heads)};
}

/// Keys and values of one head.
template <class S>
struct KeyRows {
  ConstView<S> k, v;
  KeyRows rows(Index first, Index count) const { return {rows_of(k, first, count), rows_of(v, first, count)}; }
};

/// Keys and values whose rows hold all heads side by side.
template <class S>
struct PackedRows {
  using Scalar = S;
  ConstView<S> k, v;
  PackedHeads packed;
  Index n_keys() const { return k.rows; }
  KeyRows<S> of_head(Index h) const {
    return {k.columns(h * packed.d, packed.d), v.columns(h * packed.d_v, packed.d_v)};
  }
};

/// Some heads of a call: key heads first .. first + count - 1, and the query heads that use them.
struct HeadRange {
  Index first = 0, count = 0;
};

/// Leaves in `sums`, cleared, one for each query head of `some`, the unfinished softmax of the queries q, packed rows
/// of all heads, over the keys and values `rows` of a block. `rows` begin at position `first_key` of the whole call.
/// The context brings a workspace.
template <class SQ, class Rows, class Method, class T>
void sum_block(const ConstView<SQ>& q, const Rows& rows, Index first_key, const PackedHeads& packed,
               const CallBlock& block, std::span<SoftmaxSums<T>> sums, const HeadRange& some, const Method& method,
               const Context& context) {
  using Call = HeadCall<SQ, typename Rows::Scalar, SQ>;
  Workspace::Frame frame(*context.workspace);
  const Index first = some.first * packed.per_kv(), n_calls = some.count * packed.per_kv();
  Call* calls = frame.take<Call>(n_calls);
  for (Index c = 0; c < n_calls; ++c) {
    const Index h = first + c;
    const auto own = rows.of_head(h / packed.per_kv()).rows(block.keys.first - first_key, block.keys.size);
    Call* call = new (calls + c) Call{q.columns(h * packed.d, packed.d), own.k, own.v, {nullptr, q.rows, packed.d_v}};
    call->head = h;
    call->sums = &sums[static_cast<std::size_t>(c)];
  }
  attend_all_heads(method_of_block(method, block), std::span<const Call>(calls, static_cast<std::size_t>(n_calls)),
                   packed.per_kv(), block.options, context);
}

/// Adds to `sums`, one for each head of all, of which these queries stand from row `first` on, what the heads `some`
/// find in a block.
template <class SQ, class Rows, class Method, class T>
void add_block(const ConstView<SQ>& q, const Rows& rows, Index first_key, const PackedHeads& packed,
               const CallBlock& block, std::span<SoftmaxSums<T>> sums, Index first, const HeadRange& some,
               const Method& method, const Context& context) {
  Workspace::Frame frame(*context.workspace);
  const Index n_chunks = chunks_of_call<T>(q.rows, block.keys.size, active_isa());
  const std::span<SoftmaxSums<T>> to = sums.subspan(static_cast<std::size_t>(some.first * packed.per_kv()),
                                                    static_cast<std::size_t>(some.count * packed.per_kv()));
  const auto factor_of = [&](Index h) { return to[static_cast<std::size_t>(h)].factor; };
  const auto own = take_sums<T>(frame, static_cast<Index>(to.size()), q.rows, packed.d_v, n_chunks, factor_of);
  sum_block(q, rows, first_key, packed, block, own, some, method, context);
  for (std::size_t h = 0; h < own.size(); ++h) {
    own[h].merge_chunks();
    to[h].merge_rows(own[h], first);
  }
}

/// Writes out and lse of all heads from their sums. Rows behind the queries of these are padding. Throws nothing: once
/// a rank writes, all will.
template <class SQ, class To, class T>
void write_sums(std::span<const SoftmaxSums<T>> sums, const ConstView<SQ>& q, const RankOutputs<To, T>& to,
                const PackedHeads& packed, const PerHead& sinks, const SoftmaxState<T>& room) {
  using Call = HeadCall<SQ, SQ, To>;
  for (Index h = 0; h < packed.n_heads; ++h) {
    const Call call{q.columns(h * packed.d, packed.d),
                    {},
                    {},
                    to.out.columns(h * packed.d_v, packed.d_v),
                    entry(to.lse.data, h * to.lse.col_stride),
                    to.lse.row_stride,
                    h};
    const SoftmaxSums<T>& own = sums[static_cast<std::size_t>(h)];
    finish_sums(call, own, sinks, active_isa(), room);
    clear_rows(call, own.n_q);
  }
}

}  // namespace heed::detail
