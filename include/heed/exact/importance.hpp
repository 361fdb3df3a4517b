#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <new>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/column_weights.hpp"
#include "heed/exact/count.hpp"
#include "heed/exact/engine.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/head_call.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/run_pattern.hpp"

namespace heed {

/// What the softmax weights A say of each key: largest_j = max_i A_ij and norm_j = |A[:, j]|_2, over the queries of all heads that share
/// the key; both 0 for a key no query sees.
template <class T>
struct KeyImportance {
  Vector<T> largest;
  Vector<T> norm;
};

namespace detail {

/// A method whose pairs are those of patterns: `visit_pattern(calls, options, context, visit)` calls
/// visit(some_of_the_calls, pattern, score_mod, options) with disjoint patterns until every pair of every call was named. Its lse must
/// be that of the softmax over these pairs.
template <class Method, class Call>
concept HasPattern = requires(const Method& method, std::span<const Call> calls, const AttentionOptions& options,
                              const Context& context) {
  method.visit_pattern(calls, options, context, [](auto, const auto&, const auto&, const auto&) {});
};

/// Runs heads through a method, or one method per head.
template <class Method>
struct MethodRunner {
  const Method& method;

  /// True where the method writes log-sum-exp values.
  static constexpr bool has_softmax() {
    if constexpr (requires(const Method& m) { m[0]; }) {
      return std::remove_cvref_t<decltype(std::declval<const Method&>()[0])>::has_softmax;
    } else {
      return Method::has_softmax;
    }
  }

  template <class Call>
  static constexpr bool has_pattern() {
    if constexpr (requires(const Method& m) { m[0]; }) {
      return HasPattern<std::remove_cvref_t<decltype(std::declval<const Method&>()[0])>, Call>;
    } else {
      return HasPattern<Method, Call>;
    }
  }
  template <class Call>
  void run(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
           const Context& context) const {
    attend_all_heads(method, calls, heads_per_kv, options, context);
  }
  template <class Call, class Visit>
  void visit(std::span<const Call> calls, const AttentionOptions& options, const Context& context,
             const Visit& visit) const {
    if constexpr (requires(const Method& m) { m[0]; }) {
      for (std::size_t h = 0; h < calls.size(); ++h)
        method[h].visit_pattern(calls.subspan(h, 1), options, context, visit);
    } else {
      method.visit_pattern(calls, options, context, visit);
    }
  }
};

/// Runs heads over one pattern, a union or not.
template <PairPattern Pattern, class ScoreMod>
struct PatternRunner {
  const Pattern& pattern;
  const ScoreMod& score_mod;

  static constexpr bool has_softmax() { return true; }
  template <class Call>
  static constexpr bool has_pattern() {
    return true;
  }
  template <class Call>
  void run(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
           const Context& context) const {
    run_pattern(pattern, calls, heads_per_kv, options, score_mod, context);
  }
  template <class Call, class Visit>
  void visit(std::span<const Call> calls, const AttentionOptions& options, const Context& context,
             const Visit& visit) const {
    visit_parts(pattern, NoPair{}, calls.front().q.rows, score_mod, *context.workspace,
                [&](const auto& part, const auto& mod) { visit(calls, part, mod, options); });
  }
};

/// largest[kv * n_k + j] and norm[kv * n_k + j] for calls that need no values: one pass for lse, one for columns, no n x n buffer. Counts
/// its products as Phase::route (they choose what is computed), 4 d and two exponentials per kept pair.
template <class Call, class Runner>
void key_importance(std::span<const Call> given, Index heads_per_kv, const AttentionOptions& options,
                    const Runner& runner, const Context& context, Workspace& workspace,
                    const ColumnSums<typename Call::Sum>& sums) {
  using T = typename Call::Sum;
  using Bare = HeadCall<typename Call::Query, typename Call::Key, T>;
  const Index n_q = given.front().q.rows, n_k = given.front().k.rows, n_calls = static_cast<Index>(given.size());
  const int threads = thread_count(context.threads);
  Workspace::Frame frame(workspace);
  T* lse = frame.take<T>(static_cast<std::size_t>(n_calls * n_q));
  std::fill(lse, lse + n_calls * n_q, minus_infinity<T>);
  Bare* calls = frame.take<Bare>(given.size());
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
  FlopCounter work;  // of the method: what it spends on choosing pairs counts, what it spends on pairs is counted below
  const Context inner{
      .flops = context.flops == nullptr ? nullptr : &work, .workspace = &workspace, .threads = context.threads};
  runner.run(bare, heads_per_kv, options, inner);
  const auto n_sums = static_cast<std::size_t>(n_calls / heads_per_kv * n_k);
  std::fill(sums.largest, sums.largest + n_sums, T(0));
  std::fill(sums.squares, sums.squares + n_sums, T(0));
  runner.visit(bare, options, inner,
               [&](std::span<const Bare> some, const auto& pattern, const auto& mod, const AttentionOptions& masks) {
                 const Index first = some.data() - calls;
                 add_column_weights(
                     pattern, some, masks, mod, [&](Index c) { return (first + c) / heads_per_kv; }, sums, workspace,
                     threads);
                 if (context.flops == nullptr) return;
                 double pairs = 0;
                 for (const Bare& call : some)
                   pairs += kept_pairs(pattern, masks.mask, n_q, n_k, call.head, pair_rule(mod));
                 context.flops->add_products(Phase::route, 4.0 * pairs * static_cast<double>(some.front().k.cols));
                 context.flops->add_exponentials(2.0 * pairs);
               });
  if (context.flops != nullptr) context.flops->add_products(Phase::route, work.products(Phase::route));
  for (std::size_t j = 0; j < n_sums; ++j) sums.squares[j] = std::sqrt(sums.squares[j]);
}

template <class S, class Q, class K, class Runner>
KeyImportance<Accumulator<S>> importance_of(const Q& q, const K& k, const AttentionOptions& options,
                                            const Runner& runner, const Context& context) {
  using T = Accumulator<S>;
  using Call = HeadCall<S, S, T>;
  const Call call{view_of(q), view_of(k), {}, {}};
  check_attention(call.q.cols, call.k.rows, call.k.cols, call.k.rows, {call.q.rows, call.k.rows, call.k.cols, 0},
                  options);
  KeyImportance<T> result{Vector<T>::Zero(call.k.rows), Vector<T>::Zero(call.k.rows)};
  if (call.q.rows == 0 || call.k.rows == 0) return result;
  std::optional<Workspace> own;
  Workspace& workspace = context.workspace != nullptr ? *context.workspace : own.emplace();
  key_importance(std::span<const Call>(&call, 1), Index(1), options, runner, context, workspace,
                 ColumnSums<T>{result.largest.data(), result.norm.data()});
  return result;
}

}  // namespace detail

/// Column maxima and column norms of the softmax weights of one head: importance[j] = max_i A_ij, the largest weight any query gives key
/// j, and |A[:, j]|_2.
///
/// Shapes  q: n_q x d, k: n_k x d, any TokenMatrix; returns two vectors of n_k.
/// Empty   0 for keys no query sees; a query without keys gives no weight, and neither does one whose row holds NaN.
/// Errors  as attend. The method must have a softmax over a pattern of pairs (detail::HasPattern), or this does not compile.
/// Cost    two passes over the kept pairs, 4 d flops and two exponentials each; no n x n buffer, memory O(n_q + n_k).
/// Threads the same bits for any context.threads.
/// Source  Kim and Ko 2022, section 3 (importance); two passes: this library.
template <class Q, class K, class Method = ExactAttention<>>
auto key_importance(const Q& q, const K& k, const AttentionOptions& options = {}, const Method& method = {},
                    const Context& context = {}) -> KeyImportance<Accumulator<detail::OperandScalar<Q>>> {
  detail::require_operands<Q, K, K>();
  using S = detail::OperandScalar<Q>;
  static_assert(detail::MethodRunner<Method>::template has_pattern<detail::HeadCall<S, S, Accumulator<S>>>(),
                "heed: importance needs a method with a softmax over a pattern of pairs (visit_pattern)");
  return detail::importance_of<S>(q, k, options, detail::MethodRunner<Method>{method}, context);
}

/// The same over the pairs of a pattern.
template <PairPattern Pattern, class Q, class K, class ScoreMod = NoScoreMod>
auto key_importance_over(const Pattern& pattern, const Q& q, const K& k, const AttentionOptions& options = {},
                         const Context& context = {}, const ScoreMod& score_mod = {})
    -> KeyImportance<Accumulator<detail::OperandScalar<Q>>> {
  detail::require_operands<Q, K, K>();
  detail::check_pattern(pattern, q.rows(), k.rows());
  return detail::importance_of<detail::OperandScalar<Q>>(
      q, k, options, detail::PatternRunner<Pattern, ScoreMod>{pattern, score_mod}, context);
}

}  // namespace heed
