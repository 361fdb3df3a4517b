#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/trees/decision_tree.hpp"

namespace heed {

/// How evenly a tree spreads some queries and keys.
struct TreeBalance {
  std::vector<Index> queries{};  ///< of each leaf
  std::vector<Index> keys{};     ///< of each leaf
  double pair_fraction =
      0;  ///< sum_l q_l p_l, the fractions of queries and keys in leaf l: 2^-h when even, 1 at worst. TF sees this
          ///< share of all pairs, and what queries of empty leaves fall back to
  Index empty_leaves = 0;      ///< leaves without keys
  Index queries_in_empty = 0;  ///< queries of such leaves, which fall back to an ancestor
  Index largest_leaf = 0;      ///< keys of the fullest leaf
};

/// The balance of a tree over q: n_q x d and k: n_k x d.
/// Errors  ShapeError if their width is not the tree's.
/// Cost    2 h d flops a token.
template <class S, class Q, class K>
TreeBalance tree_balance(const DecisionTree<S>& tree, const Q& q, const K& k) {
  TreeBalance balance;
  balance.queries.resize(static_cast<std::size_t>(tree.n_leaves()));
  balance.keys.resize(static_cast<std::size_t>(tree.n_leaves()));
  const DecisionTree<S> stored = tree.with_biases_of(k);
  const Vector<Index> query_leaf = stored.leaf_of(q), key_leaf = stored.leaf_of_keys(k);
  for (const Index leaf : query_leaf) ++balance.queries[static_cast<std::size_t>(leaf)];
  for (const Index leaf : key_leaf) ++balance.keys[static_cast<std::size_t>(leaf)];
  const double pairs = static_cast<double>(query_leaf.size()) * static_cast<double>(key_leaf.size());
  for (std::size_t l = 0; l < balance.keys.size(); ++l) {
    const Index n_q = balance.queries[l], n_k = balance.keys[l];
    if (pairs > 0) balance.pair_fraction += static_cast<double>(n_q) * static_cast<double>(n_k) / pairs;
    if (n_k == 0) ++balance.empty_leaves;
    if (n_k == 0) balance.queries_in_empty += n_q;
    balance.largest_leaf = std::max(balance.largest_leaf, n_k);
  }
  return balance;
}

}  // namespace heed
