#pragma once
#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/kept_keys.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/merged_parts.hpp"
#include "heed/engine/softmax_engine.hpp"

namespace heed::detail {

/// A score functor that masks what `rule(i, j)` does not keep.
template <class Rule, class ScoreMod>
struct RuledScores {
  const Rule& rule;
  const ScoreMod& mod;

  template <class T>
  T operator()(T s, Index i, Index j) const {
    if (!rule(i, j)) return minus_infinity<T>;
    if constexpr (std::is_same_v<ScoreMod, NoScoreMod>) {
      return s;
    } else {
      return static_cast<T>(mod(s, i, j));
    }
  }
};

/// Whether a pattern has a pair: asked of the pattern where it can say, else of its tiles.
template <class Pattern>
class PatternMembers {
 public:
  static constexpr bool can_say = requires(const Pattern& p) { p.sees(Index(0), Index(0)); };

  PatternMembers(const Pattern& pattern, Index n_q, Workspace::Frame& frame) : pattern_(pattern) {
    if constexpr (!can_say) {
      group_of_ = frame.take<Index>(static_cast<std::size_t>(n_q));
      std::fill_n(group_of_, n_q, Index(-1));
      for (Index g = 0; g < pattern.n_groups(); ++g) {
        const TokenSet queries = pattern.queries(g);
        for (Index t = 0; t < queries.size; ++t) group_of_[queries[t]] = g;
      }
    }
  }

  bool operator()(Index i, Index j) const {
    if constexpr (can_say) {
      return pattern_.sees(i, j);
    } else {
      const Index group = group_of_[i];
      for (Index s = 0; group >= 0 && s < pattern_.n_segments(group); ++s) {
        const TokenSet keys = pattern_.keys(group, s);
        const Index at = tokens_below(keys, j);
        if (at < keys.size && keys[at] == j) return true;
      }
      return false;
    }
  }

 private:
  const Pattern& pattern_;
  Index* group_of_ = nullptr;
};

template <class A, class B>
class PatternMembers<PatternUnion<A, B>> {
 public:
  PatternMembers(const PatternUnion<A, B>& pattern, Index n_q, Workspace::Frame& frame)
      : first_(pattern.first, n_q, frame), second_(pattern.second, n_q, frame) {}
  bool operator()(Index i, Index j) const { return first_(i, j) || second_(i, j); }

 private:
  PatternMembers<A> first_;
  PatternMembers<B> second_;
};

/// No pair: what comes before the first part of a union.
struct NoPair {
  constexpr bool operator()(Index, Index) const { return false; }
};

/// Which pairs a score functor leaves.
template <class ScoreMod>
constexpr EveryPair pair_rule(const ScoreMod&) {
  return {};
}
template <class Rule, class ScoreMod>
const Rule& pair_rule(const RuledScores<Rule, ScoreMod>& mod) {
  return mod.rule;
}

/// Calls visit(pattern, score_mod) for the pairs of one KeyPattern without those of `others`.
template <KeyPattern Pattern, class Others, class ScoreMod, class Visit>
void visit_part(const Pattern& pattern, const Others& others, const ScoreMod& mod, const Visit& visit) {
  if constexpr (std::is_same_v<Others, NoPair> && !RefinedPattern<Pattern>) {
    visit(pattern, mod);
  } else {
    const auto rule = [&](Index i, Index j) {
      if constexpr (RefinedPattern<Pattern>) {
        if (!pattern.sees(i, j)) return false;
      }
      return !others(i, j);
    };
    visit(pattern, RuledScores<decltype(rule), ScoreMod>{rule, mod});
  }
}

/// Calls visit(pattern, score_mod) for disjoint KeyPatterns that together have the pairs of `pattern` without those of `others`.
template <PairPattern Pattern, class Others, class ScoreMod, class Visit>
void visit_parts(const Pattern& pattern, const Others& others, Index n_q, const ScoreMod& mod, Workspace& workspace,
                 const Visit& visit) {
  if constexpr (is_union<Pattern>) {
    visit_parts(pattern.first, others, n_q, mod, workspace, visit);
    Workspace::Frame frame(workspace);
    const PatternMembers members(pattern.first, n_q, frame);
    const auto seen = [&](Index i, Index j) { return others(i, j) || members(i, j); };
    visit_parts(pattern.second, seen, n_q, mod, workspace, visit);
  } else {
    visit_part(pattern, others, mod, visit);
  }
}

/// Adds the pairs of `pattern` that `mod` leaves to `parts`, which are of one head.
template <KeyPattern Pattern, class Call, class ScoreMod>
void run_part(const Pattern& pattern, MergedParts<Call>& parts, const AttentionOptions& options, const ScoreMod& mod,
              const Context& context) {
  const auto call = parts.next();
  run_engine(pattern, std::span(&call, 1), Index(1), options, mod, context, pair_rule(mod));
}

/// Adds the work of the parts of one head. Each has counted the tokens of the call; they are there once.
inline void add_parts(FlopCounter& flops, const FlopCounter& parts, const Mask& mask, Index n_k) {
  for (const Phase phase :
       {Phase::route, Phase::project, Phase::sample, Phase::scores, Phase::values, Phase::far_field})
    flops.add_products(phase, parts.products(phase));
  flops.add_exponentials(parts.exponentials());
  flops.add_tokens(static_cast<double>(std::min(mask.n_real_keys, n_k)), static_cast<double>(n_k));
}

/// Runs any pattern on checked calls and counts its work.
template <class Call, PairPattern Pattern, class ScoreMod>
void run_pattern(const Pattern& pattern, std::span<const Call> calls, Index heads_per_kv,
                 const AttentionOptions& options, const ScoreMod& mod, const Context& context) {
  if (calls.empty()) return;
  if constexpr (KeyPattern<Pattern>) {
    visit_part(pattern, NoPair{}, mod, [&](const auto& part, const auto& part_mod) {
      run_engine(part, calls, heads_per_kv, options, part_mod, context, pair_rule(part_mod));
    });
  } else {
    std::optional<Workspace> own;
    Context inner = context;
    inner.workspace = context.workspace != nullptr ? context.workspace : &own.emplace();
    FlopCounter flops;
    if (context.flops != nullptr) inner.flops = &flops;
    AttentionOptions without_sinks = options;
    without_sinks.sinks = PerHead();
    for (const Call& call : calls) {
      Workspace::Frame frame(*inner.workspace);
      MergedParts<Call> parts(call, frame, thread_count(context.threads));
      visit_parts(pattern, NoPair{}, parts.n_q(), mod, *inner.workspace, [&](const auto& part, const auto& part_mod) {
        run_part(part, parts, without_sinks, part_mod, inner);
      });
      parts.finish(options.sinks);
      if (context.flops == nullptr) continue;
      add_parts(*context.flops, flops, options.mask, call.k.rows);
      flops.reset();
    }
  }
}

}  // namespace heed::detail
