#pragma once
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/types.hpp"
#include "heed/core/values.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/run_method.hpp"
#include "heed/kernels/isa.hpp"

namespace heed {

namespace detail {

template <class Q, class K, class V>
constexpr void require_operands() {
  require_token_matrix<Q>();
  require_token_matrix<K>();
  require_token_matrix<V>();
  using S = OperandScalar<Q>;
  static_assert(RealScalar<S>,
                "heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 matrices; cast others first");
  static_assert(
      std::is_same_v<S, OperandScalar<K>> && std::is_same_v<S, OperandScalar<V>>,
      "heed: q, k and v must have one scalar type: cast them to the same (for example k.cast<float>().eval())");
}

/// Rows of a value source, or of a matrix.
template <class V>
auto value_view(const V& v) {
  if constexpr (ValueSource<V>) {
    return v.view();
  } else {
    return view_of(v);
  }
}

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

/// What must hold of one head whose values have v_rows rows of v_cols entries.
template <class Call>
void check_head(const Call& call, Index v_rows, Index v_cols, const AttentionOptions& options, const Context& context,
                const char* values = "v") {
  check_running(context);
  check_attention<typename Call::Sum>(call.q.cols, call.k.rows, call.k.cols, v_rows,
                                      {call.q.rows, call.k.rows, call.k.cols, v_cols}, options, values);
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

template <class Method, class Call>
void require_method() {
  static_assert(
      AttentionMethod<Method, Call>,
      "heed: the method does not run on these operands: its scalar must be that of q, k and v (see README, table of "
      "methods)");
}

/// The sizes of calls, which are alike.
template <class Call>
CallShape shape_of(std::span<const Call> calls) {
  const Call& one = calls.front();
  return {one.q.rows, one.k.rows, one.k.cols, one.v.cols, static_cast<Index>(calls.size())};
}

/// Runs one method over all heads, or each of a list over its own.
template <class Method, class Call>
void attend_all_heads(const Method& method, std::span<const Call> calls, Index heads_per_kv,
                      const AttentionOptions& options, const Context& context) {
  require_method<MethodOfHead<Method>, Call>();
  check_heads_of(method, shape_of(calls), options);  // of all, before the first writes anything
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  MethodRun<Method>(method, frame).run(calls, heads_per_kv, options, inner.context());
}

}  // namespace detail

/// `attend` into storage the caller owns: nothing is allocated when the context brings a Workspace that an earlier call of the
/// same shapes has grown.
///
/// Shapes  out: n_q x d_v, any writable TokenMatrix in the scalar of q (or float for half and bfloat16); lse: n_q entries, or
///         empty. Neither may overlap q, k or v.
/// Errors  as attend; out and lse are untouched when it throws. Only a score functor that throws, or memory that runs
///         out while the workspace still grows, may leave some rows written.
template <class Out, class Q, class K, class V, class Method = ExactAttention<>>
void attend_into(Out&& out, LseSpan<Accumulator<detail::OperandScalar<Q>>> lse, const Q& q, const K& k, const V& v,
                 const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {}) {
  const auto rows = detail::value_view(v);
  detail::require_operands<Q, K, std::remove_cvref_t<decltype(rows)>>();
  using S = detail::OperandScalar<Q>;
  auto to = detail::output_of<S>(std::forward<Out>(out));
  using Call = detail::HeadCall<S, S, typename decltype(to)::Scalar>;
  Call call{view_of(q), view_of(k), rows, to, lse.data(), lse.stride()};
  detail::check_head(call, call.v.rows, call.v.cols, options, context);
  detail::check_head_outputs(call, call.v.cols, lse);
  detail::attend_all_heads(method, std::span<const Call>(&call, 1), Index(1), options, context);
}

/// Attention of one head: out_i = sum_j softmax_j(scale * q_i . k_j) v_j over the pairs `options.mask` keeps, or whatever
/// `method` defines.
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v (or a ValueSource), one row per token, either storage order, any strides; out: n_q x d_v,
///         lse: n_q, natural log.
/// Empty   a query with no kept key gets out = 0 and lse = -inf; n_q = 0 an empty result.
/// Errors  ShapeError if cols(q) != cols(k) or rows(k) != rows(v) or a mask does not fit; OptionError for an option outside its
///         range. Wrong types do not compile.
/// Cost    as the method states; the exact default: 2 (d + d_v) flops and one exponential per kept pair.
/// Threads re-entrant; the result is the same bits for any context.threads.
template <class Q, class K, class V, class Method = ExactAttention<>>
auto attend(const Q& q, const K& k, const V& v, const AttentionOptions& options = {}, const Method& method = {},
            const Context& context = {}) -> AttentionResult<detail::OperandScalar<Q>> {
  const auto rows = detail::value_view(v);
  detail::require_operands<Q, K, std::remove_cvref_t<decltype(rows)>>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, S>;
  Call call{view_of(q), view_of(k), rows, {}};
  detail::check_head(call, call.v.rows, call.v.cols, options, context);
  AttentionResult<S> result;
  detail::give_outputs(call, result, call.v.cols, Method::has_softmax);
  detail::attend_all_heads(method, std::span<const Call>(&call, 1), Index(1), options, context);
  return result;
}

}  // namespace heed
