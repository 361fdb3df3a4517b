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
#include "heed/exact/check_pattern.hpp"
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

/// Runs checked calls over a source of values.
template <class Call, class V, class Method>
void attend_computed(std::span<Call> calls, Index heads_per_kv, const V& v, const AttentionOptions& options,
                     const Method& method, const Context& context) {
  const std::span<const Call> given(calls);
  check_heads_of(method, shape_of(given), options);
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  MethodRun<Method> run(method, frame);
  if (calls.front().q.rows == 0)
    return run.prepare(given, heads_per_kv, options, inner.context());  // for what it throws
  v.attend_heads(calls, heads_per_kv, options, run, inner.context());
}

/// Runs checked packed heads whose values are made during the call.
template <class To, class Sum, class Q, class K, class V, class Method>
void attend_computed_heads(const View<To>& out, const View<Sum>& lse, const Q& q, const K& k, const V& v,
                           const PackedHeads& packed, const AttentionOptions& options, const Method& method,
                           const Context& context) {
  using S = OperandScalar<Q>;
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  const auto calls = calls_without_values<HeadCall<S, S, To>>(frame, q, k, packed, out, lse);
  attend_computed(calls, packed.per_kv(), v, options, method, inner.context());
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
  detail::check_head(call, v.n_keys(), v.width(), options, context, "x");
  detail::check_head_outputs(call, v.width(), lse);
  detail::attend_computed(std::span<Call>(&call, 1), Index(1), v, options, method, context);
}

/// attend with values made during the call.
template <class Q, class K, ComputedValues V, class Method = ExactAttention<>>
auto attend(const Q& q, const K& k, const V& v, const AttentionOptions& options = {}, const Method& method = {},
            const Context& context = {}) -> AttentionResult<detail::OperandScalar<Q>> {
  detail::require_computed<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, S>;
  detail::require_method<Method, Call>();
  Call call{view_of(q), view_of(k), {}, {}};
  detail::check_head(call, v.n_keys(), v.width(), options, context, "x");
  AttentionResult<S> result;
  detail::give_outputs(call, result, v.width(), Method::has_softmax);
  detail::attend_computed(std::span<Call>(&call, 1), Index(1), v, options, method, context);
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
  Call call{view_of(q), view_of(k), {}, {}};
  detail::check_head(call, values.n_keys(), values.width(), options, context, "x");
  const detail::WithWorkspace inner(context);
  detail::check_pattern(pattern, call.q.rows, call.k.rows, inner.workspace());
  AttentionResult<S> result;
  detail::give_outputs(call, result, values.width(), true);
  const detail::OverPattern<Pattern, ScoreMod> method{pattern, score_mod};
  detail::attend_computed(std::span<Call>(&call, 1), Index(1), values, options, method, inner.context());
  return result;
}

/// multi_head_attend_into with values made during the call: x is shared by all heads, and each key head owns d_v
/// columns of w_v, in order, d_v = cols(w_v) / n_kv_heads.
template <class Out, class Lse, class Q, class K, ComputedValues V, class Method = ExactAttention<>>
void multi_head_attend_into(Out&& out, Lse&& lse, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                            const AttentionOptions& options = {}, const Method& method = {},
                            const Context& context = {}) {
  detail::require_computed<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  auto to = detail::output_of<S>(std::forward<Out>(out));
  auto lse_to = detail::lse_output_of<S>(std::forward<Lse>(lse));
  const detail::PackedHeads packed =
      detail::check_heads(q, k, v.n_keys(), v.width(), heads, options, method, context, "x", "w_v");
  detail::check_head_outputs(to, lse_to, q.rows(), packed.n_heads, packed.d_v);
  detail::attend_computed_heads(to, lse_to, q, k, v, packed, options, method, context);
}

/// multi_head_attend with values made during the call.
template <class Q, class K, ComputedValues V, class Method = ExactAttention<>>
auto multi_head_attend(const Q& q, const K& k, const V& v, const HeadOptions& heads,
                       const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {})
    -> MultiHeadResult<detail::OperandScalar<Q>> {
  detail::require_computed<Q, K, V>();
  const detail::PackedHeads packed =
      detail::check_heads(q, k, v.n_keys(), v.width(), heads, options, method, context, "x", "w_v");
  auto result = detail::result_of_heads<detail::OperandScalar<Q>, Method>(q.rows(), packed.n_heads, packed.d_v);
  detail::attend_computed_heads(output_view_of(result.out), output_view_of(result.lse), q, k, v, packed, options,
                                method, context);
  return result;
}

}  // namespace heed
