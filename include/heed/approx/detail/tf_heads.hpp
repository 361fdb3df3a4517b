#pragma once
#include <algorithm>
#include <optional>
#include <span>

#include "heed/approx/detail/near_tiles.hpp"
#include "heed/approx/detail/query_blocks.hpp"
#include "heed/core/context.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/leaf_tiles.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/routed_heads.hpp"

namespace heed::detail {

/// What one tree makes of the tokens of one head.
template <class T>
struct TreeLeaves {
  Router<T> router;
  LeafLists keys;
  LeafTiles tiles;  ///< query_leaf, key_leaf and the leaves each query sees among them
  Index n_real_keys = 0;
};

/// The same of all heads of a call and all trees: of head c and tree t at [c * trees.size() + t]. Lives in `frame`.
template <class S, class Call>
TreeLeaves<typename Call::Sum>* route_heads(std::span<const DecisionTree<S>> trees, std::span<const Call> calls,
                                            Index heads_per_kv, const Mask& mask, const Context& context,
                                            Workspace::Frame& frame) {
  using T = typename Call::Sum;
  const std::size_t n_trees = trees.size();
  auto* leaves = frame.take<TreeLeaves<T>>(static_cast<Index>(n_trees * calls.size()));
  const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows;
  for (std::size_t t = 0; t < n_trees; ++t) {
    visit_routed_heads(trees[t], calls, heads_per_kv, mask, context, &frame,
                       [&](const Call& call, const Index* query_leaf, const LeafLists& keys, const Router<T>& router) {
                         leaves[static_cast<std::size_t>(&call - calls.data()) * n_trees + t] = {
                             router, keys,
                             leaf_tiles(query_leaf, n_q, n_k, keys, trees[t].height(), mask, call.head, n_k, frame),
                             std::min(n_k, mask.n_real_keys)};
                       });
  }
  return leaves;
}

/// A rule that leaves out the pairs of some trees, and what `also` leaves out. Null: it leaves out nothing.
template <class T>
const PairRule* without_trees(std::span<const TreeLeaves<T>> trees, const PairRule* also, Workspace::Frame& frame) {
  for (const TreeLeaves<T>& tree : trees) {
    const LeafTiles& tiles = tree.tiles;
    also = new (frame.take<PairRule>(1)) PairRule{tiles.key_leaf, tiles.first_leaf, tiles.end_leaf, {}, also};
  }
  return also;
}

/// Adds the parts of one head to a group: leaves of each tree, then the first keys and the window, each without the
/// pairs that those before have.
template <class T>
void add_tf_parts(Pairs& pairs, PairsGroup& group, std::span<const TreeLeaves<T>> trees, Index n_sinks,
                  const std::optional<Index>& window_left, const Mask& mask, Index n_q, Index n_k) {
  const PairRule* before = nullptr;
  const auto rule = [&] { return before == nullptr ? PairRule{} : *before; };
  for (const TreeLeaves<T>& tree : trees) {
    pairs.add_part(group, tree.tiles.tiles, rule());
    before = without_trees(std::span(&tree, 1), before, pairs.frame());
  }
  if (!window_left && n_sinks == 0) return;
  const NearTiles near = near_tiles(n_sinks, mask, n_q, n_k, pairs.frame());
  if (n_sinks > 0) pairs.add_part(group, near.sinks, rule());
  if (window_left) {
    PairsPart& window = pairs.add_part(group, near.behind, rule());
    window.window_left = *window_left;
    window.window_right = 0;
  }
}

/// A rule that leaves out the pairs of the first keys and of the window, positions being labels. Null: there are none.
inline const PairRule* without_near(Index n_sinks, const std::optional<Index>& window_left, const Mask& mask, Index n_q,
                                    Index n_k, Workspace::Frame& frame) {
  if (!window_left && n_sinks == 0) return nullptr;
  const OwnKeys own(mask, n_q, n_k);
  Index* positions = frame.take<Index>(n_k);
  for (Index j = 0; j < n_k; ++j) positions[j] = j;
  const auto rule = [&](const PairRule* also, const auto& range_of) {
    Index *first = frame.take<Index>(n_q), *end = frame.take<Index>(n_q);
    for (Index i = 0; i < n_q; ++i) range_of(own.of(i), first[i], end[i]);
    return new (frame.take<PairRule>(1)) PairRule{positions, first, end, {}, also};
  };
  const PairRule* near = nullptr;
  if (n_sinks > 0) {
    near = rule(near, [&](const KeyRange& range, Index& first, Index& end) {
      first = range.low;
      end = range.low + std::min(n_sinks, n_k);
    });
  }
  if (window_left) {
    near = rule(near, [&](const KeyRange& range, Index& first, Index& end) {
      first = range.diagonal - std::min(*window_left, reach_of(mask, n_q, n_k));
      end = range.diagonal + 1;
    });
  }
  return near;
}

}  // namespace heed::detail
