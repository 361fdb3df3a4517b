#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/method.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/path_sums.hpp"

namespace heed::detail {

/// Columns of the weights of TC-attention over the queries added so far. A query i gives a key whose path leaves its
/// own below level t the weight S_t(i) = sum_{l <= t} alpha_l(i) / N_l(i), which grows with t. So a key's largest
/// weight is the largest S_t of any query in any node of level t on its path; and its sum of squares is, level by
/// level, that of the queries which part from it there. What parts at a node is kept in the child the queries go to, so
/// that a key reads siblings and nothing is subtracted.
template <class T>
class PathColumns {
 public:
  template <class Memory>
  PathColumns(Memory& memory, Index height) : height_(height) {
    const Index nodes = Index(2) << height;
    largest_ = memory.template take<T>(nodes);
    parted_ = memory.template take<T>(nodes);
    together_ = memory.template take<T>(nodes / 2);
  }

  void clear() {
    std::fill_n(largest_, Index(2) << height_, T(0));
    std::fill_n(parted_, Index(2) << height_, T(0));
    std::fill_n(together_, Index(1) << height_, T(0));
  }

  /// Adds a query; shares: S_0 .. S_height.
  void add(Index leaf, const T* shares) {
    for (Index t = 0; t <= height_; ++t) {
      T& largest = largest_[node(leaf, t)];
      largest = std::max(largest, shares[t]);
      (t < height_ ? parted_[node(leaf, t + 1)] : together_[leaf]) += shares[t] * shares[t];
    }
  }

  /// What the queries added so far make of a key.
  void read(Index leaf, T& largest, T& squares) const {
    T top = largest_[1], sum = together_[leaf];
    for (Index t = height_; t > 0; --t) {
      top = std::max(top, largest_[node(leaf, t)]);
      sum += parted_[node(leaf, t) ^ 1];
    }
    largest = std::max(largest, top);
    squares += sum;
  }

 private:
  Index node(Index leaf, Index t) const { return ((Index(1) << height_) + leaf) >> (height_ - t); }

  Index height_;
  T* largest_;   // per node of level t: largest S_t of its queries
  T* parted_;    // per node of level t + 1: sum of S_t^2 of its queries
  T* together_;  // per leaf: sum of S_height^2 of its queries
};

/// Adds to `sums` what the weights A of TC-attention make of each key: max_i A_ij and sum_i A_ij^2 over the queries of
/// one head, A_ij = sum over the levels l whose node holds both of alpha_l(i) / N_l(i), N_l(i) the keys of that node
/// that query i may see. Leaves as visit_routed_heads gives them; key_width: entries of a key that the levels weigh by,
/// 0 or d.
///
/// Empty   a query without keys, or with NaN in its weights, adds nothing.
/// Cost    O((n_q + n_k) h) and, where keys weigh, 2 (h + 1) d a query and (h + 1) d a key; memory n_q (h + 1) numbers.
///         No n x n buffer.
/// Source  this library: per sequence the shares of all queries in order, then backwards, each key read before the
///         first query that does not see it.
template <class T, class Q, class K>
void add_path_columns(const ConstView<Q>& q, const ConstView<K>& k, const Index* query_leaf, const LeafLists& keys,
                      Index height, const LevelWeights<T>& levels, Index key_width, const Mask& mask,
                      const ColumnSums<T>& sums, Workspace& workspace) {
  const Index n_levels = height + 1;
  Workspace::Frame frame(workspace);
  const PathSums<T> nodes = PathSums<T>::take(frame, height, 0, key_width);
  PathColumns<T> columns(frame, height);
  T* shares = frame.take<T>(q.rows * n_levels);
  const ConstView<K> no_values = k.columns(0, 0);
  const KeyBounds bounds(mask, q.rows, k.rows);
  for (Index first = 0, end = 0; first < q.rows; first = end) {
    end = end_of_sequence(mask, first, q.rows);
    nodes.clear();
    columns.clear();
    const Index low = bounds.of(first).low;
    Index next = low;
    for (Index i = first; i < end; ++i) {
      for (const Index high = bounds.of(i).high; next < high; ++next) {
        if (keys.has(next)) nodes.add_path(keys.leaf_of()[next], k, no_values, next);
      }
      T* share = shares + i * n_levels;
      const T total = weigh_path(nodes, query_leaf[i], levels, q, i, share).total;
      T sum = 0;
      for (Index t = 0; t < n_levels; ++t) {
        const Index node = ((Index(1) << height) + query_leaf[i]) >> (height - t);
        if (share[t] > 0) sum += share[t] / (total * static_cast<T>(nodes.counts[node]));
        share[t] = is_finite(total) ? sum : T(0);
      }
    }
    const auto read_down_to = [&](Index high) {
      for (; next > high; --next) {
        const Index key = next - 1;
        if (keys.has(key)) columns.read(keys.leaf_of()[key], sums.largest[key], sums.squares[key]);
      }
    };
    for (Index i = end; i-- > first;) {
      read_down_to(bounds.of(i).high);
      columns.add(query_leaf[i], shares + i * n_levels);
    }
    read_down_to(low);
  }
}

}  // namespace heed::detail
