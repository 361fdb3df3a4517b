#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <vector>

#include <Eigen/Core>

#include "heed/approx/tf_attention.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/plain_tree.hpp"
#include "support/trees.hpp"

namespace heed::test {

/// TF-attention's answer and how many pairs it is made of.
struct TfAnswer {
  AttentionResult<double> result;
  Matrix<double> weights{};  ///< n_q x n_k: of keys seen one by one
  double pairs = 0;          ///< of a query and a key
  double centroids = 0;      ///< of a query and what stands for the rest of a leaf
};

/// TF-attention of one head with all its options, from its definition in plain loops.
template <class S>
TfAnswer tf_formula(const DecisionTree<S>& tree, const TfOptions& tf, const Inputs<S>& in,
                    const AttentionOptions& options, Index head = 0) {
  const Index n_q = in.q.rows(), n_k = in.k.rows(), d = in.q.cols(), d_v = in.v.cols();
  const PairMatrix in_leaf = pairs_of_tree(tree, in, options, head);
  const std::vector<bool> seen = keys_seen(options.mask, n_q, n_k, head);
  const Vector<Index> leaf = PlainTree(tree, in.k, seen).leaves(in.k, true);
  const auto q = in.q.template cast<double>().eval(), k = in.k.template cast<double>().eval(),
             v = in.v.template cast<double>().eval();
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d)));
  const BiasView given_bias = options.mask.bias.of_head(head, n_q);
  // The place of a key in its leaf. One that no query keeps takes none.
  std::vector<Index> rank(static_cast<std::size_t>(n_k)), size(static_cast<std::size_t>(tree.n_leaves()));
  for (Index j = 0; j < n_k; ++j) {
    if (seen[static_cast<std::size_t>(j)])
      rank[static_cast<std::size_t>(j)] = size[static_cast<std::size_t>(leaf(j))]++;
  }
  const double sink = options.sinks.given() ? options.sinks.of(head) : minus_infinity_of<double>();
  TfAnswer answer{{Matrix<double>::Zero(n_q, d_v), Vector<double>::Constant(n_q, sink)},
                  Matrix<double>::Zero(n_q, n_k)};
  for (Index i = 0; i < n_q; ++i) {
    std::vector<double> scores;
    std::vector<Eigen::RowVectorXd> values;
    std::vector<Index> key;  // -1: a centroid
    if (!heed::detail::reference_query_is_real(options.mask, i)) {
      answer.result.lse(i) = minus_infinity_of<double>();
      continue;
    }
    for (Index l = 0; l < tree.n_leaves(); ++l) {
      double n = 0, position = 0, bias = 0, diagonal = 0;
      Eigen::RowVectorXd mean_k = Eigen::RowVectorXd::Zero(d), mean_v = Eigen::RowVectorXd::Zero(d_v);
      for (Index j = 0; j < n_k; ++j) {
        const auto pair = heed::detail::reference_pair(options.mask, i, j, n_q, n_k, head);
        if (leaf(j) != l || !pair.kept) continue;
        const bool near = is_near(options.mask, i, j, n_q, n_k, tf.window_left.value_or(-1), tf.n_sinks);
        const bool capped = tf.leaf_cap && rank[static_cast<std::size_t>(j)] >= *tf.leaf_cap;
        if (in_leaf(i, j) ? !capped : near) {
          scores.push_back(heed::detail::reference_score<double>(view_of(q), view_of(k), options, scale, i, j,
                                                                 pair.ahead, NoScoreMod{}, head));
          values.push_back(v.row(j));
          key.push_back(j);
          ++answer.pairs;
        } else if (in_leaf(i, j)) {
          n += 1;
          diagonal = static_cast<double>(j - pair.ahead);
          position += static_cast<double>(j);
          if (given_bias.given()) bias += given_bias.at(i, j);
          mean_k += k.row(j);
          mean_v += v.row(j);
        }
      }
      if (n == 0) continue;
      ++answer.centroids;
      double s = scale * q.row(i).dot(mean_k / n);
      if (options.softcap) s = *options.softcap * std::tanh(s / *options.softcap);
      s += bias / n;
      if (options.mask.alibi_slope.given()) s -= options.mask.alibi_slope.of(head) * std::abs(diagonal - position / n);
      scores.push_back(s + std::log(n));
      values.push_back(mean_v / n);
      key.push_back(-1);
    }
    if (scores.empty()) continue;
    const double top = std::max(sink, *std::max_element(scores.begin(), scores.end()));
    double sum = options.sinks.given() ? std::exp(sink - top) : 0.0;
    for (std::size_t t = 0; t < scores.size(); ++t) {
      sum += std::exp(scores[t] - top);
      answer.result.out.row(i) += std::exp(scores[t] - top) * values[t];
    }
    answer.result.out.row(i) /= sum;
    answer.result.lse(i) = top + std::log(sum);
    for (std::size_t t = 0; t < scores.size(); ++t) {
      if (key[t] >= 0) answer.weights(i, key[t]) = std::exp(scores[t] - answer.result.lse(i));
    }
  }
  return answer;
}

}  // namespace heed::test
