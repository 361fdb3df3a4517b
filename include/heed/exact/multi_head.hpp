#pragma once
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"

namespace heed {

namespace detail {

/// Width of one head in packed rows of n_heads heads; `heads`: the option they are from.
inline Index head_width(Index cols, Index n_heads, const char* name, const char* heads) {
  if (cols % n_heads != 0)
    throw ShapeError(message("cols(", name, ") = ", cols, " must be a multiple of ", heads, " = ", n_heads));
  return cols / n_heads;
}

inline Index kv_heads_of(const HeadOptions& heads) {
  if (heads.n_heads < 1) throw OptionError(message("HeadOptions::n_heads = ", heads.n_heads, " must be >= 1"));
  checked_size(heads.n_heads, "HeadOptions::n_heads");
  const Index n_kv_heads = heads.n_kv_heads.value_or(heads.n_heads);
  if (n_kv_heads < 1 || heads.n_heads % n_kv_heads != 0) {
    throw OptionError(message("HeadOptions::n_kv_heads = ", n_kv_heads, " must divide n_heads = ", heads.n_heads));
  }
  return n_kv_heads;
}

template <class Method>
void check_methods(const Method& method, Index n_heads, Index n_kv_heads) {
  if constexpr (method_list<Method>) {
    const auto n = static_cast<Index>(method.size());
    if (n != n_heads && n != n_kv_heads) {
      throw OptionError(message("method has ", n, " entries but must be one, one per head (", n_heads,
                                ") or one per key/value head (", n_kv_heads, ")"));
    }
  }
}

/// Widths of the heads of packed rows.
struct PackedHeads {
  Index n_heads = 1, n_kv_heads = 1, d = 0, d_v = 0;
  Index per_kv() const { return n_heads / n_kv_heads; }
};

/// Checks packed q and k, values over all key heads, heads and options.
template <class Q, class K, class Method>
PackedHeads check_heads(const Q& q, const K& k, const ValueShape& values, const HeadOptions& heads,
                        const AttentionOptions& options, const Method& method, const Context& context) {
  check_running(context);
  PackedHeads packed{heads.n_heads, kv_heads_of(heads)};
  const char* const kv_heads = heads.n_kv_heads ? "n_kv_heads" : "n_heads";  // the one that was given
  packed.d = head_width(q.cols(), packed.n_heads, "q", "n_heads");
  const Index d_k = head_width(k.cols(), packed.n_kv_heads, "k", kv_heads);
  packed.d_v = head_width(values.cols, packed.n_kv_heads, values.columns_from, kv_heads);
  const CallShape shape{q.rows(), k.rows(), d_k, packed.d_v, packed.n_heads};
  check_attention<Accumulator<OperandScalar<Q>>>(packed.d, k.rows(), d_k, values.rows, shape, options,
                                                 values.rows_from);
  check_methods(method, packed.n_heads, packed.n_kv_heads);
  return packed;
}

/// Writable view of the lse of all heads; 0 x 0 where it is nullptr: not wanted.
template <class S, class Lse>
View<Accumulator<S>> lse_output_of(Lse&& lse) {
  if constexpr (std::is_null_pointer_v<std::remove_cvref_t<Lse>>) {
    return {};
  } else {
    auto view = output_view_of(std::forward<Lse>(lse));
    static_assert(std::is_same_v<typename decltype(view)::Scalar, Accumulator<S>>,
                  "heed: lse must have the scalar sums are kept in: double for double, float otherwise");
    return view;
  }
}

/// Checks the outputs of all heads; where lse is 0 x 0 it is not wanted, and its data null from here on.
template <class Out, class Sum>
void check_head_outputs(const View<Out>& out, View<Sum>& lse, Index n_q, Index n_heads, Index d_v) {
  check_output(out.rows, out.cols, n_q, n_heads * d_v);
  const bool no_lse = lse.rows == 0 && lse.cols == 0;
  if (!no_lse && (lse.rows != n_q || lse.cols != n_heads)) {
    throw ShapeError(
        message("lse is ", lse.rows, " x ", lse.cols, " but must be rows(q) x n_heads = ", n_q, " x ", n_heads));
  }
  if (no_lse) lse.data = nullptr;
}

/// Calls of heads from packed queries and outputs, which may be empty views, and without values; `key_of(h)` gives the
/// keys of key head h.
template <class Call, class KeyOf>
std::span<Call> calls_of_heads(Workspace::Frame& frame, const ConstView<typename Call::Query>& q, const KeyOf& key_of,
                               const View<typename Call::Out>& out, const View<typename Call::Sum>& lse,
                               const PackedHeads& packed) {
  const Index n_heads = packed.n_heads, d = q.cols / n_heads, d_v = out.cols / n_heads;
  Call* calls = frame.take<Call>(n_heads);
  for (Index h = 0; h < n_heads; ++h) {
    new (calls + h) Call{q.columns(h * d, d),
                         key_of(h / packed.per_kv()),
                         {},
                         out.columns(h * d_v, d_v),
                         lse.data == nullptr ? nullptr : &lse(0, h),
                         lse.row_stride,
                         h};
  }
  return {calls, static_cast<std::size_t>(n_heads)};
}

/// The same with the keys of all heads side by side.
template <class Call>
std::span<Call> packed_calls(Workspace::Frame& frame, const ConstView<typename Call::Query>& q,
                             const ConstView<typename Call::Key>& k, const View<typename Call::Out>& out,
                             const View<typename Call::Sum>& lse, const PackedHeads& packed) {
  const auto key_of = [&](Index h) { return k.columns(h * packed.d, packed.d); };
  return calls_of_heads<Call>(frame, q, key_of, out, lse, packed);
}

/// Runs checked operands whose rows hold all heads.
template <class To, class Sum, class Q, class K, class V, class Method>
void attend_packed(const View<To>& out, const View<Sum>& lse, const Q& q, const K& k, const V& v,
                   const PackedHeads& packed, const AttentionOptions& options, const Method& method,
                   const Context& context) {
  using S = OperandScalar<Q>;
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  const auto calls = packed_calls<HeadCall<S, S, To>>(frame, view_of(q), view_of(k), out, lse, packed);
  attend_values(v, method, calls, packed.per_kv(), options, inner.context());
}

/// Room for the result of all heads.
template <class S, class Method>
MultiHeadResult<S> result_of_heads(Index n_q, Index n_heads, Index d_v) {
  MultiHeadResult<S> result;
  result.out.resize(n_q, n_heads * d_v);
  if constexpr (returns_lse<Method>()) result.lse.resize(n_q, n_heads);
  return result;
}

}  // namespace detail

/// `multi_head_attend` into storage the caller owns; nothing is allocated with a grown Workspace.
///
/// Shapes  out: n_q x (n_heads * d_v), lse: n_q x n_heads, or nullptr or 0 x 0: not wanted.
/// Errors  as multi_head_attend; out and lse are untouched when it throws, but for what attend_into says.
template <class Out, class Lse, class Q, class K, class V, class Method = ExactAttention<>>
void multi_head_attend_into(Out&& out, Lse&& lse, const Q& q, const K& k, const V& v, const HeadOptions& heads,
                            const AttentionOptions& options = {}, const Method& method = {},
                            const Context& context = {}) {
  detail::require_call_operands<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  auto to = detail::output_of<S>(std::forward<Out>(out));
  auto lse_to = detail::lse_output_of<S>(std::forward<Lse>(lse));
  const detail::PackedHeads packed =
      detail::check_heads(q, k, detail::shape_of_values(v), heads, options, method, context);
  detail::check_head_outputs(to, lse_to, q.rows(), packed.n_heads, packed.d_v);
  detail::attend_packed(to, lse_to, q, k, v, packed, options, method, context);
}

/// Attention of all heads over packed rows, without copies: query head h is columns h*d .. (h+1)*d - 1 of q and attends
/// with key/value head h / (n_heads / n_kv_heads).
///
/// Shapes  q: n_q x (n_heads * d), k: n_k x (n_kv_heads * d), v: n_k x (n_kv_heads * d_v), or a value source of such
///         rows; returns out: n_q x (n_heads * d_v), lse: n_q x n_heads, 0 x 0 for methods without a softmax. Masks
///         with n_heads * n_q rows differ between heads.
/// Method  one for all heads, or a list (vector, span) of one per head or one per key/value head.
/// Errors  as attend, and OptionError unless n_kv_heads divides n_heads.
/// Cost    n_heads times one head; keys shared by several heads are read from memory once when decoding.
/// Threads parallel over heads and queries; per head the same bits as `attend` on its columns.
template <class Q, class K, class V, class Method = ExactAttention<>>
auto multi_head_attend(const Q& q, const K& k, const V& v, const HeadOptions& heads,
                       const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {})
    -> MultiHeadResult<detail::OperandScalar<Q>> {
  detail::require_call_operands<Q, K, V>();
  const detail::PackedHeads packed =
      detail::check_heads(q, k, detail::shape_of_values(v), heads, options, method, context);
  auto result = detail::result_of_heads<detail::OperandScalar<Q>, Method>(q.rows(), packed.n_heads, packed.d_v);
  detail::attend_packed(output_view_of(result.out), output_view_of(result.lse), q, k, v, packed, options, method,
                        context);
  return result;
}

}  // namespace heed
