#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include <mpi.h>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/agreement.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/block_sums.hpp"
#include "heed/distributed/failure.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/distributed/shards.hpp"
#include "heed/distributed/sums_message.hpp"
#include "heed/engine/softmax_sums.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

namespace detail {

/// Runs agreed heads over sharded keys, into outputs of their size. `message` has room for them.
template <class S, class Shard, class Method>
void attend_shards(const Ranks& ranks, const ConstView<S>& q, const Shard& shard, const ShardedKeys& keys,
                   SumsMessage<Accumulator<S>>& message, const View<S>& out, const View<Accumulator<S>>& lse,
                   const PackedHeads& packed, const AttentionOptions& options, const Method& method,
                   const Context& given) {
  using T = Accumulator<S>;
  const RealTokens real = real_tokens_of(options, q.rows, keys.n_k, packed.n_heads);
  const ConstView<S> queries = rows_of(q, 0, real.n_q);
  const auto factor_of = shard.template factor_of<T>(method, real.options, packed);
  message.begin(packed.n_heads, real.n_q, packed.d_v, factor_of);
  const WithWorkspace inner(given);
  Workspace::Frame frame(inner.workspace());
  std::span<SoftmaxSums<T>> sums;
  Failure failure;
  failure.guard([&] {
    // Without packed sequences the shard is one block, whose chunks of keys are merged between those of other ranks.
    const bool whole = real.options.mask.sequence_offsets.empty();
    const Index n_chunks = whole ? chunks_of_call<T>(real.n_q, keys.own.size, active_isa()) : 1;
    sums = take_sums<T>(frame, packed.n_heads, real.n_q, packed.d_v, n_chunks, factor_of);
    if (real.n_q == 0) return;
    for_each_block(real.options, {0, real.n_q}, keys.own, real.n_q, keys.n_k, packed.n_heads, whole,
                   [&](const CallBlock& block) {
                     if (whole) return shard.sum(queries, keys, packed, block, sums, method, inner.context());
                     if constexpr (Shard::has_rows) {
                       shard.add(rows_of(queries, block.queries.first, block.queries.size), keys, packed, block, sums,
                                 method, inner.context());
                     }
                   });
  });
  message.merge_over(ranks, sums, failure);
  failure.guard([&] { write_sums(message.sums(), q, out, lse, packed, options.sinks, inner.context()); });
  failure.settle(ranks);  // writing takes memory too
}

/// attend_sharded over a shard of any kind; heads_of(): its heads, or what is wrong with the arguments.
template <class Result, class Q, class Shard, class HeadsOf, class Method>
Result attend_any_shard(MPI_Comm comm, const Q& q, const Shard& shard, Index n_own, const HeadsOf& heads_of,
                        const AttentionOptions& options, const Method& method, const Context& context) {
  require_exact<Method>();
  require_token_matrix<Q>();
  using S = OperandScalar<Q>;
  static_assert(RealScalar<S>,
                "heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 matrices; cast others first");
  const Ranks ranks(comm);
  Agreement agreement(ranks, "attend_sharded");
  PackedHeads packed;
  Result result;
  SumsMessage<Accumulator<S>> message;
  Index isa = 0;
  agreement.check([&] {
    check_running(context);
    isa = static_cast<Index>(active_isa());
    packed = heads_of();
    check_sizes({q.rows(), n_own, packed.d, packed.d_v, packed.n_heads});
    result.out.resize(q.rows(), packed.n_heads * packed.d_v);
    result.lse.resize(q.rows(), packed.n_heads);
    message.reserve(packed.n_heads, q.rows(), packed.d_v);
  });
  agreement.same_isa(isa);
  agreement.same_flag("a score functor", !std::is_same_v<Method, ExactAttention<>>);
  const ShardedKeys keys = agree_on_shards<S, typename Shard::Scalar>(agreement, ranks, view_of(q), n_own, packed,
                                                                      options, !Shard::has_rows);
  attend_shards(ranks, view_of(q), shard, keys, message, output_view_of(result.out), output_view_of(result.lse), packed,
                options, method, context);
  return result;
}

}  // namespace detail

/// Attention of queries that every rank of `comm` gives over keys and values that lie in shards, a cache a rank, those
/// of rank 0 first; every rank gets the answer:
///   out_i = sum_r l_ri 2^(m_ri - m_i) out_ri / sum_r l_ri 2^(m_ri - m_i), r over ranks and over the chunks of each,
/// m, l, out being the largest score, the sum of weights and the weighted sum of values of a chunk of keys. All ranks
/// call it together, from one thread each; MPI_THREAD_SINGLE is enough.
///
/// Shapes  q: n_q x (n_heads * d), the same numbers on every rank; a rank holds at least one key, and every rank but
///         the last whole blocks of sharded_key_block = 4096 keys. Returns out: n_q x (n_heads * d_v) in the scalar of
///         q, lse: n_q x n_heads. n_k in the options is the sum over ranks, and positions of masks are those of all
///         keys; `keys`, `allowed` and `bias` have columns for all, of which a rank reads those of its own.
/// Bits    those of `attend` over one cache with all keys, for any number of ranks, where n_q = 1 or all queries of a
///         head stand in one panel (n_q <= lanes x vectors of the kernels: 48 with AVX-512 in float), and neither
///         Mask::keys nor sequence_offsets is given. Elsewhere they are the same on every rank and in every run, and
///         those of one process to the rounding of a sum over n_k keys. A cache of another kind than KeyValueCache of
///         float, double, half or bfloat16 is merged from its (out, lse), to the rounding of lse.
/// Errors  ShapeError and OptionError as `attend`, and where ranks differ in shapes, scalars, options or queries, split
///         keys otherwise, or have none: on every rank the same, before the first transfer. DistributedError where a
///         call of MPI fails, or a rank has run out of memory.
/// Cost    that of the rank with the most keys; one gather of 512 bytes a rank; (d_v + 2) numbers a query and head from
///         rank to rank, P - 1 steps, and once more to all: nothing that grows with n_k travels.
/// Threads over heads and chunks of keys of each rank: the same bits for any context.threads.
/// Source  Rabe and Staats 2021 (merging partial results); Dao et al. 2023, Flash-Decoding (keys split). We merge in
///         the order of keys, where MPI_Reduce would leave the order open.
template <class Q, ShardCache Cache, class Method = ExactAttention<>>
auto attend_sharded(MPI_Comm comm, const Q& q, const Cache& cache, const AttentionOptions& options = {},
                    const Method& method = {}, const Context& context = {})
    -> MultiHeadResult<detail::OperandScalar<Q>> {
  return detail::attend_any_shard<MultiHeadResult<detail::OperandScalar<Q>>>(
      comm, q, detail::shard_of(cache), cache.size(), [&] { return detail::heads_over(q.cols(), cache); }, options,
      method, context);
}

/// The same without a method: exact attention.
template <class Q, ShardCache Cache>
auto attend_sharded(MPI_Comm comm, const Q& q, const Cache& cache, const AttentionOptions& options,
                    const Context& context) {
  return attend_sharded(comm, q, cache, options, ExactAttention<>{}, context);
}

/// The same over packed rows of all heads: k: n_own x (n_kv_heads * d), v: n_own x (n_kv_heads * d_v) of each rank.
template <class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
auto multi_head_attend_sharded(MPI_Comm comm, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                               const AttentionOptions& options = {}, const Method& method = {},
                               const Context& context = {}) -> MultiHeadResult<detail::OperandScalar<Q>> {
  using S = detail::OperandScalar<Q>;
  detail::require_call_operands<Q, K, V>();
  detail::RowsShard<detail::PackedRows<S>> shard{{view_of(k), view_of(v), {}}};
  return detail::attend_any_shard<MultiHeadResult<S>>(
      comm, q, shard, k.rows(), [&] { return shard.rows.packed = detail::heads_of_rows(q, k, v, heads, options); },
      options, method, context);
}

/// The same for one head; lse: n_q.
template <class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
auto attend_sharded(MPI_Comm comm, const Q& q, const K& k, const V& v, const AttentionOptions& options = {},
                    const Method& method = {}, const Context& context = {})
    -> AttentionResult<detail::OperandScalar<Q>> {
  auto all = multi_head_attend_sharded(comm, q, k, v, {}, options, method, context);
  return {std::move(all.out), all.lse.col(0)};
}

}  // namespace heed
