#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include <Eigen/Core>

#include "heed/approx/tf_attention.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/plain_tree.hpp"
#include "support/trees.hpp"

namespace heed::test {

/// The routing gradient of TF-attention of one head, from its definition in plain loops and double.
struct PlainRouting {
  Matrix<double> d_q, d_k;
  std::vector<TreeGradient<double>> trees;
  double pairs = 0;        ///< looked at beyond those of the softmax
  double token_nodes = 0;  ///< tokens times nodes of their tree
  double rerouted = 0;     ///< tokens times decisions on the paths to flipped leaves
};

/// Signals dL/dg_l of one tree: of query i at leaf l, of key j at leaf l.
struct PlainSignals {
  Matrix<double> of_queries, of_keys;
};

/// Everything about a call that the routing gradient reads.
struct PlainTfCall {
  using Bools = PairMatrix;
  Matrix<double> q, k, v, d_out, scores;  // scores: n_q x n_k, of kept pairs
  Bools kept, near;
  std::vector<PlainTree> trees;
  std::vector<Bools> in_tree;
  std::vector<Vector<Index>> query_leaf, key_leaf;
  std::vector<bool> seen_key;
  Vector<double> lse, mean;

  template <class S>
  PlainTfCall(const std::vector<DecisionTree<S>>& given, const TfOptions& tf, const Inputs<S>& in,
              const Matrix<double>& grad, const AttentionOptions& options, const BackwardOptions& backward, Index head)
      : q(in.q.template cast<double>()), k(in.k.template cast<double>()), v(in.v.template cast<double>()), d_out(grad) {
    const Index n_q = q.rows(), n_k = k.rows();
    kept = near = Bools::Constant(n_q, n_k, false);
    scores.setZero(n_q, n_k);
    lse.setConstant(n_q, minus_infinity_of<double>());
    mean.setZero(n_q);
    seen_key = keys_seen(options.mask, n_q, n_k, head);
    for (const DecisionTree<S>& tree : given) {
      trees.emplace_back(tree, in.k, seen_key);
      in_tree.push_back(pairs_of_tree(tree, in, options, head));
      query_leaf.push_back(trees.back().leaves(in.q, false));
      key_leaf.push_back(trees.back().leaves(in.k, true));
    }
    const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(q.cols())));
    const double sink = options.sinks.given() ? std::exp(options.sinks.of(head)) : 0.0;
    for (Index i = 0; i < n_q; ++i) {
      double sum = sink;
      Eigen::RowVectorXd out = Eigen::RowVectorXd::Zero(v.cols());
      for (Index j = 0; j < n_k; ++j) {
        const auto pair = heed::detail::reference_pair(options.mask, i, j, n_q, n_k, head);
        kept(i, j) = pair.kept;
        if (!pair.kept) continue;
        near(i, j) = is_near(options.mask, i, j, n_q, n_k, tf.window_left.value_or(-1), tf.n_sinks);
        scores(i, j) = heed::detail::reference_score<double>(view_of(q), view_of(k), options, scale, i, j, pair.ahead,
                                                             NoScoreMod{}, head);
        if (!seen(i, j)) continue;
        sum += std::exp(scores(i, j));
        out += std::exp(scores(i, j)) * v.row(j);
      }
      if (sum == 0) continue;
      lse(i) = std::log(sum);
      mean(i) = d_out.row(i).dot(out) / sum;
      if (backward.d_lse.given()) mean(i) -= heed::detail::gradient_of_lse(backward.d_lse, i, head);
    }
  }

  bool seen(Index i, Index j) const {
    bool any = near(i, j);
    for (const Bools& pairs : in_tree) any = any || pairs(i, j);
    return kept(i, j) && any;
  }
  /// Seen in another way than as a key of the query's own leaf of tree t.
  bool seen_otherwise(std::size_t t, Index i, Index j) const {
    bool any = near(i, j);
    for (std::size_t other = 0; other < trees.size(); ++other)
      any = any || (in_tree[other](i, j) && (other != t || query_leaf[t](i) != key_leaf[t](j)));
    return kept(i, j) && any;
  }
  double term(Index i, Index j) const {
    return std::exp(scores(i, j) - lse(i)) * (d_out.row(i).dot(v.row(j)) - mean(i));
  }
};

/// Signals at all leaves by the formulas in the documentation of TfAttention.
inline PlainSignals plain_signals(const PlainTfCall& call, std::size_t t, bool bounded) {
  const Index n_q = call.q.rows(), n_k = call.k.rows(), n_leaves = call.trees[t].n_leaves();
  PlainSignals u{Matrix<double>::Zero(n_q, n_leaves), Matrix<double>::Zero(n_k, n_leaves)};
  for (Index i = 0; i < n_q; ++i) {
    const Index own = call.query_leaf[t](i);
    for (Index l = 0; l < n_leaves; ++l) {
      double sum = 0, mass = 0;
      for (Index j = 0; j < n_k; ++j) {
        if (!call.kept(i, j) || call.key_leaf[t](j) != l || call.seen_otherwise(t, i, j)) continue;
        sum += call.term(i, j);
        mass += std::exp(call.scores(i, j) - call.lse(i));
      }
      u.of_queries(i, l) = bounded && l != own ? sum / (1 + mass) : sum;
    }
  }
  for (Index j = 0; j < n_k; ++j) {
    for (Index i = 0; i < n_q; ++i) {
      const Index l = call.query_leaf[t](i);
      if (!call.kept(i, j) || call.seen_otherwise(t, i, j)) continue;
      const double share = std::exp(call.scores(i, j) - call.lse(i));
      u.of_keys(j, l) += bounded && l != call.key_leaf[t](j) ? call.term(i, j) / (1 + share) : call.term(i, j);
    }
  }
  return u;
}

/// Leaves a token hears of: its own, and those it would come to by one other decision and its own ones behind it, or
/// all.
inline std::vector<Index> leaves_heard(const PlainTree& tree, const Matrix<double>& x, Index i, bool as_keys,
                                       RoutingGradient routing) {
  const Index own = tree.leaf(x, i, as_keys), height = tree.height();
  std::vector<Index> leaves{own};
  if (routing == RoutingGradient::all_leaves) {
    for (Index l = 0; l < tree.n_leaves(); ++l) {
      if (l != own) leaves.push_back(l);
    }
    return leaves;
  }
  for (Index flipped = 0; flipped < height; ++flipped) {
    Index node = 0;
    for (Index t = 0; t < height; ++t) {
      const bool second = tree.projection(x, i, as_keys, node) >= 0;
      node = 2 * node + (second != (t == flipped) ? 2 : 1);
    }
    leaves.push_back(node + 1 - tree.n_leaves());
  }
  return leaves;
}

/// From signals at leaves to planes, biases and one kind of tokens, straight through the signs.
inline void add_plain_chain(const PlainTree& tree, const Matrix<double>& x, bool as_keys,
                            const std::vector<bool>& counts, const Matrix<double>& u, RoutingGradient routing,
                            TreeGradient<double>& to, Matrix<double>& d_x) {
  const Index height = tree.height(), n_nodes = tree.n_leaves() - 1;
  for (Index i = 0; i < x.rows(); ++i) {
    if (!counts[static_cast<std::size_t>(i)]) continue;
    const std::vector<Index> leaves = leaves_heard(tree, x, i, as_keys, routing);
    Vector<double> s(n_nodes), g(static_cast<Index>(leaves.size())), y = Vector<double>::Zero(n_nodes);
    for (Index v = 0; v < n_nodes; ++v) s(v) = tree.projection(x, i, as_keys, v) >= 0 ? 1 : -1;
    const auto on_path = [&](Index leaf, const auto& visit) {  // visit(node, the side on which the path goes on)
      Index node = 0;
      for (Index t = 0; t < height; ++t) {
        const Index bit = leaf >> (height - 1 - t) & 1;
        visit(node, bit != 0 ? 1.0 : -1.0);
        node = 2 * node + 1 + bit;
      }
    };
    double sum = 0, mean = 0;
    for (std::size_t m = 0; m < leaves.size(); ++m) {
      double a = 0;
      on_path(leaves[m], [&](Index v, double side) { a += side * s(v); });
      g(static_cast<Index>(m)) = std::exp(a);
      sum += std::exp(a);
      mean += std::exp(a) * u(i, leaves[m]);
    }
    for (std::size_t m = 0; m < leaves.size(); ++m) {
      const double d_a = g(static_cast<Index>(m)) / sum * (u(i, leaves[m]) - mean / sum);
      on_path(leaves[m], [&](Index v, double side) { y(v) += side * d_a; });
    }
    double along = 0;
    for (Index v = 0; v < n_nodes; ++v) {
      if (std::abs(tree.projection(x, i, as_keys, v)) > 1) continue;
      to.planes.row(v) += y(v) * x.row(i);
      to.biases(v) += y(v);
      d_x.row(i) += y(v) * tree.planes().row(v);
      along += y(v) * tree.lift(v);
    }
    if (as_keys && tree.extra(x, i) > 0) d_x.row(i) -= along / tree.extra(x, i) * x.row(i);
  }
}

/// All of it. signals_of(call, tree) are the signals of a tree.
template <class Signals>
PlainRouting plain_routing(const PlainTfCall& call, RoutingGradient routing, const Signals& signals_of) {
  const Index n_q = call.q.rows(), n_k = call.k.rows();
  PlainRouting result{Matrix<double>::Zero(n_q, call.q.cols()), Matrix<double>::Zero(n_k, call.k.cols()), {}};
  for (std::size_t t = 0; t < call.trees.size(); ++t) {
    const PlainTree& tree = call.trees[t];
    const PlainSignals u = signals_of(call, t);
    TreeGradient<double> gradient{Matrix<double>::Zero(tree.n_leaves() - 1, call.q.cols()),
                                  Vector<double>::Zero(tree.n_leaves() - 1)};
    add_plain_chain(tree, call.q, false, std::vector<bool>(static_cast<std::size_t>(n_q), true), u.of_queries, routing,
                    gradient, result.d_q);
    add_plain_chain(tree, call.k, true, call.seen_key, u.of_keys, routing, gradient, result.d_k);
    result.trees.push_back(gradient);
    const auto count = [&](Index i, Index j) {
      result.pairs += call.kept(i, j) && !call.seen_otherwise(t, i, j) ? 1 : 0;
    };
    for (Index i = 0; i < n_q; ++i) {
      for (const Index l : leaves_heard(tree, call.q, i, false, routing)) {
        for (Index j = 0; j < n_k; ++j) {
          if (call.key_leaf[t](j) == l) count(i, j);
        }
      }
    }
    // Keys look at their own leaf, and at all leaves, together with the queries; at flips by themselves.
    for (Index j = 0; j < n_k && routing == RoutingGradient::flip; ++j) {
      if (!call.seen_key[static_cast<std::size_t>(j)]) continue;
      for (const Index l : leaves_heard(tree, call.k, j, true, routing)) {
        for (Index i = 0; i < n_q; ++i) {
          if (call.query_leaf[t](i) == l && l != call.key_leaf[t](j)) count(i, j);
        }
      }
    }
    const auto n_keys = std::count(call.seen_key.begin(), call.seen_key.end(), true);
    const double h = static_cast<double>(tree.height()), tokens = static_cast<double>(n_q + n_keys);
    result.token_nodes += tokens * static_cast<double>(tree.n_leaves() - 1);
    if (routing == RoutingGradient::flip) result.rerouted += tokens * h * (h - 1) / 2;
  }
  return result;
}

}  // namespace heed::test
