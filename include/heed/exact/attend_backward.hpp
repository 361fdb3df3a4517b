#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/run_backward.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/backward_operands.hpp"
#include "heed/exact/backward_run.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/run_method.hpp"

namespace heed {

namespace detail {

/// A functor that can be gone through backwards, or none.
template <class ScoreMod, class T>
concept DerivableScoreMod = std::is_same_v<ScoreMod, NoScoreMod> || requires(const ScoreMod& mod, T s) {
  { mod.derivative(s, Index(0), Index(0)) } -> std::convertible_to<T>;
};

/// Runs checked shapes. `grads`: members d_q and d_k, d_v or what a computed source writes in its place, and d_bias,
/// d_sinks and gradients of the method where they are wanted and not empty.
template <class S, class Out, class V, class Grads, class Method>
void backward_of_heads(Grads& grads, const BackwardOperands<S, Out>& all, const V& v,
                       const AttentionOptions& all_options, const Method& method, const Context& given,
                       const BackwardOptions& backward) {
  using T = Accumulator<S>;
  using Call = GradientCall<S, S>;
  using One = MethodOfHead<Method>;
  using ScoreMod = std::remove_cvref_t<decltype(score_mod_of(std::declval<const One&>()))>;
  static_assert(DerivableScoreMod<ScoreMod, T>,
                "heed: a gradient needs the functor's derivative(s, i, j), that of what it returns by s");
  const PackedHeads& packed = all.heads;
  check_running(given);
  check_backward(all, v, One::has_softmax, grads, all_options, backward);
  const RealTokens real = real_tokens_of(all_options, all.q.rows, all.k.rows, packed.n_heads);
  const AttentionOptions& options = real.options;
  const BackwardOperands<S, Out> in = all.of_queries(real.n_q);
  const Index n_q = real.n_q;
  check_heads_of(method, {n_q, in.k.rows, packed.d, packed.d_v, packed.n_heads}, options);
  check_backward_of(method, backward, grads);
  const WithWorkspace inner(given);
  const Context& context = inner.context();
  Workspace::Frame frame(inner.workspace());
  const GradientSum<T, S> q_sum(output_view_of(grads.d_q), frame), k_sum(output_view_of(grads.d_k), frame);
  const std::span<Call> calls = gradient_calls<Call>(in, q_sum.sum(), k_sum.sum(), frame);
  make_split_room(calls, frame);
  T* means = frame.take<T>(packed.n_heads * n_q);
  for (Call& call : calls) {
    if constexpr (requires { grads.d_bias; }) {
      if (grads.d_bias.size() > 0)
        call.d_bias = bias_gradient_of(output_view_of(grads.d_bias), all_options.mask.bias, call.head, all.q.rows, n_q);
    }
    call.n_padding = all.q.rows - n_q;
    call.mean = means + call.head * n_q;
    row_means(call, in.out.columns(call.head * packed.d_v, packed.d_v), backward.d_lse, means + call.head * n_q);
  }
  if constexpr (ComputedValues<V>) {
    BackwardRun<Method, T, Grads> run(method, backward, grads, q_sum.sum(), k_sum.sum(), frame);
    static_assert(
        requires { v.backward(calls, Index(1), options, run, grads, context); },
        "heed: the value source has no gradient: it lacks backward (core/values.hpp)");
    v.backward(calls, packed.per_kv(), options, run, grads, context);
  } else {
    const GradientSum<T, S> v_sum(output_view_of(grads.d_v), frame);
    give_values(calls, packed.per_kv(), stored_rows(v));
    for (Call& call : calls) call.d_v = v_sum.sum().columns(call.head / packed.per_kv() * packed.d_v, packed.d_v);
    BackwardRun<Method, T, Grads> run(method, backward, grads, q_sum.sum(), k_sum.sum(), frame);
    const std::span<const Call> given_calls(calls);
    run.prepare(given_calls, packed.per_kv(), options, context);  // may throw: nothing has been written yet
    fill(v_sum.sum(), T(0));
    run.run_backward(given_calls, packed.per_kv(), options, context);
    v_sum.finish();
  }
  if constexpr (requires { grads.d_sinks; }) {
    for (Index h = 0; h < grads.d_sinks.size(); ++h)
      grads.d_sinks(h) = gradient_of_sink<ScoreMod>(calls[static_cast<std::size_t>(h)], options);
  }
  q_sum.finish();
  k_sum.finish();
}

/// What attend_backward returns for such values and such a method.
template <class S, class V, class Method>
struct GradientsOf {
  using type = AttentionGradients<S, StoredValueGradients<S>, typename MethodGradients<Method>::type>;
};
template <class S, ComputedValues V, class Method>
  requires requires { typename V::Gradients; }
struct GradientsOf<S, V, Method> {
  using type = AttentionGradients<S, typename V::Gradients, typename MethodGradients<Method>::type>;
};

/// Makes room for all gradients, and runs checked heads.
template <class D, class Q, class K, class V, class R, class Method>
auto gradients_of_heads(const D& d_out, const Q& q, const K& k, const V& v, const R& r, const PackedHeads& packed,
                        const AttentionOptions& options, const Method& method, const Context& context,
                        const BackwardOptions& backward) {
  using S = OperandScalar<Q>;
  typename GradientsOf<S, V, Method>::type grads;
  grads.d_q.resize(q.rows(), q.cols());
  grads.d_k.resize(k.rows(), k.cols());
  if constexpr (!ComputedValues<V>) {
    grads.d_v.resize(k.rows(), packed.n_kv_heads * packed.d_v);
  } else if constexpr (requires { v.size_gradients(grads); }) {
    v.size_gradients(grads);
  }
  size_method_gradients(method, grads);
  if (backward.bias && options.mask.bias.given())
    grads.d_bias.setZero(options.mask.bias.stacked_rows(), options.mask.bias.cols());
  if (options.sinks.given()) grads.d_sinks.setZero(packed.n_heads);
  backward_of_heads(grads, backward_operands(d_out, q, k, r.out, r.lse, packed), v, options, method, context, backward);
  return grads;
}

}  // namespace detail

/// Gradients of one head: given d_out, what the loss says of out, and what the forward call returned.
///   d_v_j = sum_i P_ij d_out_i,  d_s_ij = P_ij (d_out_i . v_j - d_out_i . out_i + d_lse_i),  d_q_i = sum_j d_r_ij k_j,
///   d_k_j = sum_i d_r_ij q_i,
/// P recomputed from lse, d_r what d_s becomes through score functor, bias, softcap and scale. Methods that are no
/// softmax over pairs, and what else methods and value sources add, are documented there. Scores may have any finite
/// size: where |lse| has no digits left for the sum of weights (above 256 in float, 4 million in double), the largest
/// score and that sum are found again, at the cost of one more product. Given the lse of a larger whole, of which this
/// call is a part, weights are as exact as lse: their relative error is about |lse| times the unit roundoff of sums.
///
/// Shapes  d_out: n_q x d_v, r: what attend(q, k, v, options, method) returned; returns d_q, d_k, d_v as q, k, v;
///         d_bias and d_sinks where asked for: d_bias has a row for each that the bias has (those of a tensor's entries
///         and heads stacked), the sum over the queries and heads that share it; gradients of the method's own
///         parameters, and, where v is a computed value source, those of what its rows are made from in the place of
///         d_v.
/// Empty   rows without keys and masked keys get 0.
/// Errors  as attend; ShapeError for a d_out, out, lse or d_lse that does not fit; OptionError for a d_lse where the
///         method returns no lse. A method or value source without a gradient does not compile.
/// Cost    2 (3 d + 2 d_v) flops and one exponential per kept pair; memory O(n_q) and a few tiles a thread, and a sum
///         in float for each number of half or bfloat16 gradients.
/// Threads const and re-entrant; the same bits for any context.threads, also where one head is split over threads.
/// Source  Dao et al. 2022, appendix B; Milakov and Gimelshein 2018 (the softmax).
template <class D, class Q, class K, class V, class R, class Method = ExactAttention<>>
auto attend_backward(const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                     const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {},
                     const BackwardOptions& backward = {}) {
  const detail::PackedHeads one = detail::one_head(q, k, v, options);
  return detail::gradients_of_heads(d_out, q, k, v, r, one, options, method, context, backward);
}

/// `attend_backward` into storage the caller owns; nothing is allocated with a grown Workspace.
///
/// Shapes  grads: an object with members d_q, d_k, d_v, each a writable TokenMatrix shaped as q, k, v in their scalar,
///         and, where they are wanted, d_bias (shaped as attend_backward returns it), d_sinks, and the members of
///         the method's and the value source's own gradients; out, lse: what the forward call wrote.
///         No gradient may overlap an operand. BackwardOptions::bias is not looked at: a d_bias that is there is added
///         to.
/// Errors  as attend_backward; gradients are untouched when it throws.
template <class Grads, class D, class Q, class K, class V, class Out, class Lse, class Method = ExactAttention<>>
void attend_backward_into(Grads&& grads, const D& d_out, const Q& q, const K& k, const V& v, const Out& out,
                          const Lse& lse, const AttentionOptions& options = {}, const Method& method = {},
                          const Context& context = {}, const BackwardOptions& backward = {}) {
  const detail::PackedHeads one = detail::one_head(q, k, v, options);
  detail::backward_of_heads(grads, detail::backward_operands(d_out, q, k, out, lse, one), v, options, method, context,
                            backward);
}

/// The same for all heads of packed rows, `r` being what multi_head_attend returned: gradients of keys and values are
/// sums over the heads that share them, those of one method's parameters over its heads, in a fixed order. For a list
/// of methods those are in d_methods, one entry a method.
template <class D, class Q, class K, class V, class R, class Method = ExactAttention<>>
auto multi_head_attend_backward(const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                                const HeadOptions& heads, const AttentionOptions& options = {},
                                const Method& method = {}, const Context& context = {},
                                const BackwardOptions& backward = {}) {
  const detail::PackedHeads packed = detail::packed_heads(q, k, v, heads, options, method, context);
  return detail::gradients_of_heads(d_out, q, k, v, r, packed, options, method, context, backward);
}

/// `multi_head_attend_backward` into storage the caller owns, as attend_backward_into; lse: n_q x n_heads.
template <class Grads, class D, class Q, class K, class V, class Out, class Lse, class Method = ExactAttention<>>
void multi_head_attend_backward_into(Grads&& grads, const D& d_out, const Q& q, const K& k, const V& v, const Out& out,
                                     const Lse& lse, const HeadOptions& heads, const AttentionOptions& options = {},
                                     const Method& method = {}, const Context& context = {},
                                     const BackwardOptions& backward = {}) {
  const detail::PackedHeads packed = detail::packed_heads(q, k, v, heads, options, method, context);
  detail::backward_of_heads(grads, detail::backward_operands(d_out, q, k, out, lse, packed), v, options, method,
                            context, backward);
}

}  // namespace heed
