#pragma once
#include <algorithm>
#include <cmath>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/detail/gradient_part.hpp"
#include "heed/engine/detail/score_rule.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/engine/split_lse.hpp"

namespace heed::detail {

/// Adds the sink of a head, if it has one, to its split log-sum-exp.
template <class ScoreMod, class Call>
void add_sink_to_split(const Call& call, AttentionOptions options) {
  using T = typename Call::Sum;
  if (!options.sinks.given()) return;
  const double sink = options.sinks.of(call.head);
  options.sinks = PerHead();
  const T factor = softmax_factor_of<T, ScoreMod>(options, call.k.cols, call.head);
  for (Index i = 0; i < call.q.rows; ++i) call.split_lse[i] = call.split_lse[i].plus(SplitLse::of_sink(sink, factor));
}

/// Finds the split log-sum-exp of one head, sink and all, over the pairs of its group.
template <class Call, class ScoreMod>
void find_split_lse(const PairsGroup& group, const Call& call, const AttentionOptions& options, const ScoreMod& mod,
                    const Context& context) {
  using T = typename Call::Sum;
  using ScoresOnly = HeadCall<typename Call::Query, typename Call::Key, T>;
  const Index n_q = call.q.rows;
  AttentionOptions of_part = options;
  if (!group.is_one_part()) of_part.sinks = PerHead();
  Workspace::Frame frame(*context.workspace);
  SplitLse* found = frame.take<SplitLse>(n_q);
  FlopCounter flops;
  const Context inside{&flops, context.workspace, context.threads};
  for (const PairsPart* part = group.parts; part != nullptr; part = part->next) {
    std::fill_n(found, n_q, SplitLse{});
    const View<T> no_out{nullptr, n_q, 0, 0, 1};
    const ScoresOnly one{call.q, call.k, call.v.columns(0, 0), no_out, nullptr, 1, call.head, found};
    run_part(*part, std::span(&one, 1), Index(1), of_part, mod, inside);
    for (Index i = 0; i < n_q; ++i) call.split_lse[i] = call.split_lse[i].plus(found[i]);
  }
  if (!group.is_one_part()) add_sink_to_split<ScoreMod>(call, options);
  if (context.flops == nullptr) return;
  context.flops->add_products(Phase::backward_scores, flops.products());
  context.flops->add_exponentials(flops.exponentials());
}

/// Adds to the gradients of all heads of a call what their pairs give, and counts it. `calls` have their log-sum-exp
/// and means. The context brings a workspace.
template <class Call, class ScoreMod>
void run_backward(const Pairs& pairs, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                  const ScoreMod& mod, const Context& context) {
  if (calls.empty() || calls.front().q.rows == 0) return;
  for (const Call& call : calls) {
    if (call.split_lse == nullptr) continue;
    std::fill_n(call.split_lse, call.q.rows, SplitLse{});
    if (call.k.rows == 0) add_sink_to_split<ScoreMod>(call, options);
  }
  if (calls.front().k.rows == 0) return;
  for (const PairsGroup* group = pairs.groups(); group != nullptr; group = group->next) {
    for (const Call& call : calls_of(*group, calls)) {
      if (call.split_lse != nullptr) find_split_lse(*group, call, options, mod, context);
    }
    for (const PairsPart* part = group->parts; part != nullptr; part = part->next) {
      run_part_backward(*part, calls_of(*group, calls), std::min(heads_per_kv, group->n_calls), options, mod, context);
    }
  }
  if (context.flops != nullptr)
    count_tokens(*context.flops, options.mask, calls.front().k.rows, static_cast<Index>(calls.size()));
}

/// means[i] = d_out_i . out_i - d_lse_i: what every gradient of a weight of query i is less.
template <class Call, class Out>
void row_means(const Call& call, const ConstView<Out>& out, const BiasView& d_lse, typename Call::Sum* means) {
  using T = typename Call::Sum;
  for (Index i = 0; i < call.q.rows; ++i) {
    T sum = 0;
    for (Index c = 0; c < call.v.cols; ++c) {
      // The zeros of a query without keys meet no NaN of d_out.
      const T value = static_cast<T>(out(i, c));
      if (!is_zero(value)) sum += static_cast<T>(call.d_out(i, c)) * value;
    }
    means[i] = d_lse.given() ? sum - static_cast<T>(gradient_of_lse(d_lse, i, call.head)) : sum;
  }
}

/// The weight that query i gives to a sink; `factor` brings scores to base-2 exponents.
template <class Call, class T = typename Call::Sum>
T weight_of_sink(const Call& call, Index i, double sink, T factor) {
  const T lse = call.known_lse[i * call.known_lse_stride];
  if (call.split_lse == nullptr || !needs_split(lse)) return std::exp(static_cast<T>(sink) - lse);
  const WeightBase<T> base = weight_base(call, i, factor);
  return std::exp2(factor * (score_of_sink(sink, factor) - base.base) + base.shift);
}

/// The gradient of a sink: minus its weight times the mean of each query.
template <class ScoreMod, class Call>
typename Call::Sum gradient_of_sink(const Call& call, const AttentionOptions& options) {
  using T = typename Call::Sum;
  const double sink = options.sinks.of(call.head);
  const T factor = softmax_factor_of<T, ScoreMod>(options, call.k.cols, call.head);
  T sum = 0;
  for (Index i = 0; i < call.q.rows && !is_minus_infinity(sink); ++i)
    sum -= weight_of_sink(call, i, sink, factor) * call.mean[i];
  return sum;
}

}  // namespace heed::detail
