#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Sums of value rows, and where asked of key rows, over the keys in every node of a tree: the state of TC-attention. Node v of level
/// t, from the left, is number 2^t + v; number 0 is unused.
template <class T>
struct PathSums {
  Index height = 0;
  Index d_v = 0;
  Index d = 0;              // 0: no keys are kept
  Index* counts = nullptr;  // 2^(height + 1)
  T* v = nullptr;           // 2^(height + 1) x d_v
  T* k = nullptr;           // 2^(height + 1) x d

  Index n_nodes() const { return Index(2) << height; }

  /// Takes memory from a Scratch or a Frame.
  template <class Memory>
  static PathSums take(Memory& memory, Index height, Index d_v, Index d) {
    PathSums sums{height, d_v, d};
    const auto nodes = static_cast<std::size_t>(sums.n_nodes());
    sums.counts = memory.template take<Index>(nodes);
    sums.v = memory.template take<T>(nodes * static_cast<std::size_t>(d_v));
    sums.k = memory.template take<T>(nodes * static_cast<std::size_t>(d));
    return sums;
  }

  void clear() const {
    std::fill_n(counts, n_nodes(), Index(0));
    std::fill_n(v, n_nodes() * d_v, T(0));
    std::fill_n(k, n_nodes() * d, T(0));
  }

  /// Adds one key to one node.
  template <class S>
  void add(Index node, const ConstView<S>& keys, const ConstView<S>& values, Index j) const {
    ++counts[node];
    T* sum = v + node * d_v;
    if (values.col_stride == 1) {
      const S* row = values.data + j * values.row_stride;
      for (Index c = 0; c < d_v; ++c) sum[c] += static_cast<T>(row[c]);
    } else {
      for (Index c = 0; c < d_v; ++c) sum[c] += static_cast<T>(values(j, c));
    }
    for (Index c = 0; c < d; ++c) k[node * d + c] += static_cast<T>(keys(j, c));
  }

  /// Adds one key to every node on the path to its leaf.
  template <class S>
  void add_path(Index leaf, const ConstView<S>& keys, const ConstView<S>& values, Index j) const {
    for (Index node = (Index(1) << height) + leaf; node > 0; node /= 2) add(node, keys, values, j);
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

/// How the levels of a path weigh.
template <class T>
struct LevelWeights {
  const T* logits = nullptr;  // height + 1
  bool by_query = false;      // adds log N_v + scale q . c_v
  T scale = 1;
};

/// What weigh_path found out.
template <class T>
struct PathWeight {
  T total = 0;      // of the weights
  Index found = 0;  // non-empty nodes
};

/// weights[t] = exp(logit_t - the largest logit) over the non-empty nodes of the path to `leaf`, else 0; height + 1 of them.
template <class T, class S>
PathWeight<T> weigh_path(const PathSums<T>& sums, Index leaf, const LevelWeights<T>& levels, const ConstView<S>& q,
                         Index i, T* weights) {
  const Index height = sums.height;
  const auto count = [&](Index t) { return sums.counts[((Index(1) << height) + leaf) >> (height - t)]; };
  T top = 0;
  PathWeight<T> path;
  for (Index t = 0; t <= height; ++t) {
    const Index node = ((Index(1) << height) + leaf) >> (height - t);
    if (count(t) == 0) continue;
    T& weight = weights[t] = levels.logits[t];
    if (levels.by_query) {
      const T n = static_cast<T>(count(t));
      T product = 0;
      for (Index c = 0; c < sums.d; ++c) product += static_cast<T>(q(i, c)) * sums.k[node * sums.d + c];
      weight += std::log(n) + levels.scale * (product / n);
    }
    top = path.found == 0 || top < weight ? weight : top;
    ++path.found;
  }
  for (Index t = 0; t <= height; ++t) {
    weights[t] = count(t) == 0 || is_minus_infinity(weights[t]) ? T(0) : std::exp(weights[t] - top);
    path.total += weights[t];
  }
  return path;
}

/// out = sum_t alpha_t C_t over the non-empty nodes of the path to `leaf`, alpha the softmax of their weights, C_t their mean value
/// row; zeros where all are empty. `weights`: height + 1 numbers of scratch. Returns the non-empty nodes.
template <class T, class S, class Out>
Index read_path(const PathSums<T>& sums, Index leaf, const LevelWeights<T>& levels, const ConstView<S>& q, Index i,
                T* weights, T* row, const Out& write) {
  const Index height = sums.height, d_v = sums.d_v;
  const PathWeight<T> path = weigh_path(sums, leaf, levels, q, i, weights);
  std::fill_n(row, d_v, T(0));
  for (Index t = 0; t <= height; ++t) {
    if (weights[t] == 0) continue;  // a level of weight 0 shows nothing, not even NaN
    const Index node = ((Index(1) << height) + leaf) >> (height - t);
    const T part = weights[t] / static_cast<T>(sums.counts[node]);
    const T* sum = sums.v + node * d_v;
    for (Index c = 0; c < d_v; ++c) row[c] += part * sum[c];
  }
  const T inverse = path.total == 0 ? T(0) : T(1) / path.total;
  for (Index c = 0; c < d_v; ++c) write(c, row[c] * inverse);
  return path.found;
}

}  // namespace heed::detail
