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
#include "heed/distributed/ring.hpp"
#include "heed/distributed/ring_layout.hpp"
#include "heed/distributed/shards.hpp"
#include "heed/distributed/transfers.hpp"
#include "heed/engine/softmax_sums.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

namespace detail {

/// What the operands of a ring have in common: the first steps of forward and backward.
template <class S>
struct RingCall {
  PackedHeads packed;
  RingLayout queries, keys;
  RealTokens real;

  RingPlan plan() const { return {queries, keys, real.options, real.n_q, packed.n_heads}; }
};

/// Refuses keys and values, so many numbers, whose gradients in double would be more than a message may be.
inline void check_message(Index numbers) {
  constexpr auto most = static_cast<Index>(Transfers::most_bytes() / sizeof(double));
  if (numbers > most) {
    throw ShapeError(
        message("rows(k) * (cols(k) + cols(v)) = ", numbers, " must be at most ", most, " on a rank: use more ranks"));
  }
}

/// Gradients beside those of rows that this rank wants of a backward pass over a ring: all ranks want the same.
struct RingWishes {
  bool d_sinks = false, d_bias = false;
};

/// Agrees on a call over a ring; `check(packed)` looks at what this rank brings, makes room, and says what it wants.
/// What it takes of the frame stays.
template <class S, class Q, class K, class V, class Check>
RingCall<S> agree_on_ring(const Ranks& ranks, const char* name, bool has_functor, const Q& q, const K& k, const V& v,
                          const HeadOptions& heads, const AttentionOptions& options, const Context& context,
                          Workspace::Frame& frame, const Check& check) {
  Agreement agreement(ranks, name, frame);
  PackedHeads packed;
  RingWishes wishes;
  Index isa = 0;
  agreement.check([&] {
    check_running(context);
    isa = static_cast<Index>(active_isa());
    packed = heads_of_rows(q, k, v, heads, options);
    check_sizes({q.rows(), k.rows(), packed.d, packed.d_v, packed.n_heads});
    check_message(k.rows() * (k.cols() + v.cols()));
    wishes = check(packed);
  });
  agreement.same_isa(isa);
  agreement.same_flag("a score functor", has_functor);
  agreement.same_scalar<S>("the scalar of q");
  agreement.same_size("rows(q)", q.rows());
  agreement.same_size("rows(k)", k.rows());
  agreement.same_option("HeadOptions::n_heads", packed.n_heads);
  agreement.same_option("HeadOptions::n_kv_heads", packed.n_kv_heads);
  agreement.same_size("d", packed.d);
  agreement.same_size("d_v", packed.d_v);
  agreement.same_flag("d_sinks", wishes.d_sinks);
  agreement.same_flag("d_bias (BackwardOptions::bias)", wishes.d_bias);
  agree_on(agreement, options);
  agreement.conclude();
  const RingLayout queries(q.rows(), ranks.rank(), ranks.size()), keys(k.rows(), ranks.rank(), ranks.size());
  check_options<Accumulator<S>>(options, {queries.n(), keys.n(), packed.d, packed.d_v, packed.n_heads});
  return {packed, queries, keys, real_tokens_of(options, queries.n(), keys.n(), packed.n_heads)};
}

/// Runs an agreed call over a ring into outputs of its size. The context brings a workspace.
template <class S, class To, class Method>
void ring_attend_heads(const Ranks& ranks, const RingCall<S>& call, RingKeys<S>& keys, const ConstView<S>& q,
                       const RankOutputs<To, Accumulator<S>>& to, const AttentionOptions& options, const Method& method,
                       const Context& context) {
  using T = Accumulator<S>;
  const PackedHeads& packed = call.packed;
  const RingPlan plan = call.plan();
  Workspace::Frame frame(*context.workspace);
  std::span<SoftmaxSums<T>> sums[ring_parts];
  SoftmaxState<T> room;
  Failure failure;
  failure.guard([&] {
    room = take_finishing_room<T>(frame, packed.d_v, active_isa());
    for (int part = 0; part < ring_parts; ++part) {
      sums[part] = take_sums<T>(frame, packed.n_heads, plan.queries(ranks.rank(), part).size, packed.d_v, 1,
                                factor_of_heads<T>(method, call.real.options, packed));
    }
  });
  Transfers transfers(ranks);
  for (Index t = 0; t < ranks.size(); ++t) {
    transfers.wait();
    if (t + 1 < ranks.size()) keys.begin(ranks, plan, t + 1, transfers);
    const Index owner = ranks.behind(-t);
    failure.guard([&] {
      for_each_ring_piece(
          plan, ranks.rank(), owner, packed, context,
          [&](int own, int part, const CallBlock& block, const HeadRange& some) {
            const Index row = block.queries.first - plan.queries(ranks.rank(), own).first;
            add_block(rows_of(q, plan.first_query_row(own) + row, block.queries.size), keys.rows(plan, t, part, packed),
                      plan.keys(owner, part).first, packed, block, sums[own], row, some, method, context);
          },
          [&] { transfers.poke(); });
    });
  }
  failure.settle(ranks);
  for (int part = 0; part < ring_parts; ++part) {
    const Index first = plan.first_query_row(part), n = part == 0 ? call.queries.n_early() : call.queries.n_late();
    write_sums(std::span<const SoftmaxSums<T>>(sums[part]), rows_of(q, first, n), to.rows_from(first, n), packed,
               options.sinks, room);
  }
}

/// multi_head_ring_attend; outputs_of(packed): where to write, or what is wrong with that.
template <class Q, class K, class V, class OutputsOf, class Method>
void ring_attend_to(MPI_Comm comm, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                    const OutputsOf& outputs_of, const AttentionOptions& options, const Method& method,
                    const Context& given) {
  require_exact<Method>();
  require_call_operands<Q, K, V>();
  using S = OperandScalar<Q>;
  const Ranks ranks(comm);
  const WithWorkspace inner(given);
  Workspace::Frame frame(inner.workspace());
  decltype(outputs_of(PackedHeads())) to;
  RingKeys<S> keys;
  const auto call = agree_on_ring<S>(ranks, "ring_attend", !std::is_same_v<Method, ExactAttention<>>, q, k, v, heads,
                                     options, given, frame, [&](const PackedHeads& packed) {
                                       to = outputs_of(packed);
                                       keys.reserve(frame, ranks, view_of(k), view_of(v));
                                       return RingWishes();
                                     });
  ring_attend_heads(ranks, call, keys, view_of(q), to, options, method, inner.context());
}

}  // namespace detail

/// `multi_head_attend` over tokens that lie on several ranks, in prefill or training: each rank holds rows of q, k and
/// v, and gets the rows of out of its queries. Keys and values travel round while the last ones are computed on.
///
/// Shapes  of a rank: q: n_q / P x (n_heads * d), k: n_k / P x (n_kv_heads * d), v: n_k / P x (n_kv_heads * d_v), the
///         rows those of RingLayout (ring_rows gives them), as many on every rank; returns out: n_q / P x (n_heads *
///         d_v), lse: n_q / P x n_heads of the same rows. n_q, n_k and positions in the options are those of all
///         tokens; masks of pairs have rows and columns for all, of which a rank reads the rows of its own queries.
/// Empty   as attend.
/// Bits    the same in every run on so many ranks; those of one process to the rounding of a sum over n_k keys.
/// Errors  ShapeError and OptionError as multi_head_attend, and where ranks differ in shapes (an uneven split), scalars
///         or options: on every rank the same, before the first transfer. DistributedError where a call of MPI fails,
///         or a rank has run out of memory.
/// Cost    2 (d + d_v) flops and one exponential per kept pair, under a causal mask the same on every rank. A rank
///         sends and receives (P - 1) / P of (d + d_v) n_kv_heads numbers a key, less what positions (causal masks,
///         windows, packed sequences) let nobody there see. Memory: beside the rank's own keys and values those
///         of two others, and sums as large as out.
/// Threads one thread of each rank calls; it alone calls MPI (MPI_THREAD_SINGLE is enough), between pieces of work.
///         The same bits for any context.threads.
/// Source  Liu et al. 2023 (ring attention); Brandon et al. 2023 (causal balance); Rabe and Staats 2021 (merging).
template <class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
auto multi_head_ring_attend(MPI_Comm comm, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                            const AttentionOptions& options = {}, const Method& method = {},
                            const Context& context = {}) -> MultiHeadResult<detail::OperandScalar<Q>> {
  MultiHeadResult<detail::OperandScalar<Q>> result;
  detail::ring_attend_to(comm, q, k, v, heads, detail::outputs_of_result(result, q.rows()), options, method, context);
  return result;
}

/// `multi_head_ring_attend` into storage the caller owns; with a Workspace that an earlier call of the same shapes has
/// grown nothing is allocated.
///
/// Shapes  out: n_q / P x (n_heads * d_v), any writable TokenMatrix in the scalar of q (or float for half and
///         bfloat16); lse: n_q / P x n_heads, or nullptr or 0 x 0: not wanted. Each rank chooses for itself. Neither
///         may overlap q, k or v.
/// Errors  as multi_head_ring_attend; a shape that is wrong on one rank alone is an error of all. Outputs of every rank
///         are untouched then; where a call of MPI fails on one rank, another may have written its own.
template <class Out, class Lse, class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
void multi_head_ring_attend_into(MPI_Comm comm, Out&& out, Lse&& lse, const Q& q, const K& k, const V& v,
                                 const HeadOptions& heads, const AttentionOptions& options = {},
                                 const Method& method = {}, const Context& context = {}) {
  using S = detail::OperandScalar<Q>;
  detail::ring_attend_to(comm, q, k, v, heads,
                         detail::outputs_of_caller<S>(std::forward<Out>(out), std::forward<Lse>(lse), q.rows()),
                         options, method, context);
}

/// The same for one head; lse: n_q / P.
template <class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
auto ring_attend(MPI_Comm comm, const Q& q, const K& k, const V& v, const AttentionOptions& options = {},
                 const Method& method = {}, const Context& context = {}) -> AttentionResult<detail::OperandScalar<Q>> {
  AttentionResult<detail::OperandScalar<Q>> result;
  detail::ring_attend_to(comm, q, k, v, {}, detail::outputs_of_result(result, q.rows()), options, method, context);
  return result;
}

/// The same for one head into storage the caller owns; lse: n_q / P entries, or nullptr or empty: not wanted.
template <class Out, class Q, TokenMatrix K, TokenMatrix V, class Method = ExactAttention<>>
void ring_attend_into(MPI_Comm comm, Out&& out, LseSpan<Accumulator<detail::OperandScalar<Q>>> lse, const Q& q,
                      const K& k, const V& v, const AttentionOptions& options = {}, const Method& method = {},
                      const Context& context = {}) {
  using S = detail::OperandScalar<Q>;
  detail::ring_attend_to(comm, q, k, v, {}, detail::outputs_of_caller_head<S>(std::forward<Out>(out), lse, q.rows()),
                         options, method, context);
}

}  // namespace heed
