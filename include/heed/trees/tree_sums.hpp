#pragma once
#include <algorithm>
#include <type_traits>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// Sums of the gradient of a tree; rows of planes are padded to whole vectors.
template <class T>
struct TreeSums {
  Index n_nodes = 0, d = 0, stride = 0;
  T* planes = nullptr;  // n_nodes x stride
  T* biases = nullptr;  // n_nodes

  template <class Memory>
  static TreeSums take(Memory& memory, Index n_nodes, Index d) {
    TreeSums sums{n_nodes, d, padded_width(d)};
    sums.planes = memory.template take<T>(n_nodes * sums.stride);
    sums.biases = memory.template take<T>(n_nodes);
    return sums;
  }
  void clear() const {
    std::fill_n(planes, n_nodes * stride, T(0));
    std::fill_n(biases, n_nodes, T(0));
  }
  void add(const TreeSums& other) const {
    for (Index c = 0; c < n_nodes * stride; ++c) planes[c] += other.planes[c];
    for (Index v = 0; v < n_nodes; ++v) biases[v] += other.biases[v];
  }
  /// Writes them to the members of a TreeGradient, or of an object of views, that are not empty.
  template <class Gradient>
  void write(Gradient& to) const {
    const auto w = output_view_of(to.planes);
    const auto b = output_view_of(to.biases);
    for (Index v = 0; v < w.rows; ++v) {
      for (Index c = 0; c < w.cols; ++c) w(v, c) = planes[v * stride + c];
    }
    for (Index v = 0; v < b.rows; ++v) b(v, 0) = biases[v];
  }
};

/// Throws where members of a tree's gradient that are not empty have not its shape.
template <class Gradient, class S>
void check_tree_gradient(Gradient& gradient, const DecisionTree<S>& tree, const char* name) {
  const auto w = output_view_of(gradient.planes);
  const auto b = output_view_of(gradient.biases);
  static_assert(std::is_same_v<typename decltype(w)::Scalar, Accumulator<S>> &&
                    std::is_same_v<typename decltype(b)::Scalar, Accumulator<S>>,
                "heed: the gradient of a tree must have the scalar of its planes, the one sums are kept in");
  const Index rows = tree.planes().rows(), cols = tree.planes().cols();
  if (w.rows * w.cols > 0 && (w.rows != rows || w.cols != cols)) {
    throw ShapeError(
        message(name, ".planes is ", w.rows, " x ", w.cols, " but must be as the tree's planes: ", rows, " x ", cols));
  }
  if (b.rows * b.cols > 0 && (b.rows != rows || b.cols != 1)) {
    throw ShapeError(
        message(name, ".biases is ", b.rows, " x ", b.cols, " but must be as the tree's biases: ", rows, " x 1"));
  }
}

}  // namespace heed::detail
