#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>

#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"
#include "heed/trees/leaf_lists.hpp"

namespace heed::detail {

/// sum[c] += the rows `some` of `rows`, in order, times weights[r] where weights are given.
template <class T, class S>
void add_token_rows(const ConstView<S>& rows, const TokenSet& some, Index width, const T* weights, T* sum, Isa isa) {
  if (rows.col_stride == 1) {
    const auto* from = kernel_pointer(rows.data) + (some.list == nullptr ? some.first * rows.row_stride : 0);
    storage_kernels<T, KernelScalar<S>>(isa).add_rows(from, rows.row_stride, some.list, some.size, width, weights, sum);
    return;
  }
  // A few rows and columns at a time, copied: the kernel's arithmetic, so the same bits in every layout.
  constexpr Index n_rows = 16, n_columns = 64;
  T copy[n_rows * n_columns];
  for (Index t = 0; t < some.size; t += n_rows) {
    const Index own_rows = std::min(n_rows, some.size - t);
    for (Index c = 0; c < width; c += n_columns) {
      const Index own = std::min(n_columns, width - c);
      for (Index r = 0; r < own_rows; ++r) {
        for (Index x = 0; x < own; ++x) copy[r * n_columns + x] = static_cast<T>(rows(some[t + r], c + x));
      }
      storage_kernels<T, T>(isa).add_rows(copy, n_columns, nullptr, own_rows, own,
                                          weights == nullptr ? nullptr : weights + t, sum + c);
    }
  }
}

/// Sums of value rows, and where asked of key rows, over the keys in every node of a tree: the state of TC-attention.
/// Node v of level t, from the left, is number 2^t + v; number 0 is unused.
template <class T>
struct PathSums {
  Index height = 0;
  Index d_v = 0;
  Index d = 0;              // 0: no keys are kept
  Index* counts = nullptr;  // 2^(height + 1)
  T* v = nullptr;           // 2^(height + 1) x d_v
  T* k = nullptr;           // 2^(height + 1) x d
  Isa isa = active_isa();

  Index n_nodes() const { return Index(2) << height; }

  /// Takes memory from a Scratch or a Frame.
  /// Errors  ShapeError for more than memory can hold.
  template <class Memory>
  static PathSums take(Memory& memory, Index height, Index d_v, Index d) {
    PathSums sums{height, d_v, d};
    const Index nodes = sums.n_nodes(), v_size = checked_product("nodes of the tree times d_v", {nodes, d_v}),
                k_size = checked_product("nodes of the tree times d", {nodes, d});
    sums.counts = memory.template take<Index>(nodes);
    sums.v = memory.template take<T>(v_size);
    sums.k = memory.template take<T>(k_size);
    return sums;
  }

  void clear() const {
    std::fill_n(counts, n_nodes(), Index(0));
    std::fill_n(v, n_nodes() * d_v, T(0));
    std::fill_n(k, n_nodes() * d, T(0));
  }

  /// Adds keys to one node.
  template <class S>
  void add(Index node, const ConstView<S>& keys, const ConstView<S>& values, const TokenSet& some) const {
    counts[node] += some.size;
    add_token_rows(values, some, d_v, static_cast<const T*>(nullptr), v + node * d_v, isa);
    if (d > 0) add_token_rows(keys, some, d, static_cast<const T*>(nullptr), k + node * d, isa);
  }

  /// Adds one key to every node on the path to its leaf.
  template <class S>
  void add_path(Index leaf, const ConstView<S>& keys, const ConstView<S>& values, Index j) const {
    for (Index node = (Index(1) << height) + leaf; node > 0; node /= 2) add(node, keys, values, {j, 1});
  }

  /// Where leaves hold their sums: every node above becomes the sum of its children.
  void sum_up() const {
    for (Index node = (Index(1) << height) - 1; node > 0; --node) {
      counts[node] = counts[2 * node] + counts[2 * node + 1];
      for (Index c = 0; c < d_v; ++c) v[node * d_v + c] = v[2 * node * d_v + c] + v[(2 * node + 1) * d_v + c];
      for (Index c = 0; c < d; ++c) k[node * d + c] = k[2 * node * d + c] + k[(2 * node + 1) * d + c];
    }
  }
};

/// The level a node stands at; nodes are numbered as in PathSums.
inline Index level_of(Index node) { return static_cast<Index>(std::bit_width(static_cast<std::size_t>(node))) - 1; }

/// Clears `sums` and fills every node with the keys of [low, high): leaves first, a task each, then upwards.
template <class T, class S>
void sum_keys(const PathSums<T>& sums, const ConstView<S>& k, const ConstView<S>& v, const LeafLists& keys, Index low,
              Index high, int threads) {
  const Index n_leaves = keys.n_leaves();
  sums.clear();
  for_each_task(n_leaves, threads, [&](Index leaf) {
    const TokenSet some = keys.tokens_between(leaf, low, high);
    if (some.size > 0) sums.add(n_leaves + leaf, k, v, some);
  });
  sums.sum_up();
}

constexpr Index max_path = 25;  ///< nodes of a path of the tallest tree

/// How the levels of a path weigh.
template <class T>
struct LevelWeights {
  const T* logits = nullptr;  // height + 1
  const T* powers = nullptr;  // height + 1: e^(logit - the largest), 0 for -inf
  bool by_query = false;      // adds log N_v + scale q . c_v
  T scale = 1;
};

/// What weigh_path found.
template <class T>
struct PathWeights {
  T total = 0;       ///< of the levels that count
  Index levels = 0;  ///< that count
};

/// The weight of a level that does not count: its node is empty or its logit -inf. Weights are never negative.
template <class T>
inline constexpr T no_weight = T(-1);

/// scale q . c_v of a node that holds keys; 0 where queries do not weigh levels.
template <class T, class S>
T mean_key_score(const PathSums<T>& sums, Index node, const LevelWeights<T>& levels, const ConstView<S>& q, Index i) {
  if (!levels.by_query) return T(0);
  T product = 0;
  for (Index c = 0; c < sums.d; ++c) product += static_cast<T>(q(i, c)) * sums.k[node * sums.d + c];
  return levels.scale * (product / static_cast<T>(sums.counts[node]));
}

/// The logit of level t where its node is `node`; -inf where it does not count. mean_score: of mean_key_score().
template <class T, class Score>
T level_score(const PathSums<T>& sums, Index node, Index t, const LevelWeights<T>& levels, const Score& mean_score) {
  if (sums.counts[node] == 0 || is_minus_infinity(levels.logits[t])) return minus_infinity<T>;
  if (!levels.by_query) return levels.logits[t];
  return levels.logits[t] + (std::log(static_cast<T>(sums.counts[node])) + mean_score());
}

/// weights[t] = exp(logit_t - the largest logit) over the levels of the path to `leaf` that count, no_weight for the
/// others; height + 1 of them. A weight that underflows to 0 still counts: NaN in its rows shows.
template <class T, class S>
PathWeights<T> weigh_path(const PathSums<T>& sums, Index leaf, const LevelWeights<T>& levels, const ConstView<S>& q,
                          Index i, T* weights) {
  const Index height = sums.height;
  T top = 0;
  Index full = 0;
  PathWeights<T> found;
  for (Index t = 0; t <= height; ++t) {
    const Index node = ((Index(1) << height) + leaf) >> (height - t);
    full += sums.counts[node] > 0;
    weights[t] = level_score(sums, node, t, levels, [&] { return mean_key_score(sums, node, levels, q, i); });
    if (is_minus_infinity(weights[t])) continue;
    top = found.levels == 0 || top < weights[t] ? weights[t] : top;
    ++found.levels;
  }
  const bool known = !levels.by_query && full == height + 1;  // no node is empty: as for any other leaf
  for (Index t = 0; t <= height; ++t) {
    if (is_minus_infinity(weights[t])) {
      weights[t] = no_weight<T>;
      continue;
    }
    weights[t] = known ? levels.powers[t] : std::exp(weights[t] - top);
    found.total += weights[t];
  }
  return found;
}

/// row = sum_t alpha_t C_t over the levels of the path to `leaf` that count, alpha the softmax of their weights, C_t
/// the mean value row of their node; zeros where none does. `weights`: height + 1 numbers of scratch. Returns how many
/// count.
template <class T, class S>
Index read_path(const PathSums<T>& sums, Index leaf, const LevelWeights<T>& levels, const ConstView<S>& q, Index i,
                T* weights, T* row) {
  const Index height = sums.height, d_v = sums.d_v;
  const PathWeights<T> found = weigh_path(sums, leaf, levels, q, i, weights);
  Index nodes[max_path];
  Index kept = 0;
  for (Index t = 0; t <= height; ++t) {
    if (weights[t] < 0) continue;
    nodes[kept] = ((Index(1) << height) + leaf) >> (height - t);
    weights[kept] = weights[t] / (found.total * static_cast<T>(sums.counts[nodes[kept]]));
    ++kept;
  }
  std::fill_n(row, d_v, T(0));
  storage_kernels<T, T>(sums.isa).add_rows(sums.v, d_v, nodes, kept, d_v, weights, row);
  return found.levels;
}

}  // namespace heed::detail
