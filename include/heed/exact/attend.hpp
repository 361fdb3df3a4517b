#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/kernels/isa.hpp"
#ifdef HEED_COMPILED
#include "heed/exact/detail/compiled.hpp"
#endif

namespace heed {

namespace detail {

/// Writable view of `out` for queries in scalar S.
template <class S, class Out>
auto output_of(Out&& out) {
  auto view = output_view_of(std::forward<Out>(out));
  using To = typename decltype(view)::Scalar;
  static_assert(std::is_same_v<To, S> || std::is_same_v<To, Accumulator<S>>,
                "heed: out must have the scalar type of q, or the one sums are kept in (float for half and bfloat16)");
  return view;
}

inline void check_output(Index rows, Index cols, Index n_q, Index d_v) {
  if (rows != n_q || cols != d_v) {
    throw ShapeError(message("out is ", rows, " x ", cols, " but must be rows(q) x cols(v) = ", n_q, " x ", d_v));
  }
}

/// What must hold of every call: its context, and kernels for this machine.
inline void check_running(const Context& context) {
  check_context(context);
  static_cast<void>(active_isa());  // throws for a HEED_ISA that cannot be
}

/// What must hold of one head over such values.
template <class Call>
void check_head(const Call& call, const ValueShape& values, const AttentionOptions& options, const Context& context) {
  check_running(context);
  check_attention<typename Call::Sum>(call.q.cols, call.k.rows, call.k.cols, values.rows,
                                      {call.q.rows, call.k.rows, call.k.cols, values.cols}, options, values.rows_from);
}

/// What must hold of the outputs of one head whose values have v_cols entries.
template <class Call>
void check_head_outputs(const Call& call, Index v_cols, const LseSpan<typename Call::Sum>& lse) {
  check_output(call.out.rows, call.out.cols, call.q.rows, v_cols);
  if (lse.wanted() && lse.size() != call.q.rows)
    throw ShapeError(message("lse has ", lse.size(), " entries but must have rows(q) = ", call.q.rows));
}

/// Makes room for the result of one head, and gives it to the call.
template <class Call, class S>
void give_outputs(Call& call, AttentionResult<S>& result, Index v_cols, bool with_lse) {
  result.out.resize(call.q.rows, v_cols);
  call.out = output_view_of(result.out);
  if (!with_lse) return;
  result.lse.resize(call.q.rows);
  call.lse = result.lse.data();
}

}  // namespace detail

/// `attend` into storage the caller owns: nothing is allocated when the context brings a Workspace that an earlier call
/// of the same shapes has grown.
///
/// Shapes  out: n_q x d_v, any writable TokenMatrix in the scalar of q (or float for half and bfloat16); lse: n_q
///         entries, or empty. Neither may overlap q, k or v.
/// Errors  as attend; out and lse are untouched when it throws. Only a score functor that throws, or memory that runs
///         out while the workspace still grows, may leave some rows written.
template <class Out, class Q, class K, class V, class Method = ExactAttention<>>
void attend_into(Out&& out, LseSpan<Accumulator<detail::OperandScalar<Q>>> lse, const Q& q, const K& k, const V& v,
                 const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {}) {
  detail::require_call_operands<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  auto to = detail::output_of<S>(std::forward<Out>(out));
  using Call = detail::HeadCall<S, S, typename decltype(to)::Scalar>;
  Call call{view_of(q), view_of(k), {}, to, lse.data(), lse.stride()};
  const detail::ValueShape values = detail::shape_of_values(v);
  detail::check_head(call, values, options, context);
  detail::check_head_outputs(call, values.cols, lse);
  detail::attend_values(v, method, std::span<Call>(&call, 1), Index(1), options, context);
}

/// Attention of one head: out_i = sum_j softmax_j(scale * q_i . k_j) v_j over the pairs `options.mask` keeps, or
/// whatever `method` defines.
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v, one row per token, either storage order, any strides; out: n_q x d_v,
///         lse: n_q, natural log. In the place of v a value source may stand (core/values.hpp).
/// Empty   a query with no kept key gets out = 0 and lse = -inf, or its sink; n_q = 0 an empty result.
/// Errors  ShapeError if cols(q) != cols(k) or rows(k) != rows(v) or a mask does not fit; OptionError for an option
///         outside its range. Wrong types do not compile.
/// Cost    as the method states; the exact default: 2 (d + d_v) flops and one exponential per kept pair.
/// Threads re-entrant; the result is the same bits for any context.threads.
template <class Q, class K, class V, class Method = ExactAttention<>>
auto attend(const Q& q, const K& k, const V& v, const AttentionOptions& options = {}, const Method& method = {},
            const Context& context = {}) -> AttentionResult<detail::OperandScalar<Q>> {
  detail::require_call_operands<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, S>;
  Call call{view_of(q), view_of(k), {}, {}};
  const detail::ValueShape values = detail::shape_of_values(v);
  detail::check_head(call, values, options, context);
  AttentionResult<S> result;
  detail::give_outputs(call, result, values.cols, Method::has_softmax);
  detail::attend_values(v, method, std::span<Call>(&call, 1), Index(1), options, context);
  return result;
}

}  // namespace heed
