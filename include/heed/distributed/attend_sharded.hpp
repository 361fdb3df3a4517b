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
#include "heed/distributed/rank_outputs.hpp"
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

/// Runs agreed heads over sharded keys, into outputs of their size. `message` has room for them. The context brings a
/// workspace.
template <class S, class Shard, class To, class Method>
void attend_shards(const Ranks& ranks, const ConstView<S>& q, const Shard& shard, const ShardedKeys& keys,
                   SumsMessage<Accumulator<S>>& message, const RankOutputs<To, Accumulator<S>>& to,
                   const PackedHeads& packed, const AttentionOptions& options, const Method& method,
                   const Context& context) {
  using T = Accumulator<S>;
  const RealTokens real = real_tokens_of(options, q.rows, keys.n_k, packed.n_heads);
  const ConstView<S> queries = rows_of(q, 0, real.n_q);
  const auto factor_of = shard.template factor_of<T>(method, real.options, packed);
  message.begin(packed.n_heads, real.n_q, packed.d_v, factor_of);
  Workspace::Frame frame(*context.workspace);
  std::span<SoftmaxSums<T>> sums;
  SoftmaxState<T> room;
  Failure failure;
  failure.guard([&] {
    room = take_finishing_room<T>(frame, packed.d_v, active_isa());
    // Without packed sequences the shard is one block, whose chunks of keys are merged between those of other ranks.
    const bool whole = real.options.mask.sequence_offsets.empty();
    const Index n_chunks = whole ? chunks_of_call<T>(real.n_q, keys.own.size, active_isa()) : 1;
    sums = take_sums<T>(frame, packed.n_heads, real.n_q, packed.d_v, n_chunks, factor_of);
    if (real.n_q == 0) return;
    for_each_block(real.options, {0, real.n_q}, keys.own, real.n_q, keys.n_k, packed.n_heads, whole,
                   [&](const CallBlock& block) {
                     if (whole) return shard.sum(queries, keys, packed, block, sums, method, context);
                     if constexpr (Shard::has_rows) {
                       shard.add(rows_of(queries, block.queries.first, block.queries.size), keys, packed, block, sums,
                                 method, context);
                     }
                   });
  });
  message.merge_over(ranks, sums, failure);
  write_sums(message.sums(), q, to, packed, options.sinks, room);
}

/// attend_sharded, or the call that the shard names, over a shard of any kind. heads_of(): its heads, or what is wrong
/// with the arguments; outputs_of(packed): where to write, or what is wrong with that.
template <class Q, class Shard, class HeadsOf, class OutputsOf, class Method>
void attend_any_shard(const Ranks& ranks, const Q& q, const Shard& shard, Index n_own, const HeadsOf& heads_of,
                      const OutputsOf& outputs_of, const AttentionOptions& options, const Method& method,
                      const Context& context) {
  require_exact<Method>();
  require_token_matrix<Q>();
  using S = OperandScalar<Q>;
  static_assert(RealScalar<S>,
                "heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 matrices; cast others first");
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  Agreement agreement(ranks, Shard::call, frame);
  PackedHeads packed;
  decltype(outputs_of(packed)) to;
  SumsMessage<Accumulator<S>> message;
  Index isa = 0;
  agreement.check([&] {
    check_running(context);
    isa = static_cast<Index>(active_isa());
    packed = heads_of();
    check_sizes({q.rows(), n_own, packed.d, packed.d_v, packed.n_heads});
    to = outputs_of(packed);
    message.reserve(frame, packed.n_heads, q.rows(), packed.d_v);
  });
  agreement.same_isa(isa);
  if constexpr (requires { shard.agree(agreement); }) shard.agree(agreement);
  agreement.same_flag("a score functor", !std::is_same_v<Method, ExactAttention<>>);
  const ShardedKeys keys = agree_on_shards<S, typename Shard::Scalar>(agreement, ranks, view_of(q), n_own, packed,
                                                                      options, !Shard::has_rows);
  attend_shards(ranks, view_of(q), shard, keys, message, to, packed, options, method, inner.context());
}

/// attend_sharded over a cache.
template <class Q, class Cache, class OutputsOf, class Method>
void attend_cached_shard(MPI_Comm comm, const Q& q, const Cache& cache, const OutputsOf& outputs_of,
                         const AttentionOptions& options, const Method& method, const Context& context) {
  attend_any_shard(
      Ranks(comm), q, shard_of(cache), cache.size(), [&] { return heads_over(q.cols(), cache); }, outputs_of, options,
      method, context);
}

/// attend_sharded over packed rows of all heads.
template <class Q, class K, class V, class OutputsOf, class Method>
void attend_packed_shard(MPI_Comm comm, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                         const OutputsOf& outputs_of, const AttentionOptions& options, const Method& method,
                         const Context& context) {
  require_call_operands<Q, K, V>();
  using S = OperandScalar<Q>;
  RowsShard<PackedRows<S>> shard{{view_of(k), view_of(v), {}}};
  attend_any_shard(
      Ranks(comm), q, shard, k.rows(), [&] { return shard.rows.packed = heads_of_rows(q, k, v, heads, options); },
      outputs_of, options, method, context);
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
///         head stand in one panel (n_q <= lanes x vectors of the kernels: in float 48 with AVX-512, 16 with AVX2),
///         and neither Mask::keys nor sequence_offsets is given. Elsewhere they are the same on every rank and in every
///         run, and those of one process to the rounding of a sum over n_k keys. A cache of another kind than
///         KeyValueCache of float, double, half or bfloat16 is merged from its (out, lse), to the rounding of lse.
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
  MultiHeadResult<detail::OperandScalar<Q>> result;
  detail::attend_cached_shard(comm, q, cache, detail::outputs_of_result(result, q.rows()), options, method, context);
  return result;
}

/// The same without a method: exact attention.
template <class Q, ShardCache Cache>
auto attend_sharded(MPI_Comm comm, const Q& q, const Cache& cache, const AttentionOptions& options,
                    const Context& context) {
  return attend_sharded(comm, q, cache, options, ExactAttention<>{}, context);
}

/// `attend_sharded` into storage the caller owns; with a Workspace that an earlier call of the same shapes has grown
/// nothing is allocated.
///
/// Shapes  out: n_q x (n_heads * d_v), any writable TokenMatrix in the scalar of q (or float for half and bfloat16);
///         lse: n_q x n_heads, or nullptr or 0 x 0: not wanted. Each rank chooses for itself. Neither may overlap q.
/// Errors  as attend_sharded; a shape that is wrong on one rank alone is an error of all. Outputs of every rank are
///         untouched then; where a call of MPI fails on one rank, another may have written its own.
template <class Out, class Lse, class Q, ShardCache Cache, class Method = ExactAttention<>>
void attend_sharded_into(MPI_Comm comm, Out&& out, Lse&& lse, const Q& q, const Cache& cache,
                         const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {}) {
  using S = detail::OperandScalar<Q>;
  detail::attend_cached_shard(comm, q, cache,
                              detail::outputs_of_caller<S>(std::forward<Out>(out), std::forward<Lse>(lse), q.rows()),
                              options, method, context);
}

/// The same without a method: exact attention.
template <class Out, class Lse, class Q, ShardCache Cache>
void attend_sharded_into(MPI_Comm comm, Out&& out, Lse&& lse, const Q& q, const Cache& cache,
                         const AttentionOptions& options, const Context& context) {
  attend_sharded_into(comm, std::forward<Out>(out), std::forward<Lse>(lse), q, cache, options, ExactAttention<>{},
                      context);
}

/// The same over packed rows of all heads: k: n_own x (n_kv_heads * d), v: n_own x (n_kv_heads * d_v) of each rank.
template <class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
auto multi_head_attend_sharded(MPI_Comm comm, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                               const AttentionOptions& options = {}, const Method& method = {},
                               const Context& context = {}) -> MultiHeadResult<detail::OperandScalar<Q>> {
  MultiHeadResult<detail::OperandScalar<Q>> result;
  detail::attend_packed_shard(comm, q, k, v, heads, detail::outputs_of_result(result, q.rows()), options, method,
                              context);
  return result;
}

/// `multi_head_attend_sharded` into storage the caller owns, as attend_sharded_into.
template <class Out, class Lse, class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
void multi_head_attend_sharded_into(MPI_Comm comm, Out&& out, Lse&& lse, const Q& q, const K& k, const V& v,
                                    const HeadOptions& heads, const AttentionOptions& options = {},
                                    const Method& method = {}, const Context& context = {}) {
  using S = detail::OperandScalar<Q>;
  detail::attend_packed_shard(comm, q, k, v, heads,
                              detail::outputs_of_caller<S>(std::forward<Out>(out), std::forward<Lse>(lse), q.rows()),
                              options, method, context);
}

/// The same for one head; lse: n_q.
template <class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
auto attend_sharded(MPI_Comm comm, const Q& q, const K& k, const V& v, const AttentionOptions& options = {},
                    const Method& method = {}, const Context& context = {})
    -> AttentionResult<detail::OperandScalar<Q>> {
  AttentionResult<detail::OperandScalar<Q>> result;
  detail::attend_packed_shard(comm, q, k, v, {}, detail::outputs_of_result(result, q.rows()), options, method, context);
  return result;
}

/// The same for one head into storage the caller owns; lse: n_q entries, or nullptr or empty: not wanted.
template <class Out, class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
void attend_sharded_into(MPI_Comm comm, Out&& out, LseSpan<Accumulator<detail::OperandScalar<Q>>> lse, const Q& q,
                         const K& k, const V& v, const AttentionOptions& options = {}, const Method& method = {},
                         const Context& context = {}) {
  using S = detail::OperandScalar<Q>;
  detail::attend_packed_shard(comm, q, k, v, {},
                              detail::outputs_of_caller_head<S>(std::forward<Out>(out), lse, q.rows()), options, method,
                              context);
}

}  // namespace heed
