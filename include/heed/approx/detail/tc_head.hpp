#pragma once
#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/path_sums.hpp"

namespace heed::detail {

/// One routed head of TC-attention. Views what it is made of.
template <class Call>
struct TcHead {
  using T = typename Call::Sum;
  using Sums = PathSums<T>;

  const Call& call;
  const Index* query_leaf;
  const LeafLists& keys;
  Index height;
  LevelWeights<T> levels;
  const Mask& mask;
  Workspace& workspace;
  int threads;

  bool causal() const { return mask.causal != Causal::none; }
  Index n_leaves() const { return Index(1) << height; }
  Index n_levels() const { return height + 1; }
  /// The node of level t on the path to `leaf`.
  Index node(Index leaf, Index t) const { return (n_leaves() + leaf) >> (height - t); }
  /// Entries of a key that queries weigh levels by.
  Index key_width() const { return levels.by_query ? call.k.cols : 0; }
  /// A thread for about ten microseconds of additions.
  int addition_threads(double additions) const { return threads_for(additions, 2e4, threads); }
};

/// Columns of one thread where they are shared out: whole vectors.
inline Index shared_columns(Index columns, Index threads) {
  return ((columns + threads - 1) / threads + 15) / 16 * 16 + (columns == 0 ? 16 : 0);
}

}  // namespace heed::detail
