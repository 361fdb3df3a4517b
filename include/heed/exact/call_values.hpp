#pragma once
#include <cstddef>
#include <span>
#include <type_traits>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/values.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/exact/run_method.hpp"

namespace heed::detail {

/// Refuses operands that are no matrices of one scalar that attention runs on.
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

/// The same, where v may be a value source too.
template <class Q, class K, class V>
constexpr void require_call_operands() {
  if constexpr (ValueSource<V>) {
    require_operands<Q, K, K>();
    static_assert(std::is_same_v<OperandScalar<Q>, typename V::Scalar>,
                  "heed: values must have the scalar type of q and k: cast what they are made from to the same");
  } else {
    require_operands<Q, K, V>();
  }
}

/// Sizes of the values of a call, and the arguments that their rows and columns come from.
struct ValueShape {
  Index rows = 0;
  Index cols = 0;
  const char* rows_from = "v";
  const char* columns_from = "v";
};

/// Of a matrix or a value source.
template <class V>
ValueShape shape_of_values(const V& v) {
  if constexpr (ValueSource<V>) {
    ValueShape shape{v.n_keys(), v.width()};
    if constexpr (requires { V::rows_from; }) shape.rows_from = V::rows_from;
    if constexpr (requires { V::columns_from; }) shape.columns_from = V::columns_from;
    return shape;
  } else {
    const auto view = view_of(v);
    return {view.rows, view.cols};
  }
}

/// Rows of a matrix, or of a value source that stores them.
template <class V>
auto stored_rows(const V& v) {
  if constexpr (ValueSource<V>) {
    return v.view();
  } else {
    return view_of(v);
  }
}

/// Points v of each call at its columns of `rows`, which hold those of all key heads side by side.
template <class Call>
void give_values(std::span<Call> calls, Index heads_per_kv, const ConstView<typename Call::Key>& rows) {
  const Index d_v = rows.cols * heads_per_kv / static_cast<Index>(calls.size());
  for (std::size_t c = 0; c < calls.size(); ++c)
    calls[c].v = rows.columns(static_cast<Index>(c) / heads_per_kv * d_v, d_v);
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

/// Runs one method over checked heads, or each of a list over its own.
template <class Method, class Call>
void attend_all_heads(const Method& method, std::span<const Call> calls, Index heads_per_kv,
                      const AttentionOptions& options, const Context& context) {
  require_method<MethodOfHead<Method>, Call>();
  check_heads_of(method, shape_of(calls), options);  // of all, before the first writes anything
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  MethodRun<Method>(method, frame).run(calls, heads_per_kv, options, inner.context());
}

/// The same for calls of real queries that lack their values, which `v` gives or makes.
template <class V, class Method, class Call>
void attend_real_queries(const V& v, const Method& method, std::span<Call> calls, Index heads_per_kv,
                         const AttentionOptions& options, const Context& context) {
  const std::span<const Call> given(calls);
  if constexpr (ComputedValues<V>) {
    require_method<MethodOfHead<Method>, Call>();
    check_heads_of(method, shape_of(given), options);
    const WithWorkspace inner(context);
    Workspace::Frame frame(inner.workspace());
    MethodRun<Method> run(method, frame);
    static_assert(
        requires { v.attend_heads(calls, heads_per_kv, options, run, inner.context()); },
        "heed: a value source that computes rows needs attend_heads(calls, heads_per_kv, options, run, context): see "
        "core/values.hpp");
    if (calls.front().q.rows == 0)
      return run.prepare(given, heads_per_kv, options, inner.context());  // for what it throws
    v.attend_heads(calls, heads_per_kv, options, run, inner.context());
  } else {
    give_values(calls, heads_per_kv, stored_rows(v));
    attend_all_heads(method, given, heads_per_kv, options, context);
  }
}

/// Runs run(calls, options) with the real queries of calls whose mask may say how many tokens are real, and clears the
/// rows of the others. Options are those of one entry of n_heads heads, of which these may be some.
template <class Call, class Run>
void run_real_queries(std::span<Call> calls, Index n_heads, const AttentionOptions& options, const Run& run) {
  if (!has_lengths(options.mask)) return run(calls, options);
  const Index n_q = calls.front().q.rows;
  const RealTokens real = real_tokens_of(options, n_q, calls.front().k.rows, n_heads);
  for (Call& call : calls) {
    call.q.rows = call.out.rows = real.n_q;
    call.n_padding = n_q - real.n_q;
  }
  run(calls, real.options);
  for (Call& call : calls) {
    call.q.rows = call.out.rows = n_q;
    call.n_padding = 0;
    clear_rows(call, real.n_q);
  }
}

/// Runs one method over checked heads that lack their values, which `v` gives or makes.
template <class V, class Method, class Call>
void attend_values(const V& v, const Method& method, std::span<Call> calls, Index heads_per_kv,
                   const AttentionOptions& options, const Context& context) {
  run_real_queries(calls, static_cast<Index>(calls.size()), options,
                   [&](std::span<Call> real, const AttentionOptions& own) {
                     attend_real_queries(v, method, real, heads_per_kv, own, context);
                   });
}

}  // namespace heed::detail
