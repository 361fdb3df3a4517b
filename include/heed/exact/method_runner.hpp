#pragma once
#include <cstddef>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/column_panel.hpp"
#include "heed/engine/run_pattern.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed::detail {

/// A method whose pairs are those of patterns: `visit_pattern(calls, options, context, visit)` calls
/// visit(some_of_the_calls, pattern, score_mod, options) with disjoint patterns until every pair of every call was named. Its lse must
/// be that of the softmax over these pairs.
template <class Method, class Call>
concept HasPattern = requires(const Method& method, std::span<const Call> calls, const AttentionOptions& options,
                              const Context& context) {
  method.visit_pattern(calls, options, context, [](auto, const auto&, const auto&, const auto&) {});
};

/// A method that weighs keys without a score for each pair, and says what its weights make of each:
/// `add_column_weights(calls, heads_per_kv, options, sums, context)` adds to sums of key head c / heads_per_kv what call c gives it. Context
/// brings a workspace.
template <class Method, class Call>
concept WeighsKeys = requires(const Method& method, std::span<const Call> calls, const AttentionOptions& options,
                              const ColumnSums<typename Call::Sum>& sums, const Context& context) {
  method.add_column_weights(calls, Index(1), options, sums, context);
};

/// Runs heads through a method, or through a list of them.
template <class Method>
struct MethodRunner {
  using One = MethodOfHead<Method>;
  const Method& method;

  /// True where the method writes log-sum-exp values.
  static constexpr bool has_softmax() { return returns_lse<Method>(); }
  template <class Call>
  static constexpr bool has_pattern() {
    return HasPattern<One, Call>;
  }
  template <class Call>
  static constexpr bool weighs_keys() {
    return WeighsKeys<One, Call>;
  }
  /// True where queries see every key that the mask keeps.
  static constexpr bool sees_all_keys() {
    return requires { requires One::sees_all_keys; };
  }
  /// Throws where the methods cannot tell what single keys weigh, though others of their kind can.
  void check_key_weights() const {
    if constexpr (requires(const One& one) { one.check_key_weights(); }) {
      if constexpr (method_list<Method>) {
        for (std::size_t m = 0; m < method.size(); ++m) method[m].check_key_weights();
      } else {
        method.check_key_weights();
      }
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
    if constexpr (method_list<Method>) {
      for_each_method(method, calls.size(), [&](const One& one, std::size_t first, std::size_t n) {
        one.visit_pattern(calls.subspan(first, n), options, context, visit);
      });
    } else {
      method.visit_pattern(calls, options, context, visit);
    }
  }
  template <class Call>
  void weigh_keys(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                  const ColumnSums<typename Call::Sum>& sums, const Context& context) const {
    if constexpr (method_list<Method>) {
      for_each_method(method, calls.size(), [&](const One& one, std::size_t first, std::size_t n) {
        const Index offset = static_cast<Index>(first) / heads_per_kv * calls.front().k.rows;
        one.add_column_weights(calls.subspan(first, n), static_cast<Index>(n), options,
                               ColumnSums<typename Call::Sum>{sums.largest + offset, sums.squares + offset}, context);
      });
    } else {
      method.add_column_weights(calls, heads_per_kv, options, sums, context);
    }
  }
};

/// Runs heads over one pattern, a union or not.
template <PairPattern Pattern, class ScoreMod>
struct PatternRunner {
  const Pattern& pattern;
  const ScoreMod& score_mod;

  static constexpr bool has_softmax() { return true; }
  static constexpr bool sees_all_keys() { return std::is_same_v<Pattern, DensePattern>; }
  void check_key_weights() const {}
  template <class Call>
  static constexpr bool has_pattern() {
    return true;
  }
  template <class Call>
  static constexpr bool weighs_keys() {
    return false;
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

}  // namespace heed::detail
