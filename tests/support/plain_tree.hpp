#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <Eigen/Core>

#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/reference.hpp"
#include "heed/trees/decision_tree.hpp"

namespace heed::test {

/// Flags the keys that some query of one head keeps.
inline std::vector<bool> keys_seen(const Mask& mask, Index n_q, Index n_k, Index head = 0) {
  std::vector<bool> seen(static_cast<std::size_t>(n_k), false);
  for (Index j = 0; j < n_k; ++j) {
    for (Index i = 0; i < n_q && !seen[static_cast<std::size_t>(j)]; ++i)
      seen[static_cast<std::size_t>(j)] = heed::detail::reference_pair(mask, i, j, n_q, n_k, head).kept;
  }
  return seen;
}

/// Where a tree sends tokens, from its definition in plain loops and double: at node v a row x goes to the second
/// child where (w_v . x + u_v e(x)) + b_v >= 0, u_v the weight of the lift and e(x) = sqrt(max(0, radius^2 - |x|^2))
/// for keys, 0 for queries.
class PlainTree {
 public:
  template <class S>
  explicit PlainTree(const DecisionTree<S>& tree)
      : height_(tree.height()),
        planes_(tree.planes().template cast<double>()),
        biases_(tree.biases().template cast<double>()),
        weights_(Vector<double>::Zero(biases_.size())) {
    if (!tree.lift()) return;
    lifted_ = true;
    radius_ = static_cast<double>(tree.lift()->radius);
    weights_ = tree.lift()->weights.template cast<double>();
  }

  /// The same with the biases of a call over `keys`: under TreeBiases::key_medians, minus the upper median of each
  /// node's products with those of the `counted` keys that reach it.
  template <class S, class K>
  PlainTree(const DecisionTree<S>& tree, const K& keys, const std::vector<bool>& counted) : PlainTree(tree) {
    if (tree.bias_rule() == TreeBiases::stored) return;
    std::vector<Index> some;
    for (Index j = 0; j < keys.rows(); ++j) {
      if (counted[static_cast<std::size_t>(j)]) some.push_back(j);
    }
    biases_.setZero();
    take_medians(keys, some, 0);
  }

  Index height() const { return height_; }
  Index n_leaves() const { return Index(1) << height_; }

  const Matrix<double>& planes() const { return planes_; }
  double bias(Index node) const { return biases_(node); }
  /// Weight of the extra coordinate of keys, 0 without a lift; and that coordinate of a token.
  double lift(Index node) const { return weights_(node); }
  template <class X>
  double extra(const X& tokens, Index i) const {
    double square = 0;
    for (Index c = 0; c < tokens.cols(); ++c)
      square += static_cast<double>(tokens(i, c)) * static_cast<double>(tokens(i, c));
    return lifted_ ? std::sqrt(std::max(0.0, radius_ * radius_ - square)) : 0.0;
  }
  /// z of token i at a node.
  template <class X>
  double projection(const X& tokens, Index i, bool as_key, Index node) const {
    return product(tokens, i, as_key, node) + biases_(node);
  }

  template <class X>
  Index leaf(const X& tokens, Index i, bool as_key) const {
    Index node = 0;
    for (Index level = 0; level < height_; ++level)
      node = 2 * node + (product(tokens, i, as_key, node) + biases_(node) >= 0 ? 2 : 1);
    return node + 1 - n_leaves();
  }
  template <class X>
  Vector<Index> leaves(const X& tokens, bool as_keys) const {
    Vector<Index> leaf_of(tokens.rows());
    for (Index i = 0; i < tokens.rows(); ++i) leaf_of(i) = leaf(tokens, i, as_keys);
    return leaf_of;
  }
  /// Multiplications and additions of routing one token: two an entry of the planes it meets.
  double route_flops(bool as_key) const {
    double flops = 0;
    for (Index level = 0; level < height_; ++level)
      flops += 2.0 * static_cast<double>(planes_.cols() + (lifted_ && as_key));
    return flops;
  }

 private:
  template <class X>
  double product(const X& tokens, Index i, bool as_key, Index node) const {
    double sum = 0, square = 0;
    for (Index c = 0; c < tokens.cols(); ++c) {
      const double x = static_cast<double>(tokens(i, c));
      sum += planes_(node, c) * x;
      square += x * x;
    }
    return lifted_ && as_key ? sum + weights_(node) * std::sqrt(std::max(0.0, radius_ * radius_ - square)) : sum;
  }

  template <class K>
  void take_medians(const K& keys, const std::vector<Index>& some, Index node) {
    if (node >= biases_.size() || some.empty()) return;
    std::vector<double> products;
    for (const Index j : some) products.push_back(product(keys, j, true, node));
    std::vector<double> sorted = products;
    std::sort(sorted.begin(), sorted.end());
    const double median = sorted[sorted.size() / 2];
    biases_(node) = -median;
    std::vector<Index> child[2];
    for (std::size_t t = 0; t < some.size(); ++t) child[products[t] >= median ? 1 : 0].push_back(some[t]);
    take_medians(keys, child[0], 2 * node + 1);
    take_medians(keys, child[1], 2 * node + 2);
  }

  Index height_;
  Matrix<double> planes_;
  Vector<double> biases_, weights_;
  bool lifted_ = false;
  double radius_ = 0;
};

}  // namespace heed::test
