#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/detail/merged_parts.hpp"
#include "heed/engine/detail/score_rule.hpp"
#include "heed/engine/detail/softmax_engine.hpp"
#include "heed/engine/pairs.hpp"
#ifdef HEED_COMPILED
#include "heed/engine/detail/compiled.hpp"
#endif

namespace heed::detail {

/// The calls of a group.
template <class Call>
std::span<const Call> calls_of(const PairsGroup& group, std::span<const Call> calls) {
  return calls.subspan(static_cast<std::size_t>(group.first_call), static_cast<std::size_t>(group.n_calls));
}

/// Adds the pairs of a part to those of one head.
template <class Call, class ScoreMod>
void run_part(const PairsPart& part, MergedParts<Call>& parts, const AttentionOptions& options, const ScoreMod& mod,
              const Context& context) {
  const auto call = parts.next();
  run_part(part, std::span(&call, 1), Index(1), options, mod, context);
}

/// Runs the heads of one group: parts one after the other, merged by their log-sum-exp; `add_more(parts)` adds to one
/// head's what is no pair of keys. The context brings a workspace.
template <class Call, class ScoreMod, class AddMore>
void run_merged(const PairsGroup& group, std::span<const Call> calls, const AttentionOptions& options,
                const ScoreMod& mod, const Context& context, const AddMore& add_more) {
  AttentionOptions without_sinks = options;
  without_sinks.sinks = PerHead();
  for (const Call& call : calls_of(group, calls)) {
    Workspace::Frame frame(*context.workspace);
    const auto factor = softmax_factor_of<typename Call::Sum, ScoreMod>(without_sinks, call.k.cols, call.head);
    MergedParts<Call> parts(call, factor, frame, thread_count(context.threads));
    for (const PairsPart* part = group.parts; part != nullptr; part = part->next) {
      run_part(*part, parts, without_sinks, mod, context);
      if (part == group.parts) add_more(parts, without_sinks);
    }
    parts.finish(options.sinks);
  }
}

/// Rows of queries without keys, from `first` on.
template <class Call>
void clear_rows(const Call& call, Index first = 0) {
  for (Index i = first; i < call.q.rows; ++i) {
    for (Index c = 0; c < call.out.cols; ++c) call.out(i, c) = static_cast<typename Call::Out>(0.0f);
    if (call.lse != nullptr) call.lse[i * call.lse_stride] = minus_infinity<typename Call::Sum>;
  }
}

/// Softmax attention of all heads of a call over their pairs, and its counts. The context brings a workspace.
template <class Call, class ScoreMod>
void run_pairs(const Pairs& pairs, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
               const ScoreMod& mod, const Context& context) {
  if (calls.empty()) return;
  for (const PairsGroup* group = pairs.groups(); group != nullptr; group = group->next) {
    if (!group->is_one_part()) {
      run_merged(*group, calls, options, mod, context, [](auto&, const AttentionOptions&) {});
      continue;
    }
    const std::span<const Call> mine = calls_of(*group, calls);
    if (!group->names_every_query) std::for_each(mine.begin(), mine.end(), [](const Call& call) { clear_rows(call); });
    run_part(*group->parts, mine, std::min(heads_per_kv, group->n_calls), options, mod, context);
  }
  if (context.flops != nullptr)
    count_tokens(*context.flops, options.mask, calls.front().k.rows, static_cast<Index>(calls.size()));
}

}  // namespace heed::detail
