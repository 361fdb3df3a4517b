#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/detail/gradient_engine.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/engine/tasks.hpp"

namespace heed::detail {

/// Counts the products of a backward pass over `pairs` pairs: scores again and the gradients of queries and keys, 6 d a
/// pair; those of weights and values, 4 d_v.
inline void count_backward(FlopCounter& flops, double pairs, Index d, Index d_v) {
  flops.add_products(Phase::backward_scores, 6.0 * pairs * static_cast<double>(d));
  flops.add_products(Phase::backward_values, 4.0 * pairs * static_cast<double>(d_v));
  flops.add_exponentials(pairs);
}

/// Adds to the gradients of all heads of a call what their pairs give, and counts it. `calls` have their log-sum-exp
/// and means. The context brings a workspace.
template <class Call, class ScoreMod>
void run_backward(const Pairs& pairs, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                  const ScoreMod& mod, const Context& context) {
  if (calls.empty() || calls.front().q.rows == 0 || calls.front().k.rows == 0) return;
  for (const PairsGroup* group = pairs.groups(); group != nullptr; group = group->next) {
    const std::span<const Call> mine = calls_of(*group, calls);
    const Call& one = mine.front();
    for (const PairsPart* part = group->parts; part != nullptr; part = part->next) {
      const AttentionOptions narrowed = options_of(*part, options);
      const double work =
          static_cast<double>(mine.size()) * tile_pairs(part->tiles) * static_cast<double>(one.k.cols + one.v.cols);
      const int threads = threads_for(work, 2e5, thread_count(context.threads));
      GradientEngine<Call, ScoreMod>(*part, mine, std::min(heads_per_kv, group->n_calls), narrowed, mod,
                                     *context.workspace, threads)
          .run();
      if (context.flops == nullptr) continue;
      count_backward(
          *context.flops,
          kept_pairs(part->tiles, part->rule, narrowed.mask, one.q.rows, one.k.rows, one.head, group->n_calls),
          one.k.cols, one.v.cols);
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
    for (Index c = 0; c < call.v.cols; ++c) sum += static_cast<T>(call.d_out(i, c)) * static_cast<T>(out(i, c));
    means[i] = d_lse.given() ? sum - static_cast<T>(gradient_of_lse(d_lse, i, call.head)) : sum;
  }
}

/// The gradient of a sink: minus its weight times the mean of each query.
template <class Call>
typename Call::Sum gradient_of_sink(const Call& call, double sink) {
  using T = typename Call::Sum;
  T sum = 0;
  for (Index i = 0; i < call.q.rows && !is_minus_infinity(sink); ++i)
    sum -= std::exp(static_cast<T>(sink) - call.known_lse[i * call.known_lse_stride]) * call.mean[i];
  return sum;
}

}  // namespace heed::detail
