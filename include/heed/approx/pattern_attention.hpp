#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/run_pattern.hpp"
#include "heed/exact/attend_over.hpp"

namespace heed {

/// Any pattern as a method: softmax over the pairs of `pattern_for(n_q, n_k)`, a KeyPattern or a PatternUnion, that the mask keeps.
///
///     attend(q, k, v, {}, PatternAttention{[](Index n_q, Index n_k) { return MyPattern{n_q, n_k}; }});
///
/// Empty   a query with no kept key, or in no group, gets out = 0 and lse = -inf.
/// Errors  as attend_over.
/// Cost    2 (d + d_v) flops and one exponential per kept pair.
/// Threads const and re-entrant if `pattern_for` is; results do not depend on context.threads.
/// Source  as attend_over.
template <class PatternFor>
class PatternAttention {
 public:
  static constexpr bool has_softmax = true;

  explicit PatternAttention(PatternFor pattern_for) : pattern_for_(std::move(pattern_for)) {}

  /// The method interface: see ExactAttention.
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows;
    const auto pattern = pattern_for_(n_q, n_k);
    static_assert(PairPattern<std::remove_cv_t<decltype(pattern)>>,
                  "heed: pattern_for(n_q, n_k) must return a KeyPattern or a PatternUnion (core/pattern.hpp)");
    detail::check_pattern(pattern, n_q, n_k);
    for (const Call& call : calls) {  // queries in no group are written by nobody else
      for (Index i = 0; i < n_q; ++i) {
        for (Index c = 0; c < call.out.cols; ++c) call.out(i, c) = static_cast<typename Call::Out>(0.0f);
        if (call.lse != nullptr) call.lse[i * call.lse_stride] = detail::minus_infinity<typename Call::Sum>;
      }
    }
    detail::run_pattern(pattern, calls, heads_per_kv, options, NoScoreMod{}, context);
  }

  template <class Call, class Visit>
  void visit_pattern(std::span<const Call> calls, const AttentionOptions& options, const Context& context,
                     const Visit& visit) const {
    if (calls.empty()) return;
    const Index n_q = calls.front().q.rows;
    const auto pattern = pattern_for_(n_q, calls.front().k.rows);
    detail::visit_parts(pattern, detail::NoPair{}, n_q, NoScoreMod{}, *context.workspace,
                        [&](const auto& part, const auto& mod) { visit(calls, part, mod, options); });
  }

 private:
  PatternFor pattern_for_;
};

}  // namespace heed
