#pragma once
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/detail/gradient_engine.hpp"
#include "heed/engine/detail/softmax_engine.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/tasks.hpp"

namespace heed::detail {

/// Counts the products of a backward pass over `pairs` pairs: scores again and the gradients of queries and keys, 6 d a
/// pair; those of weights and values, 4 d_v.
inline void count_backward(FlopCounter& flops, double pairs, Index d, Index d_v) {
  flops.add_products(Phase::backward_scores, 6.0 * pairs * static_cast<double>(d));
  flops.add_products(Phase::backward_values, 4.0 * pairs * static_cast<double>(d_v));
  flops.add_exponentials(pairs);
}

/// Adds to the gradients of checked calls what the pairs of one part give, and counts it. The context brings a
/// workspace.
template <class Call, class ScoreMod>
void run_part_backward(const PairsPart& part, std::span<const Call> calls, Index heads_per_kv,
                       const AttentionOptions& given, const ScoreMod& mod, const Context& context) {
  const Call& one = calls.front();
  const AttentionOptions options = options_of(part, given);
  const double work =
      static_cast<double>(calls.size()) * tile_pairs(part.tiles) * static_cast<double>(one.k.cols + one.v.cols);
  const int threads = threads_for(work, 2e5, thread_count(context.threads));
  GradientEngine<Call, ScoreMod>(part, calls, heads_per_kv, options, mod, *context.workspace, threads).run();
  if (context.flops != nullptr) {
    count_backward(*context.flops,
                   kept_pairs(part.tiles, part.rule, options.mask, one.q.rows, one.k.rows, one.head,
                              static_cast<Index>(calls.size())),
                   one.k.cols, one.v.cols);
  }
}

}  // namespace heed::detail
