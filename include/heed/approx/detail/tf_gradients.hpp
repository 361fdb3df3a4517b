#pragma once
#include <cstddef>
#include <span>

#include "heed/core/errors.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/tree_sums.hpp"

namespace heed::detail {

/// Calls visit(gradient, number of its tree, its name) for each of a caller's objects that is there. One without room
/// is not wanted.
template <class Grads, class Visit>
void visit_tree_gradients(Grads& grads, [[maybe_unused]] std::size_t n_trees, const Visit& visit) {
  if constexpr (requires { grads.d_tree; }) {
    if (n_trees == 1) visit(grads.d_tree, std::size_t{0}, "d_tree");
  }
  if constexpr (requires { grads.d_trees; }) {
    for (std::size_t t = 0; n_trees > 1 && t < static_cast<std::size_t>(grads.d_trees.size()); ++t)
      visit(grads.d_trees[t], t, "d_trees");
  }
}

/// True where some number of a gradient is wanted.
template <class Gradient>
bool is_wanted(const Gradient& gradient) {
  return view_of(gradient.planes).rows > 0 || view_of(gradient.biases).rows > 0;
}

/// Throws where a caller's objects do not fit the trees.
template <class S, class Grads>
void check_tf_gradients(Grads& grads, std::span<const DecisionTree<S>> trees) {
  if constexpr (requires { grads.d_tree; }) {
    if (trees.size() > 1 && is_wanted(grads.d_tree)) {
      throw ShapeError(message("d_tree.planes has ", view_of(grads.d_tree.planes).rows,
                               " rows but must be empty: there are ", trees.size(),
                               " trees, whose gradients are in d_trees"));
    }
  }
  if constexpr (requires { grads.d_trees; }) {
    const auto size = static_cast<std::size_t>(grads.d_trees.size());
    if (size > 0 && size != (trees.size() > 1 ? trees.size() : 0)) {
      throw ShapeError(message("d_trees has ", size, " entries but must have ", trees.size() > 1 ? trees.size() : 0,
                               ": one per tree, and none for a single tree, whose gradient is d_tree"));
    }
  }
  visit_tree_gradients(grads, trees.size(), [&](auto& gradient, std::size_t t, const char* name) {
    check_tree_gradient(gradient, trees[t], name);
  });
}

/// Sums for the gradients that are wanted, at zero; those of other trees have no planes.
template <class T, class S, class Grads>
TreeSums<T>* take_tree_sums(Grads& grads, std::span<const DecisionTree<S>> trees, Workspace::Frame& frame) {
  auto* sums = frame.take<TreeSums<T>>(static_cast<Index>(trees.size()));
  for (std::size_t t = 0; t < trees.size(); ++t) sums[t] = {};
  visit_tree_gradients(grads, trees.size(), [&](auto& gradient, std::size_t t, const char*) {
    if (!is_wanted(gradient)) return;
    sums[t] = TreeSums<T>::take(frame, trees[t].planes().rows(), trees[t].planes().cols());
    sums[t].clear();
  });
  return sums;
}

}  // namespace heed::detail
