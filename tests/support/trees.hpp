#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>

#include <Eigen/Core>

#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/reference.hpp"
#include "heed/trees/decision_tree.hpp"
#include "support/inputs.hpp"
#include "support/method_case.hpp"
#include "support/option_kinds.hpp"
#include "support/plain_tree.hpp"

namespace heed::test {

/// A tree of random hyperplanes: planes and biases differ between nodes, so that leaves do too.
template <class S>
DecisionTree<S> random_tree(Index height, Index d, std::uint64_t seed = 1,
                            const TreeOptions<Accumulator<S>>& options = {}) {
  using T = Accumulator<S>;
  const Index n_nodes = (Index(1) << height) - 1;
  return DecisionTree<S>(random_matrix<T>(n_nodes, d, 77 * seed + 1),
                         (T(0.5) * random_matrix<T>(n_nodes, 1, 77 * seed + 2)).eval(), options);
}

/// A lift for random tokens of width d: some are longer than its radius.
template <class S>
TreeLift<Accumulator<S>> random_lift(Index height, Index d, std::uint64_t seed = 1) {
  using T = Accumulator<S>;
  return {static_cast<T>(std::sqrt(static_cast<double>(d))),
          random_matrix<T>((Index(1) << height) - 1, 1, 77 * seed + 3)};
}

/// The pairs that TF-attention sees, from its definition and the leaves alone: a query sees the keys of the deepest
/// node on its path that holds a key the mask keeps for it.
inline PairMatrix pairs_of_leaves(const Vector<Index>& query_leaf, const Vector<Index>& key_leaf, Index height,
                                  const Mask& mask, Index head = 0) {
  const Index n_q = query_leaf.size(), n_k = key_leaf.size();
  PairMatrix pairs = PairMatrix::Constant(n_q, n_k, false);
  for (Index i = 0; i < n_q; ++i) {
    bool found = false;
    for (Index level = height; level >= 0 && !found; --level) {
      for (Index j = 0; j < n_k; ++j) {
        const Index above = height - level;
        pairs(i, j) = query_leaf(i) >> above == key_leaf(j) >> above;
        found = found || (pairs(i, j) && heed::detail::reference_pair(mask, i, j, n_q, n_k, head).kept);
      }
    }
  }
  return pairs;
}

/// True when key j is one of the window_left keys before query i's aligned diagonal, the key on it, or one of the first
/// n_sinks keys of the query's sequence.
inline bool is_near(const Mask& mask, Index i, Index j, Index n_q, Index n_k, Index window_left, Index n_sinks) {
  const auto key_offsets = mask.key_sequence_offsets.empty() ? mask.sequence_offsets : mask.key_sequence_offsets;
  const auto of_query = heed::detail::reference_sequence(mask.sequence_offsets, i, n_q);
  const auto of_key = heed::detail::reference_sequence(key_offsets, j, n_k);
  if (of_query.number != of_key.number) return false;
  const Index ahead = heed::detail::reference_pair(mask, i, j, n_q, n_k, 0).ahead;
  return (ahead <= 0 && -ahead <= window_left) || j - of_key.first < n_sinks;
}

/// The same for tokens, which the definition of the tree sends to their leaves.
template <class S>
PairMatrix pairs_of_tree(const DecisionTree<S>& tree, const Inputs<S>& in, const AttentionOptions& options,
                         Index head = 0) {
  const PlainTree plain(tree, in.k, keys_seen(options.mask, in.q.rows(), in.k.rows(), head));
  return pairs_of_leaves(plain.leaves(in.q, false), plain.leaves(in.k, true), tree.height(), options.mask, head);
}

/// Routing of all queries and all keys but padding, token by token.
template <class S>
double tree_flops(const DecisionTree<S>& tree, const FlopCase& sizes) {
  const PlainTree plain(tree);
  double flops = 0;
  for (Index i = 0; i < sizes.n_q; ++i) flops += plain.route_flops(false);
  for (Index j = 0; j < present_keys_of(sizes.options.mask, sizes.n_k); ++j) flops += plain.route_flops(true);
  return flops;
}

}  // namespace heed::test
