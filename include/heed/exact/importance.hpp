#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/column_panel.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/check_pattern.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/run_method.hpp"

namespace heed {

/// What the weights A of a method say of each key: largest_j = max_i A_ij and norm_j = |A[:, j]|_2, over the queries of
/// all heads that share the key; both 0 for a key no query sees.
template <class T>
struct KeyImportance {
  Vector<T> largest;
  Vector<T> norm;
};

namespace detail {

/// Adds the columns of softmax weights: one pass for lse, one for columns, no n x n buffer. Counts its products as
/// Phase::route (they choose what is computed), 4 d and two exponentials per kept pair. `run` has been prepared; the
/// context brings a workspace.
template <class Call, class Run>
void add_softmax_columns(std::span<const Call> given, Index heads_per_kv, const AttentionOptions& options,
                         const Run& run, const Context& context, const ColumnSums<typename Call::Sum>& sums) {
  using T = typename Call::Sum;
  using Bare = HeadCall<typename Call::Query, typename Call::Key, T>;
  const Index n_q = given.front().q.rows, n_k = given.front().k.rows, n_calls = static_cast<Index>(given.size());
  const int threads = thread_count(context.threads);
  Workspace::Frame frame(*context.workspace);
  T* lse = frame.take<T>(n_calls * n_q);
  std::fill(lse, lse + n_calls * n_q, minus_infinity<T>);
  Bare* calls = frame.take<Bare>(n_calls);
  for (Index c = 0; c < n_calls; ++c) {
    const Call& call = given[static_cast<std::size_t>(c)];
    // No columns: the engine computes scores and lse only.
    new (calls + c) Bare{call.q,
                         call.k,
                         {call.k.data, n_k, 0, call.k.row_stride, call.k.col_stride},
                         {lse, n_q, 0, 0, 1},
                         lse + c * n_q,
                         1,
                         call.head};
  }
  const std::span<const Bare> bare(calls, given.size());
  run.run(bare, heads_per_kv, options, {.workspace = context.workspace, .threads = context.threads});
  run.visit_parts(bare, [&](const PairsPart& part, std::span<const Bare> some, Index first, const auto& mod) {
    const AttentionOptions masks = options_of(part, options);
    add_column_weights(part, some, first, heads_per_kv, masks, mod, sums, *context.workspace, threads);
    if (context.flops == nullptr) return;
    const double pairs =
        kept_pairs(part.tiles, part.rule, masks.mask, n_q, n_k, some.front().head, static_cast<Index>(some.size()));
    context.flops->add_products(Phase::route, 4.0 * pairs * static_cast<double>(some.front().k.cols));
    context.flops->add_exponentials(2.0 * pairs);
  });
}

/// largest[kv * n_k + j] and norm[kv * n_k + j] for calls that need no values, by whichever way their method has. `run`
/// has been prepared; the context brings a workspace.
template <class Call, class Run>
void key_importance(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run& run,
                    const Context& context, const ColumnSums<typename Call::Sum>& sums) {
  using T = typename Call::Sum;
  const Index n_sums = static_cast<Index>(calls.size()) / heads_per_kv * calls.front().k.rows;
  std::fill_n(sums.largest, n_sums, T(0));
  std::fill_n(sums.squares, n_sums, T(0));
  if constexpr (Run::template weighs_keys<Call>()) {
    run.add_column_weights(calls, heads_per_kv, options, sums, context);
  } else {
    run.check_key_weights();
    add_softmax_columns(calls, heads_per_kv, options, run, context, sums);
  }
  for (Index j = 0; j < n_sums; ++j) sums.squares[j] = std::sqrt(sums.squares[j]);
}

template <class S, class Q, class K, class Method>
KeyImportance<Accumulator<S>> importance_of(const Q& q, const K& k, const AttentionOptions& given, const Method& method,
                                            const Context& context) {
  using T = Accumulator<S>;
  using Call = HeadCall<S, S, T>;
  Call call{view_of(q), view_of(k), {}, {}};
  const std::span<const Call> calls(&call, 1);
  check_head(call, {call.k.rows, 0}, given, context);
  const RealTokens real = real_tokens_of(given, call.q.rows, call.k.rows, 1);
  const AttentionOptions& options = real.options;
  call.n_padding = call.q.rows - real.n_q;  // which gives no weight
  call.q.rows = real.n_q;
  check_heads_of(method, shape_of(calls), options);
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  MethodRun<Method> run(method, frame);
  run.check_key_weights();
  run.prepare(calls, Index(1), options, inner.context());
  KeyImportance<T> result{Vector<T>::Zero(call.k.rows), Vector<T>::Zero(call.k.rows)};
  if (call.q.rows == 0 || call.k.rows == 0) return result;
  key_importance(calls, Index(1), options, run, inner.context(),
                 ColumnSums<T>{result.largest.data(), result.norm.data()});
  return result;
}

}  // namespace detail

/// Column maxima and column norms of the weights A of one head, out = A v: importance[j] = max_i A_ij, the largest
/// weight any query gives key j, and |A[:, j]|_2. A is the softmax over the pairs of the method, or what TcAttention
/// gives a key through the nodes it shares with a query.
///
/// Shapes  q: n_q x d, k: n_k x d, any TokenMatrix; returns two vectors of n_k.
/// Empty   0 for keys no query sees; a query without keys gives no weight, and neither does one whose row holds NaN.
/// Errors  as attend. The method must have a softmax over pairs that it names or weigh keys itself (core/method.hpp),
///         or this does not compile.
/// Cost    two passes over the kept pairs, 4 d flops and two exponentials each; no n x n buffer, memory O(n_q + n_k).
///         TcAttention: one pass over tokens, O((n_q + n_k) h) beside routing.
/// Threads the same bits for any context.threads.
/// Source  Kim and Ko 2022, section 3 (importance); how: this library.
template <class Q, class K, class Method = ExactAttention<>>
auto key_importance(const Q& q, const K& k, const AttentionOptions& options = {}, const Method& method = {},
                    const Context& context = {}) -> KeyImportance<Accumulator<detail::OperandScalar<Q>>> {
  detail::require_operands<Q, K, K>();
  using S = detail::OperandScalar<Q>;
  using Call = detail::HeadCall<S, S, Accumulator<S>>;
  static_assert(
      detail::NamesPairs<Method, Call> || detail::WeighsKeys<Method, Call>,
      "heed: importance needs a method with a softmax over pairs that it names (pairs), or one that weighs keys "
      "itself (add_column_weights): see core/method.hpp");
  return detail::importance_of<S>(q, k, options, method, context);
}

/// The same over the pairs of a pattern.
template <PairPattern Pattern, class Q, class K, class ScoreMod = NoScoreMod>
auto key_importance_over(const Pattern& pattern, const Q& q, const K& k, const AttentionOptions& options = {},
                         const Context& context = {}, const ScoreMod& score_mod = {})
    -> KeyImportance<Accumulator<detail::OperandScalar<Q>>> {
  detail::require_operands<Q, K, K>();
  const detail::WithWorkspace inner(context);
  detail::check_pattern(pattern, q.rows(), k.rows(), inner.workspace());
  return detail::importance_of<detail::OperandScalar<Q>>(
      q, k, options, detail::OverPattern<Pattern, ScoreMod>{pattern, score_mod}, inner.context());
}

}  // namespace heed
