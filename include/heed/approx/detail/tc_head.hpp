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

/// One row for each leaf of a tree, standing for all queries in it.
template <class T>
struct TcLeaves {
  Index n_leaves = 0;
  T* d_out = nullptr;       // n_leaves x d_v: sums over the queries
  T* out = nullptr;         // n_leaves x d_v: what they see
  T* shares = nullptr;      // levels x n_leaves: weights of the levels
  T* by_logits = nullptr;   // levels x n_leaves: gradients by their logits
  Index* levels = nullptr;  // n_leaves: how many count, of the leaves that have queries
  Index* read = nullptr;    // n_leaves: how many count, where `out` was read

  static TcLeaves take(Workspace::Frame& frame, Index height, Index d_v) {
    TcLeaves leaves{Index(1) << height};
    const Index n = leaves.n_leaves;
    for (T** table : {&leaves.d_out, &leaves.out}) *table = frame.take<T>(n * d_v);
    for (T** table : {&leaves.shares, &leaves.by_logits}) *table = frame.take<T>(n * (height + 1));
    for (Index** counts : {&leaves.levels, &leaves.read}) *counts = frame.take<Index>(n);
    return leaves;
  }
  T& share(Index t, Index leaf) const { return shares[t * n_leaves + leaf]; }
  T& by_logit(Index t, Index leaf) const { return by_logits[t * n_leaves + leaf]; }
};

/// Columns of one thread where they are shared out: whole vectors.
inline Index shared_columns(Index columns, Index threads) {
  return ((columns + threads - 1) / threads + 15) / 16 * 16 + (columns == 0 ? 16 : 0);
}

}  // namespace heed::detail
