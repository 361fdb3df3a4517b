#pragma once
#include <concepts>
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
#include "heed/engine/head_call.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/run_method.hpp"

namespace heed {

/// A value source whose rows are made during the call: n_keys() rows of width() entries over all key heads, row j belonging to key j.
/// `attend_heads` is given the calls without values, and runs them through `run` once it has made some.
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

/// Calls of packed heads to which a source of values gives rows; out and lse may be empty views.
template <class Call, class Q, class K>
std::span<Call> calls_without_values(Workspace::Frame& frame, const Q& q, const K& k, const PackedHeads& packed,
                                     const View<typename Call::Out>& out, const View<typename Call::Sum>& lse) {
  const auto k_view = view_of(k);
  return packed_calls<Call>(
      frame, view_of(q), [&](Index h) { return k_view.columns(h * packed.d, packed.d); },
      [](Index) { return ConstView<typename Call::Key>{}; }, out, lse, packed.n_heads, packed.per_kv());
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
  detail::check_head(call, v.n_keys(), v.width(), lse, options, "x");
  detail::check_heads_of(method, call.k.cols, options);
  const detail::WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  detail::MethodRun<Method> run(method, frame);
  v.attend_heads(std::span<Call>(&call, 1), Index(1), options, run, inner.context());
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
template <PairPattern Pattern, class Q, class K, ComputedValues Values, class ScoreMod = NoScoreMod>
auto attend_over(const Pattern& pattern, const Q& q, const K& k, const Values& values,
                 const AttentionOptions& options = {}, const Context& context = {}, const ScoreMod& score_mod = {})
    -> AttentionResult<detail::OperandScalar<Q>> {
  detail::require_computed<Q, K, Values>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, S>;
  AttentionResult<S> result;
  Call call{view_of(q), view_of(k), {}, {}};
  detail::check_attention(call.q.cols, call.k.rows, call.k.cols, values.n_keys(),
                          {call.q.rows, call.k.rows, call.k.cols, values.width()}, options, "x");
  detail::check_pattern(pattern, call.q.rows, call.k.rows);
  result.out.resize(call.q.rows, values.width());
  result.lse.resize(call.q.rows);
  call.out = output_view_of(result.out);
  call.lse = result.lse.data();
  const detail::OverPattern<Pattern, ScoreMod> method{pattern, score_mod};
  const detail::WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  detail::MethodRun<detail::OverPattern<Pattern, ScoreMod>> run(method, frame);
  values.attend_heads(std::span<Call>(&call, 1), Index(1), options, run, inner.context());
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
  const detail::PackedHeads packed =
      detail::check_heads(q, k, v.n_keys(), v.width(), heads, options, method, "x", "w_v");
  detail::check_head_outputs(to, lse_to, q.rows(), packed.n_heads, packed.d_v);
  detail::check_heads_of(method, packed.d, options);
  if (q.rows() == 0) return;
  const detail::WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  const auto calls = detail::calls_without_values<Call>(frame, q, k, packed, to, lse_to);
  detail::MethodRun<Method> run(method, frame);
  v.attend_heads(calls, packed.per_kv(), options, run, inner.context());
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
  if constexpr (detail::returns_lse<Method>()) result.lse.resize(q.rows(), heads.n_heads);
  multi_head_attend_into(result.out, result.lse, q, k, v, heads, options, method, context);
  return result;
}

}  // namespace heed
