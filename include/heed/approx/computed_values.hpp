#pragma once
#include <concepts>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/result.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/head_call.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

/// A value source whose rows are made during the call: n_keys() rows of width() entries over all key heads, row j belonging to key j.
/// `attend_heads` is given the calls without values, and runs them through `runner` once it has made some.
template <class V>
concept ComputedValues = requires(const V& values) {
  typename V::Scalar;
  { values.n_keys() } -> std::convertible_to<Index>;
  { values.width() } -> std::convertible_to<Index>;
  requires V::computes_rows;
};

namespace detail {

template <class Q, class K, class V>
constexpr void require_computed() {
  require_token_matrix<Q>();
  require_token_matrix<K>();
  using S = OperandScalar<Q>;
  static_assert(std::is_same_v<S, OperandScalar<K>> && std::is_same_v<S, typename V::Scalar>,
                "heed: q, k, x and w_v must have one scalar type: cast them to the same");
}

inline void check_value_rows(Index k_rows, Index n_keys) {
  if (k_rows != n_keys)
    throw ShapeError(message("rows(k) = ", k_rows, " but rows(x) = ", n_keys, ": they must be equal"));
}

}  // namespace detail

/// attend_into with values made during the call (ProjectedValues, MonteCarloValues), for one head: d_v = cols(w_v).
///
/// Errors  as attend_into, with x in the place of v; out and lse are untouched when it throws.
template <class Out, class Q, class K, ComputedValues V, class Method = ExactAttention<>>
void attend_into(Out&& out, LseSpan<Accumulator<detail::OperandScalar<Q>>> lse, const Q& q, const K& k, const V& v,
                 const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {}) {
  detail::require_computed<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  auto to = detail::output_of<S>(std::forward<Out>(out));
  using Call = detail::HeadCall<S, S, typename decltype(to)::Scalar>;
  detail::require_method<Method, Call>();
  Call call{view_of(q), view_of(k), {}, to, lse.data(), lse.stride()};
  detail::check_value_rows(call.k.rows, v.n_keys());
  detail::check_attention(call.q.cols, call.k.rows, call.k.cols, v.n_keys(),
                          {call.q.rows, call.k.rows, call.k.cols, v.width()}, options);
  detail::check_output(to.rows, to.cols, call.q.rows, v.width());
  if (lse.wanted() && lse.size() != call.q.rows) {
    throw ShapeError(detail::message("lse has ", lse.size(), " entries but must have rows(q) = ", call.q.rows));
  }
  v.attend_heads(std::span<Call>(&call, 1), Index(1), options, detail::MethodRunner<Method>{method}, context);
}

/// attend with values made during the call.
template <class Q, class K, ComputedValues V, class Method = ExactAttention<>>
auto attend(const Q& q, const K& k, const V& v, const AttentionOptions& options = {}, const Method& method = {},
            const Context& context = {}) -> AttentionResult<detail::OperandScalar<Q>> {
  detail::require_computed<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  AttentionResult<S> result;
  result.out.resize(q.rows(), v.width());
  if constexpr (Method::has_softmax) result.lse.resize(q.rows());
  attend_into(result.out, LseSpan<Accumulator<S>>(result.lse), q, k, v, options, method, context);
  return result;
}

/// attend_over with values made during the call.
template <KeyPattern Pattern, class Q, class K, ComputedValues Values, class ScoreMod = NoScoreMod>
auto attend_over(const Pattern& pattern, const Q& q, const K& k, const Values& values,
                 const AttentionOptions& options = {}, const Context& context = {}, const ScoreMod& score_mod = {})
    -> AttentionResult<detail::OperandScalar<Q>> {
  detail::require_computed<Q, K, Values>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, S>;
  AttentionResult<S> result;
  Call call{view_of(q), view_of(k), {}, {}};
  detail::check_value_rows(call.k.rows, values.n_keys());
  detail::check_attention(call.q.cols, call.k.rows, call.k.cols, values.n_keys(),
                          {call.q.rows, call.k.rows, call.k.cols, values.width()}, options);
  detail::check_pattern(pattern, call.q.rows, call.k.rows);
  result.out.setZero(call.q.rows, values.width());
  result.lse.setConstant(call.q.rows, detail::minus_infinity<Accumulator<S>>);
  call.out = output_view_of(result.out);
  call.lse = result.lse.data();
  values.attend_heads(std::span<Call>(&call, 1), Index(1), options,
                      detail::PatternRunner<Pattern, ScoreMod>{pattern, score_mod}, context);
  return result;
}

/// multi_head_attend_into with values made during the call: x is shared by all heads, and each key head owns d_v columns of w_v, in
/// order, d_v = cols(w_v) / n_kv_heads.
template <class Out, class Lse, class Q, class K, ComputedValues V, class Method = ExactAttention<>>
void multi_head_attend_into(Out&& out, Lse&& lse, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                            const AttentionOptions& options = {}, const Method& method = {},
                            const Context& context = {}) {
  detail::require_computed<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  auto to = detail::output_of<S>(std::forward<Out>(out));
  auto lse_to = output_view_of(std::forward<Lse>(lse));
  static_assert(std::is_same_v<typename decltype(lse_to)::Scalar, Accumulator<S>>,
                "heed: lse must have the scalar sums are kept in: double for double, float otherwise");
  using Call = detail::HeadCall<S, S, typename decltype(to)::Scalar>;
  const Index n_kv_heads = detail::kv_heads_of(heads), n_heads = heads.n_heads;
  const Index d = detail::head_width(q.cols(), n_heads, "q", "n_heads");
  const Index d_k = detail::head_width(k.cols(), n_kv_heads, "k", "n_kv_heads");
  const Index d_v = detail::head_width(v.width(), n_kv_heads, "w_v", "n_kv_heads");
  detail::check_value_rows(k.rows(), v.n_keys());
  detail::check_attention(d, k.rows(), d_k, v.n_keys(), {q.rows(), k.rows(), d_k, d_v, n_heads}, options);
  detail::check_methods(method, n_heads);
  detail::check_output(to.rows, to.cols, q.rows(), n_heads * d_v);
  if (lse_to.rows != q.rows() || lse_to.cols != n_heads) {
    throw ShapeError(detail::message("lse is ", lse_to.rows, " x ", lse_to.cols,
                                     " but must be rows(q) x n_heads = ", q.rows(), " x ", n_heads));
  }
  if (q.rows() == 0) return;
  std::optional<Workspace> own;
  Context inner = context;
  inner.workspace = context.workspace != nullptr ? context.workspace : &own.emplace();
  Workspace::Frame frame(*inner.workspace);
  const Index heads_per_kv = n_heads / n_kv_heads;
  const auto q_view = view_of(q);
  const auto k_view = view_of(k);
  Call* calls = frame.take<Call>(static_cast<std::size_t>(n_heads));
  for (Index h = 0; h < n_heads; ++h) {
    new (calls + h) Call{q_view.columns(h * d, d),
                         k_view.columns(h / heads_per_kv * d, d),
                         {},
                         to.columns(h * d_v, d_v),
                         lse_to.data == nullptr ? nullptr : &lse_to(0, h),
                         lse_to.row_stride,
                         h};
  }
  v.attend_heads(std::span<Call>(calls, static_cast<std::size_t>(n_heads)), heads_per_kv, options,
                 detail::MethodRunner<Method>{method}, inner);
}

/// multi_head_attend with values made during the call.
template <class Q, class K, ComputedValues V, class Method = ExactAttention<>>
auto multi_head_attend(const Q& q, const K& k, const V& v, const HeadOptions& heads,
                       const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {})
    -> MultiHeadResult<detail::OperandScalar<Q>> {
  detail::require_computed<Q, K, V>();
  MultiHeadResult<detail::OperandScalar<Q>> result;
  const Index n_kv_heads = detail::kv_heads_of(heads);
  result.out.resize(q.rows(), heads.n_heads * detail::head_width(v.width(), n_kv_heads, "w_v", "n_kv_heads"));
  result.lse.resize(q.rows(), heads.n_heads);
  multi_head_attend_into(result.out, result.lse, q, k, v, heads, options, method, context);
  return result;
}

}  // namespace heed
