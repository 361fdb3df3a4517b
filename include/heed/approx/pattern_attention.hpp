#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/pattern_pairs.hpp"
#include "heed/exact/check_pattern.hpp"

namespace heed {

/// Any pattern as a method: softmax over the pairs of `pattern_for(n_q, n_k)`, a KeyPattern or a PatternUnion, that the
/// mask keeps.
///
///     attend(q, k, v, {}, PatternAttention{[](Index n_q, Index n_k) { return MyPattern{n_q, n_k}; }});
///
/// Empty   a query with no kept key, or in no group, gets out = 0 and lse = -inf, or its sink.
/// Errors  as attend_over, and what `pattern_for` throws: before anything is written.
/// Cost    2 (d + d_v) flops and one exponential per kept pair.
/// Threads const and re-entrant if `pattern_for` is; results do not depend on context.threads.
/// Source  as attend_over.
template <class PatternFor>
class PatternAttention {
 public:
  static constexpr bool has_softmax = true;
  static constexpr bool reads_no_keys = true;

  explicit PatternAttention(PatternFor pattern_for) : pattern_for_(std::move(pattern_for)) {}

  /// See core/method.hpp.
  template <class Call>
  detail::Pairs pairs(std::span<const Call> calls, Index, const AttentionOptions&, const Context& context,
                      Workspace::Frame& frame) const {
    const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows;
    detail::Pairs pairs(frame);
    const Index n_rows = n_q + calls.front().n_padding;  // what the caller knows as rows(q)
    const auto& pattern = pairs.keep(pattern_for_(n_rows, n_k));
    static_assert(PairPattern<std::remove_cvref_t<decltype(pattern)>>,
                  "heed: pattern_for(n_q, n_k) must return a KeyPattern or a PatternUnion (core/pattern.hpp)");
    detail::check_pattern(pattern, n_rows, n_k, *context.workspace);
    detail::add_pattern(pairs, pattern, n_q, static_cast<Index>(calls.size()));
    return pairs;
  }

 private:
  PatternFor pattern_for_;
};

}  // namespace heed
