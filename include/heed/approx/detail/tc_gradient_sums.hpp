#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/approx/detail/tc_backward.hpp"
#include "heed/approx/detail/tc_head.hpp"
#include "heed/approx/detail/tc_signals.hpp"
#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/tree_sums.hpp"

namespace heed::detail {

/// Sums over heads of the gradients by the parameters of TC-attention.
template <class T>
class TcGradientSums {
 public:
  /// Makes room for what `gradients` has a place for.
  template <class S, class Grads>
  TcGradientSums(const DecisionTree<S>& tree, bool routes, Grads& gradients, Workspace::Frame& frame)
      : n_levels_(tree.height() + 1), routes_(routes) {
    d_logits_ = frame.take<double>(n_levels_);
    std::fill_n(d_logits_, n_levels_, 0.0);
    if constexpr (requires { gradients.d_tree; }) {
      if (routes && (is_wanted(gradients.d_tree.planes) || is_wanted(gradients.d_tree.biases))) {
        tree_ = TreeSums<T>::take(frame, tree.n_leaves() - 1, tree.d());
        tree_.clear();
      }
    }
    Index* nodes = frame.take<Index>(tree.n_leaves() - 1);
    for (Index node = 0; node < tree.n_leaves() - 1; ++node) nodes[node] = node;
    nodes_ = nodes;
  }

  /// Goes backward through one head, whose router has the biases of its keys. The context brings a workspace.
  template <class Call>
  void add(const TcHead<Call>& head, const Router<T>& router, const Context& context) const {
    const TcRouting<T> routing{router, tree_, nodes_};
    TcBackward<Call>(head, d_logits_, routes_ ? &routing : nullptr, context).run();
  }

  template <class Grads>
  void write(Grads& gradients) const {
    if constexpr (requires { gradients.d_tree; }) {
      if (tree_.planes != nullptr) {
        tree_.write(gradients.d_tree);
      } else {
        fill(output_view_of(gradients.d_tree.planes), T(0));
        fill(output_view_of(gradients.d_tree.biases), T(0));
      }
    }
    if constexpr (requires { gradients.d_level_logits; }) {
      const auto to = output_view_of(gradients.d_level_logits);
      for (Index t = 0; t < to.rows; ++t) to(t, 0) = static_cast<T>(d_logits_[t]);
    }
  }

 private:
  template <class Gradient>
  static bool is_wanted(Gradient& gradient) {
    const auto to = output_view_of(gradient);
    return to.rows * to.cols > 0;
  }

  Index n_levels_;
  bool routes_;
  double* d_logits_;
  TreeSums<T> tree_;
  const Index* nodes_ = nullptr;
};

}  // namespace heed::detail
