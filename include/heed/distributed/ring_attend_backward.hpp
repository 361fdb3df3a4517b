#pragma once
#include <algorithm>
#include <type_traits>

#include <mpi.h>

#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/agreement.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/failure.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/distributed/ring.hpp"
#include "heed/distributed/ring_attend.hpp"
#include "heed/distributed/ring_backward.hpp"
#include "heed/distributed/ring_bias.hpp"
#include "heed/distributed/ring_gradients.hpp"
#include "heed/distributed/transfers.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/backward_operands.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

namespace detail {

/// Runs an agreed backward pass over a ring, and leaves the gradients in `sums` and `bias`, which have room for them;
/// where a rank fails, all throw. The context brings a workspace.
template <class S, class Out, class ScoreMod>
void ring_backward_heads(const Ranks& ranks, const RingCall<S>& call, RingKeys<S>& keys,
                         RingGradients<Accumulator<S>>& sums, const RingBiasSums<Accumulator<S>>& bias,
                         const BackwardOperands<S, Out>& in, const RingWishes& wishes,
                         const ExactAttention<ScoreMod>& method, const Context& context,
                         const BackwardOptions& backward) {
  const RingPlan plan = call.plan();
  Failure failure;
  RingBackward<S, Out> own{call, plan, ranks.rank(), in, backward, sums.d_q(), sums.means(), bias};
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
  if (wishes.d_bias) bias.add_over(ranks);
  failure.settle(ranks);
}

/// multi_head_ring_attend_backward into `grads`. make_room(packed, bias rows) gives them their sizes and returns true,
/// d_bias being 0; or it leaves them as they are, the caller's, and returns false.
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
  RingBiasSums<Accumulator<S>> bias;
  RingWishes wishes;
  const auto call = agree_on_ring<S>(ranks, "ring_attend_backward", !std::is_same_v<Method, ExactAttention<>>, q, k, v,
                                     heads, options, given, frame, [&](const PackedHeads& packed) {
                                       const RingLayout queries(q.rows(), ranks.rank(), ranks.size());
                                       const RingBiasRows bias_rows(options.mask.bias, queries, packed.n_heads);
                                       const bool ours = make_room(packed, bias_rows);
                                       if constexpr (requires { grads.d_bias; }) {
                                         wishes.d_bias = grads.d_bias.size() > 0;
                                         if (wishes.d_bias)
                                           bias.reserve(frame, bias_rows, output_view_of(grads.d_bias), ours);
                                       }
                                       if constexpr (requires { grads.d_sinks; })
                                         wishes.d_sinks = grads.d_sinks.size() > 0;
                                       check_backward_without_bias(backward_operands(d_out, q, k, out, lse, packed), v,
                                                                   true, grads, options, backward);
                                       keys.reserve(frame, ranks, view_of(k), view_of(v));
                                       sums.reserve(frame, ranks, q.rows(), k.rows(), packed);
                                       return wishes;
                                     });
  ring_backward_heads(ranks, call, keys, sums, bias, backward_operands(d_out, q, k, out, lse, call.packed), wishes,
                      method, inner.context(), backward);
  sums.write(call.plan(), grads);
  bias.write();
}

}  // namespace detail

/// Gradients of multi_head_ring_attend: given d_out, what the loss says of this rank's rows of out, and what the
/// forward call returned here, those of this rank's rows of q, k and v:
///   d_v_j = sum_i P_ij d_out_i,  d_s_ij = P_ij (d_out_i . v_j - d_out_i . out_i + d_lse_i),  as attend_backward,
/// i over the queries of all ranks. Keys and values travel as they do forward; what a rank adds to the gradients of
/// another's keys goes home while the next keys are computed on.
///
/// Shapes  d_out, r.out, r.lse and BackwardOptions::d_lse: rows of this rank's queries; returns d_q, d_k, d_v as q, k
///         and v, and d_sinks, of all queries, on every rank where sinks are given. Where BackwardOptions::bias asks
///         for it, d_bias: the rows of the bias that this rank's queries read, as its rows of q stand, one head behind
///         the other where heads differ, with columns in positions of all n_k keys: ring_rows of what one process
///         returns, for each head. A bias of one row for all queries has the same d_bias on every rank, the sum over
///         all queries.
/// Empty   rows without keys and masked keys get 0.
/// Bits    the same in every run on so many ranks; those of one process to the rounding of sums. Weights are as exact
///         as lse: their relative error is about |lse| times the unit roundoff of sums.
/// Errors  as multi_head_ring_attend and attend_backward; OptionError where one rank asks for d_bias and another does
///         not.
/// Cost    2 (3 d + 2 d_v) flops and one exponential per kept pair; on the way are, a key and a rank that sees it, (d +
///         d_v) n_kv_heads numbers there in the storage of k and as many home in the scalar of sums; memory: beside the
///         rank's own keys and values those of two others, and four times as many numbers in the scalar of sums. Of
///         d_bias nothing travels but a bias of one row, from rank to rank and once to all; it takes n_k numbers a row.
/// Threads as multi_head_ring_attend.
/// Source  Liu et al. 2023 (ring attention); Dao et al. 2022, appendix B. There gradients go round with their keys;
///         here each goes home straight from where it is made, in as many bytes.
template <class D, class Q, TokenMatrix K, TokenMatrix V, class R, class Method = ExactAttention<>>
auto multi_head_ring_attend_backward(MPI_Comm comm, const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                                     const HeadOptions& heads, const AttentionOptions& options = {},
                                     const Method& method = {}, const Context& context = {},
                                     const BackwardOptions& backward = {}) {
  AttentionGradients<detail::OperandScalar<Q>> grads;
  const auto make_room = [&](const detail::PackedHeads& packed, const detail::RingBiasRows& bias) {
    grads.d_q.resize(q.rows(), q.cols());
    grads.d_k.resize(k.rows(), k.cols());
    grads.d_v.resize(v.rows(), v.cols());
    if (options.sinks.given()) grads.d_sinks.resize(packed.n_heads);
    if (backward.bias && options.mask.bias.given()) grads.d_bias.setZero(bias.rows(), bias.cols());
    return true;
  };
  detail::ring_backward_to(comm, grads, d_out, q, k, v, r.out, r.lse, heads, make_room, options, method, context,
                           backward);
  return grads;
}

/// `multi_head_ring_attend_backward` into storage the caller owns; with a Workspace that an earlier call of the same
/// shapes has grown nothing is allocated.
///
/// Shapes  grads: an object with members d_q, d_k, d_v, each a writable TokenMatrix shaped as this rank's q, k, v in
///         their scalar, and, where they are wanted, by every rank or by none, d_sinks of n_heads entries and d_bias
///         (shaped as multi_head_ring_attend_backward returns it); out, lse: what the forward call wrote. No gradient
///         may overlap an operand. BackwardOptions::bias is not looked at: a d_bias that is there is added to, once it
///         has been summed in as many numbers of the workspace.
/// Errors  as multi_head_ring_attend_backward; a shape that is wrong on one rank alone is an error of all. Gradients of
///         every rank are untouched then; where a call of MPI fails on one rank, another may have written its own.
template <class Grads, class D, class Q, TokenMatrix K, TokenMatrix V, class Out, class Lse,
          class Method = ExactAttention<>>
void multi_head_ring_attend_backward_into(MPI_Comm comm, Grads&& grads, const D& d_out, const Q& q, const K& k,
                                          const V& v, const Out& out, const Lse& lse, const HeadOptions& heads,
                                          const AttentionOptions& options = {}, const Method& method = {},
                                          const Context& context = {}, const BackwardOptions& backward = {}) {
  detail::ring_backward_to(
      comm, grads, d_out, q, k, v, out, lse, heads,
      [](const detail::PackedHeads&, const detail::RingBiasRows&) { return false; }, options, method, context,
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
