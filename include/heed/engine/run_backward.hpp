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
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/engine/split_lse.hpp"

namespace heed::detail {

/// Finds the split log-sum-exp of one head, sink and all, over the pairs of its group.
template <class Call, class ScoreMod>
void find_split_lse(const PairsGroup& group, const Call& call, const AttentionOptions& options, const ScoreMod& mod,
                    const Context& context) {
  using T = typename Call::Sum;
  const Index n_q = call.q.rows;
  AttentionOptions without_sinks = options;
  without_sinks.sinks = PerHead();
  Workspace::Frame frame(*context.workspace);
  SoftmaxState<T> all, part_state;
  SplitLse<T>& split = *call.split;
  split.factor = softmax_factor_of<T, ScoreMod>(without_sinks, call.k.cols, call.head);
  all.width = part_state.width = n_q;
  all.factor = part_state.factor = split.factor;
  all.m = split.top;
  all.l = split.log_sum;
  all.clear_weights();
  part_state.m = frame.take<T>(n_q);
  part_state.l = frame.take<T>(n_q);
  for (const PairsPart* part = group.parts; part != nullptr; part = part->next) {
    part_state.clear_weights();
    HeadCall<typename Call::Query, typename Call::Key, T> scores_only{};
    scores_only.q = call.q;
    scores_only.k = call.k;
    scores_only.v = call.v.columns(0, 0);
    scores_only.out = {nullptr, n_q, 0, 0, 1};
    scores_only.head = call.head;
    scores_only.top = part_state.m;
    scores_only.sum = part_state.l;
    FlopCounter flops;
    const Context inside{context.flops == nullptr ? nullptr : &flops, context.workspace, context.threads};
    run_part(*part, std::span<const decltype(scores_only)>(&scores_only, 1), Index(1), without_sinks, mod, inside);
    if (context.flops != nullptr) {
      context.flops->add_products(Phase::backward_scores, flops.products());
      context.flops->add_exponentials(flops.exponentials());
    }
    all.merge(part_state);
  }
  for (Index i = 0; i < n_q; ++i) {
    if (options.sinks.given()) all.add_sink(i, options.sinks.of(call.head));
    split.log_sum[i] = std::log2(all.l[i]);
  }
}

/// Adds to the gradients of all heads of a call what their pairs give, and counts it. `calls` have their log-sum-exp
/// and means. The context brings a workspace.
template <class Call, class ScoreMod>
void run_backward(const Pairs& pairs, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                  const ScoreMod& mod, const Context& context) {
  if (calls.empty() || calls.front().q.rows == 0 || calls.front().k.rows == 0) return;
  for (const PairsGroup* group = pairs.groups(); group != nullptr; group = group->next) {
    for (const Call& call : calls_of(*group, calls)) {
      if (call.split != nullptr) find_split_lse(*group, call, options, mod, context);
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

/// The weight that query i gives to a sink.
template <class Call>
typename Call::Sum weight_of_sink(const Call& call, Index i, double sink) {
  using T = typename Call::Sum;
  const T lse = call.known_lse[i * call.known_lse_stride];
  if (call.split == nullptr || !needs_split(lse)) return std::exp(static_cast<T>(sink) - lse);
  const T factor = call.split->factor;
  const WeightBase<T> base = weight_base(call, i, factor);
  return std::exp2(factor * (score_of_sink(sink, factor) - base.base) + base.shift);
}

/// The gradient of a sink: minus its weight times the mean of each query.
template <class Call>
typename Call::Sum gradient_of_sink(const Call& call, double sink) {
  using T = typename Call::Sum;
  T sum = 0;
  for (Index i = 0; i < call.q.rows && !is_minus_infinity(sink); ++i)
    sum -= weight_of_sink(call, i, sink) * call.mean[i];
  return sum;
}

}  // namespace heed::detail
