#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cmath>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/layers/layer_method.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// How unevenly the trees of a layer split its keys, and the gradient of `weight` times it by planes and biases, which
/// is added to those of the store: for stored biases, where medians of the sequence cannot be had (causal attention).
///   B = mean over trees of (1 / h) sum_v (N_v / N) m_v^2,   m_v = mean of tanh(w_v . k + b_v) over the N_v keys in v,
/// is 0 where every node sends as much to either side, 1 where all keys go one way by far. Which keys are in a node
/// stands as it is, and keys themselves are not moved.
///
/// Shapes  k: N x (n_heads d), keys as attention saw them, of all sequences.
/// Empty   0 for trees of height 0 and for no keys.
/// Cost    8 h d flops a key, head and tree, at the speed of plain loops; memory 2^h numbers a tree.
/// Source  the loss is ours; medians balanced better where both were tried.
template <class T>
double add_balance_loss(const detail::LayerMethod<T>& method, ParameterStore<T>& store, const ConstView<T>& k,
                        double weight, const Context& context = {}) {
  const Index n_nodes = method.biases().cols, n_trees = method.biases().rows, d = method.planes().cols;
  if (n_nodes == 0 || n_trees == 0 || k.rows == 0) return 0;
  const Index heads = k.cols / d, height = method.choice().height;
  const ConstView<T> planes = std::as_const(store).values(method.planes()),
                     biases = std::as_const(store).values(method.biases());
  const View<T> d_planes = store.gradients(method.planes()), d_biases = store.gradients(method.biases());
  const double share = 1.0 / (static_cast<double>(height) * static_cast<double>(k.rows));
  double balance = 0;
  const detail::WithWorkspace own_context(context);
  Workspace::Frame frame(own_context.workspace());
  double *mean = frame.take<double>(n_nodes), *count = frame.take<double>(n_nodes);
  for (Index t = 0; t < n_trees; ++t) {
    const ConstView<T> own = k.columns(t / (n_trees / heads) * d, d);
    const auto visit = [&](const auto& at_node) {  // every key and node on its path
      for (Index j = 0; j < own.rows; ++j) {
        for (Index v = 0; v < n_nodes;) {
          const T z = (detail::row_of(planes, t * n_nodes + v) * detail::row_of(own, j)).sum() + biases(t, v);
          at_node(j, v, std::tanh(static_cast<double>(z)));
          v = 2 * v + (z >= 0 ? 2 : 1);
        }
      }
    };
    std::fill_n(mean, n_nodes, 0.0);
    std::fill_n(count, n_nodes, 0.0);
    visit([&](Index, Index v, double side) {
      mean[v] += side;
      count[v] += 1;
    });
    for (Index v = 0; v < n_nodes; ++v) {
      if (count[v] == 0) continue;
      mean[v] /= count[v];
      balance += share * count[v] * mean[v] * mean[v] / static_cast<double>(n_trees);
    }
    if (weight == 0) continue;
    // dB/dz = (1 / (h N)) 2 m_v (1 - tanh(z)^2): N_v of the mean cancels that of the share.
    visit([&](Index j, Index v, double side) {
      const T d_z = static_cast<T>(weight / static_cast<double>(n_trees) * share * 2 * mean[v] * (1 - side * side));
      detail::row_of(d_planes, t * n_nodes + v) += d_z * detail::row_of(own, j);
      d_biases(t, v) += d_z;
    });
  }
  return balance;
}

}  // namespace heed

#include "heed/core/macros_back.inl"
