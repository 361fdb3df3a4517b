#pragma once
#include <optional>
#include <span>

#include "heed/approx/detail/tf_heads.hpp"
#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/present_keys.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/leaf_overflow.hpp"
#include "heed/trees/leaf_tiles.hpp"

namespace heed::detail {

/// TF-attention of one head that sees the first `cap` keys of a leaf one by one and the others as one centroid.
template <class Call>
void attend_capped(const Call& call, const Index* query_leaf, const LeafLists& keys, Index height, Index cap,
                   Index n_sinks, const std::optional<Index>& window_left, const AttentionOptions& options,
                   const Context& context) {
  using T = typename Call::Sum;
  const Index n_q = call.q.rows, n_k = call.k.rows;
  Workspace::Frame frame(*context.workspace);
  Pairs pairs(frame);
  const TreeLeaves<T> tree{
      {}, keys, leaf_tiles(query_leaf, n_q, n_k, keys, height, options.mask, call.head, cap, frame), 0};
  add_tf_parts(pairs, pairs.add_group(0, 1), std::span(&tree, 1), n_sinks, window_left, options.mask, n_q, n_k);
  if (options.mask.keys.given()) leave_out_absent_keys(pairs, options.mask.keys, n_k);
  const std::span<const Call> one(&call, 1);
  bool overflows = false;
  for (Index l = 0; l < keys.n_leaves(); ++l) overflows = overflows || keys.size(l) > cap;
  if (!overflows && pairs.groups()->is_one_part()) {
    run_part(*pairs.groups()->parts, one, Index(1), options, NoScoreMod{}, context);
    return;
  }
  run_merged(
      *pairs.groups(), one, options, NoScoreMod{}, context, [&](auto& parts, const AttentionOptions& without_sinks) {
        if (!overflows) return;
        const double n = static_cast<double>(
            add_overflow(parts.next(), tree.tiles, keys, cap, without_sinks, frame, thread_count(context.threads)));
        if (context.flops == nullptr) return;
        context.flops->add_products(Phase::far_field, 2.0 * n * static_cast<double>(call.k.cols + call.v.cols));
        context.flops->add_exponentials(n);
      });
}

}  // namespace heed::detail
