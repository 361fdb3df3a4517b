#pragma once
#include <algorithm>
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>

#include <mpi.h>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/agreement.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/block_sums.hpp"
#include "heed/distributed/failure.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/distributed/ring.hpp"
#include "heed/distributed/ring_attend.hpp"
#include "heed/distributed/ring_gradients.hpp"
#include "heed/distributed/transfers.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/run_backward.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/backward_operands.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/run_method.hpp"

namespace heed {

namespace detail {

/// What one rank's backward pass over a ring works on.
template <class S, class Out>
struct RingBackward {
  using T = Accumulator<S>;
  using Call = GradientCall<S, S>;

  const RingCall<S>& call;
  RingPlan plan;
  Index rank;
  BackwardOperands<S, Out> in;  // rows of this rank
  const BackwardOptions& backward;
  View<T> d_q;  // sums
  T* means;     // n_heads x rows of this rank

  /// One head's queries `some`, which stand from row `row` on, without keys.
  Call head(Index h, Index row, Index n) const {
    const PackedHeads& packed = call.packed;
    Call one{};
    one.q = rows_of(in.q, row, n).columns(h * packed.d, packed.d);
    one.known_lse = entry(in.lse.data, row * in.lse.row_stride + h * in.lse.col_stride);
    one.known_lse_stride = in.lse.row_stride;
    one.head = h;
    one.d_out = rows_of(in.d_out, row, n).columns(h * packed.d_v, packed.d_v);
    one.v.cols = packed.d_v;
    one.d_q = d_q.rows_from(row, n).columns(h * packed.d, packed.d);
    one.mean = means + h * in.q.rows + row;
    return one;
  }

  /// means[i] of all heads: d_out_i . out_i - d_lse_i. Rows of padding get none.
  void find_means() const {
    for (int part = 0; part < ring_parts; ++part) {
      const Index row = plan.first_query_row(part), n = plan.queries(rank, part).size;
      for (Index h = 0; h < call.packed.n_heads && n > 0; ++h) {
        const Call one = head(h, row, n);
        const BiasView d_lse = backward.d_lse.given() ? backward.d_lse.of_rows(row, n) : BiasView();
        row_means(one, rows_of(in.out, row, n).columns(h * call.packed.d_v, call.packed.d_v), d_lse,
                  means + h * in.q.rows + row);
      }
    }
  }

  /// Adds what the pairs of a block and some heads give to d_q and to the sums of its keys and values.
  template <class Method>
  void add(const CallBlock& block, int own, const PackedRows<S>& rows, const GradientRows<T>& sums, Index first_key,
           const HeadRange& some, const Method& method, const Context& context) const {
    const PackedHeads& packed = call.packed;
    Workspace::Frame frame(*context.workspace);
    const Index first = some.first * packed.per_kv(), n_calls = some.count * packed.per_kv();
    const Index row = plan.first_query_row(own) + block.queries.first - plan.queries(rank, own).first;
    const Index key = block.keys.first - first_key;
    Call* calls = frame.take<Call>(n_calls);
    for (Index c = 0; c < n_calls; ++c) {
      const Index h = first + c, kv = h / packed.per_kv();
      Call* one = new (calls + c) Call(head(h, row, block.queries.size));
      const KeyRows<S> keys = rows.of_head(kv).rows(key, block.keys.size);
      one->k = keys.k;
      one->v = keys.v;
      one->d_k = sums.d_k.rows_from(key, block.keys.size).columns(kv * packed.d, packed.d);
      one->d_v = sums.d_v.rows_from(key, block.keys.size).columns(kv * packed.d_v, packed.d_v);
    }
    make_split_room(std::span<Call>(calls, static_cast<std::size_t>(n_calls)), frame);
    const std::span<const Call> all(calls, static_cast<std::size_t>(n_calls));
    const auto of_block = method_of_block(method, block);
    using Run = MethodRun<std::remove_cvref_t<decltype(of_block)>>;
    Run run(of_block, frame);
    run.prepare(all, packed.per_kv(), block.options, context);
    run.visit_pairs(all, packed.per_kv(),
                    [&](const Pairs& pairs, std::span<const Call> heads, Index share, const auto& mod) {
                      run_backward(pairs, heads, share, block.options, mod, context);
                    });
  }

  /// The gradients of sinks by the queries of this rank.
  template <class ScoreMod>
  void sinks(T* d_sinks) const {
    for (Index h = 0; h < call.packed.n_heads; ++h) {
      d_sinks[h] = 0;
      for (int part = 0; part < ring_parts; ++part) {
        Call one = head(h, plan.first_query_row(part), plan.queries(rank, part).size);
        one.k.cols = call.packed.d;
        d_sinks[h] += gradient_of_sink<ScoreMod>(one, call.real.options);
      }
    }
  }
};

/// Runs an agreed backward pass over a ring, and leaves the gradients in `sums`, which have room for them; where a rank
/// fails, all throw. The context brings a workspace.
template <class S, class Out, class ScoreMod>
void ring_backward_heads(const Ranks& ranks, const RingCall<S>& call, RingKeys<S>& keys,
                         RingGradients<Accumulator<S>>& sums, const BackwardOperands<S, Out>& in,
                         const RingWishes& wishes, const ExactAttention<ScoreMod>& method, const Context& context,
                         const BackwardOptions& backward) {
  const RingPlan plan = call.plan();
  Failure failure;
  RingBackward<S, Out> own{call, plan, ranks.rank(), in, backward, sums.d_q(), sums.means()};
  failure.guard([&] { own.find_means(); });
  Transfers incoming(ranks), outgoing(ranks);
  for (Index t = 0; t < ranks.size(); ++t) {
    incoming.wait();
    if (t + 1 < ranks.size()) keys.begin(ranks, plan, t + 1, incoming);
    const Index owner = ranks.behind(-t);
    sums.clear(t);
    failure.guard([&] {
      for_each_ring_piece(
          plan, ranks.rank(), owner, call.packed, context,
          [&](int part_q, int part, const CallBlock& block, const HeadRange& some) {
            own.add(block, part_q, keys.rows(plan, t, part, call.packed), sums.rows(plan, t, part),
                    plan.keys(owner, part).first, some, method, context);
          },
          [&] {
            incoming.poke();
            outgoing.poke();
          });
    });
    if (t > 0) {  // sums of others go home while the next are made, and ours arrive, in the order of steps
      outgoing.wait();
      if (t > 1) sums.add_arrived(plan, ranks, t - 1);
      sums.send_home(ranks, plan, t, outgoing);
    }
  }
  outgoing.wait();
  if (ranks.size() > 1) sums.add_arrived(plan, ranks, ranks.size() - 1);
  if (wishes.d_sinks) {
    failure.guard([&] { own.template sinks<ScoreMod>(sums.own_sinks()); });
    sums.add_sinks(ranks);
  }
  failure.settle(ranks);
}

/// multi_head_ring_attend_backward into `grads`; make_room(packed) gives them their sizes, or leaves them as they are.
template <class Grads, class D, class Q, class K, class V, class Out, class Lse, class MakeRoom, class Method>
void ring_backward_to(MPI_Comm comm, Grads& grads, const D& d_out, const Q& q, const K& k, const V& v, const Out& out,
                      const Lse& lse, const HeadOptions& heads, const MakeRoom& make_room,
                      const AttentionOptions& options, const Method& method, const Context& given,
                      const BackwardOptions& backward) {
  require_exact<Method>();
  require_call_operands<Q, K, V>();
  using S = OperandScalar<Q>;
  static_assert(DerivableScoreMod<std::remove_cvref_t<decltype(method.score_mod)>, Accumulator<S>>,
                "heed: a gradient needs the functor's derivative(s, i, j), that of what it returns by s");
  const Ranks ranks(comm);
  const WithWorkspace inner(given);
  Workspace::Frame frame(inner.workspace());
  RingKeys<S> keys;
  RingGradients<Accumulator<S>> sums;
  RingWishes wishes;
  const auto call = agree_on_ring<S>(
      ranks, "ring_attend_backward", !std::is_same_v<Method, ExactAttention<>>, q, k, v, heads, options, given, frame,
      [&](const PackedHeads& packed) {
        make_room(packed);
        bool with_bias = backward.bias;
        if constexpr (requires { grads.d_bias; }) with_bias = with_bias || grads.d_bias.size() > 0;
        if (with_bias) {
          throw OptionError(
              "heed: BackwardOptions::bias is given but must not be: over a ring no rank has the pairs of all");
        }
        if constexpr (requires { grads.d_sinks; }) wishes.d_sinks = grads.d_sinks.size() > 0;
        check_backward_without_bias(backward_operands(d_out, q, k, out, lse, packed), v, true, grads, options,
                                    backward);
        keys.reserve(frame, ranks, view_of(k), view_of(v));
        sums.reserve(frame, ranks, q.rows(), k.rows(), packed);
        return wishes;
      });
  ring_backward_heads(ranks, call, keys, sums, backward_operands(d_out, q, k, out, lse, call.packed), wishes, method,
                      inner.context(), backward);
  sums.write(call.plan(), grads);
}

}  // namespace detail

/// Gradients of multi_head_ring_attend: given d_out, what the loss says of this rank's rows of out, and what the
/// forward call returned here, those of this rank's rows of q, k and v:
///   d_v_j = sum_i P_ij d_out_i,  d_s_ij = P_ij (d_out_i . v_j - d_out_i . out_i + d_lse_i),  as attend_backward,
/// i over the queries of all ranks. Keys and values travel as they do forward; what a rank adds to the gradients of
/// another's keys goes home while the next keys are computed on.
///
/// Shapes  d_out, r.out, r.lse and BackwardOptions::d_lse: rows of this rank's queries; returns d_q, d_k, d_v as q, k
///         and v, and d_sinks, of all queries, on every rank where sinks are given.
/// Empty   rows without keys and masked keys get 0.
/// Bits    the same in every run on so many ranks; those of one process to the rounding of sums. Weights are as exact
///         as lse: their relative error is about |lse| times the unit roundoff of sums.
/// Errors  as multi_head_ring_attend and attend_backward; OptionError for BackwardOptions::bias, whose gradient has an
///         entry for each pair of all ranks.
/// Cost    2 (3 d + 2 d_v) flops and one exponential per kept pair; on the way are, a key and a rank that sees it, (d +
///         d_v) n_kv_heads numbers there in the storage of k and as many home in the scalar of sums; memory: beside the
///         rank's own keys and values those of two others, and four times as many numbers in the scalar of sums.
/// Threads as multi_head_ring_attend.
/// Source  Liu et al. 2023 (ring attention); Dao et al. 2022, appendix B. There gradients go round with their keys;
///         here each goes home straight from where it is made, in as many bytes.
template <class D, class Q, TokenMatrix K, TokenMatrix V, class R, class Method = ExactAttention<>>
auto multi_head_ring_attend_backward(MPI_Comm comm, const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                                     const HeadOptions& heads, const AttentionOptions& options = {},
                                     const Method& method = {}, const Context& context = {},
                                     const BackwardOptions& backward = {}) {
  AttentionGradients<detail::OperandScalar<Q>> grads;
  const auto make_room = [&](const detail::PackedHeads& packed) {
    grads.d_q.resize(q.rows(), q.cols());
    grads.d_k.resize(k.rows(), k.cols());
    grads.d_v.resize(v.rows(), v.cols());
    if (options.sinks.given()) grads.d_sinks.resize(packed.n_heads);
  };
  detail::ring_backward_to(comm, grads, d_out, q, k, v, r.out, r.lse, heads, make_room, options, method, context,
                           backward);
  return grads;
}

/// `multi_head_ring_attend_backward` into storage the caller owns; with a Workspace that an earlier call of the same
/// shapes has grown nothing is allocated.
///
/// Shapes  grads: an object with members d_q, d_k, d_v, each a writable TokenMatrix shaped as this rank's q, k, v in
///         their scalar, and d_sinks of n_heads entries where they are wanted: by every rank or by none; out, lse: what
///         the forward call wrote. No gradient may overlap an operand.
/// Errors  as multi_head_ring_attend_backward; a shape that is wrong on one rank alone is an error of all. Gradients of
///         every rank are untouched then; where a call of MPI fails on one rank, another may have written its own.
template <class Grads, class D, class Q, TokenMatrix K, TokenMatrix V, class Out, class Lse,
          class Method = ExactAttention<>>
void multi_head_ring_attend_backward_into(MPI_Comm comm, Grads&& grads, const D& d_out, const Q& q, const K& k,
                                          const V& v, const Out& out, const Lse& lse, const HeadOptions& heads,
                                          const AttentionOptions& options = {}, const Method& method = {},
                                          const Context& context = {}, const BackwardOptions& backward = {}) {
  detail::ring_backward_to(
      comm, grads, d_out, q, k, v, out, lse, heads, [](const detail::PackedHeads&) {}, options, method, context,
      backward);
}

/// The same for one head; r.lse: n_q / P.
template <class D, class Q, TokenMatrix K, TokenMatrix V, class R, class Method = ExactAttention<>>
auto ring_attend_backward(MPI_Comm comm, const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                          const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {},
                          const BackwardOptions& backward = {}) {
  return multi_head_ring_attend_backward(comm, d_out, q, k, v, r, {}, options, method, context, backward);
}

/// The same for one head into storage the caller owns; lse: n_q / P.
template <class Grads, class D, class Q, TokenMatrix K, TokenMatrix V, class Out, class Lse,
          class Method = ExactAttention<>>
void ring_attend_backward_into(MPI_Comm comm, Grads&& grads, const D& d_out, const Q& q, const K& k, const V& v,
                               const Out& out, const Lse& lse, const AttentionOptions& options = {},
                               const Method& method = {}, const Context& context = {},
                               const BackwardOptions& backward = {}) {
  multi_head_ring_attend_backward_into(comm, grads, d_out, q, k, v, out, lse, {}, options, method, context, backward);
}

}  // namespace heed
