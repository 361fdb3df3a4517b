#pragma once
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/float_cache.hpp"
#include "heed/exact/int8_cache.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

namespace detail {
/// The tokens of a cache as operands of the engine.
template <class S>
struct CachedTokens {
  CachedTokens(const KeyValueCache<S>& of, Workspace::Frame&) : cache(of) {}
  ConstView<S> keys(Index head) const { return cache.keys(head); }
  ConstView<S> values(Index head) const { return cache.values(head); }

  const KeyValueCache<S>& cache;
};
template <>
struct CachedTokens<Int8> {
  CachedTokens(const KeyValueCache<Int8>& of, Workspace::Frame& frame) : heads(frame.take<Int8Rows>(of.n_kv_heads())) {
    for (Index h = 0; h < of.n_kv_heads(); ++h) new (heads + h) Int8Rows(of.tokens(h));
  }
  ConstView<Int8> keys(Index head) const { return {heads + head, heads[head].size, heads[head].layout.d}; }
  ConstView<Int8> values(Index head) const { return {heads + head, heads[head].size, heads[head].layout.d_v}; }

  Int8Rows* heads;
};

/// The heads of queries over a cache of any kind, checked.
template <class Cache>
PackedHeads heads_over(Index q_cols, const Cache& cache) {
  const PackedHeads packed{cache.d() > 0 ? q_cols / cache.d() : 0, cache.n_kv_heads(), cache.d(), cache.d_v()};
  if (packed.n_heads < 1 || packed.n_heads * packed.d != q_cols || packed.n_heads % packed.n_kv_heads != 0) {
    throw ShapeError(message("cols(q) = ", q_cols, " must be n_heads * d with d = ", packed.d,
                             " and n_heads a multiple of n_kv_heads = ", packed.n_kv_heads));
  }
  return packed;
}

/// Checks all but the outputs of a call over a cache, and returns its heads.
template <class Q, class S, class Method>
PackedHeads check_cached_heads(const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options,
                               const Method& method, const Context& context) {
  require_token_matrix<Q>();
  using SQ = OperandScalar<Q>;
  static_assert(RealScalar<SQ>,
                "heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 matrices; cast others first");
  static_assert(!std::is_same_v<S, Int8> || std::is_same_v<Accumulator<SQ>, float>,
                "heed: an 8-bit cache sums in float: cast double queries to float");
  static_assert(!std::is_same_v<S, Int8> || reads_no_keys<MethodOfHead<Method>>,
                "heed: an 8-bit cache has no rows of keys for methods that look at them: exact attention, windows and "
                "patterns of positions run over it");
  check_running(context);
  const PackedHeads packed = heads_over(q.cols(), cache);
  check_options<Accumulator<SQ>>(options, {q.rows(), cache.size(), packed.d, packed.d_v, packed.n_heads});
  check_methods(method, packed.n_heads, packed.n_kv_heads);
  return packed;
}

/// Calls of checked heads over the tokens of a cache.
template <class Call, class S>
std::span<Call> calls_over(const CachedTokens<S>& tokens, const ConstView<typename Call::Query>& q,
                           const View<typename Call::Out>& out, const View<typename Call::Sum>& lse,
                           const PackedHeads& packed, Workspace::Frame& frame) {
  const auto key_of = [&](Index h) { return tokens.keys(h); };
  const std::span<Call> calls = calls_of_heads<Call>(frame, q, key_of, out, lse, packed);
  for (Call& call : calls) call.v = tokens.values(call.head / packed.per_kv());
  return calls;
}

/// Runs checked heads over a cache.
template <class To, class Sum, class Q, class S, class Method>
void attend_cached_heads(const View<To>& out, const View<Sum>& lse, const Q& q, const KeyValueCache<S>& cache,
                         const PackedHeads& packed, const AttentionOptions& options, const Method& method,
                         const Context& context) {
  using Call = HeadCall<OperandScalar<Q>, S, To>;
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  const CachedTokens<S> tokens(cache, frame);
  const std::span<Call> calls = calls_over<Call>(tokens, view_of(q), out, lse, packed, frame);
  run_real_queries(calls, packed.n_heads, options, [&](std::span<Call> real, const AttentionOptions& own) {
    attend_all_heads(method, std::span<const Call>(real), packed.per_kv(), own, inner.context());
  });
}

}  // namespace detail

/// `attend` over a cache into storage the caller owns: out: n_q x (n_heads * d_v), lse: n_q x n_heads, or
/// nullptr or 0 x 0 where not wanted.
template <class Out, class Lse, class Q, class S, class Method = ExactAttention<>>
void attend_into(Out&& out, Lse&& lse, const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options = {},
                 const Method& method = {}, const Context& context = {}) {
  using SQ = detail::OperandScalar<Q>;
  auto to = detail::output_of<SQ>(std::forward<Out>(out));
  auto lse_to = detail::lse_output_of<SQ>(std::forward<Lse>(lse));
  const detail::PackedHeads packed = detail::check_cached_heads(q, cache, options, method, context);
  detail::check_head_outputs(to, lse_to, q.rows(), packed.n_heads, packed.d_v);
  detail::attend_cached_heads(to, lse_to, q, cache, packed, options, method, context);
}

/// Attention of new queries over the tokens of a cache (decoding): with several new tokens, already appended, ask for
/// Causal::bottom_right.
///
/// Shapes  q: n_q x (n_heads * d), n_heads a multiple of the cache's n_kv_heads; returns out: n_q x (n_heads * d_v) in
///         the scalar of q, lse: n_q x n_heads.
/// Cost    2 (d + d_v) flops per kept pair; a single query is bound by reading the cache once for up to four heads that
///         share it.
/// Threads over heads and chunks of keys, merged in order: the same bits for any context.threads.
template <class Q, class S, class Method = ExactAttention<>>
auto attend(const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options = {}, const Method& method = {},
            const Context& context = {}) -> MultiHeadResult<detail::OperandScalar<Q>> {
  const detail::PackedHeads packed = detail::check_cached_heads(q, cache, options, method, context);
  auto result = detail::result_of_heads<detail::OperandScalar<Q>, Method>(q.rows(), packed.n_heads, packed.d_v);
  detail::attend_cached_heads(output_view_of(result.out), output_view_of(result.lse), q, cache, packed, options, method,
                              context);
  return result;
}

/// The same without a method: exact attention.
template <class Out, class Lse, class Q, class S>
void attend_into(Out&& out, Lse&& lse, const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options,
                 const Context& context) {
  attend_into(std::forward<Out>(out), std::forward<Lse>(lse), q, cache, options, ExactAttention<>{}, context);
}

/// The same without a method: exact attention.
template <class Q, class S>
auto attend(const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options, const Context& context) {
  return attend(q, cache, options, ExactAttention<>{}, context);
}

}  // namespace heed
