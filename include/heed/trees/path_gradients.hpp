#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"
#include "heed/trees/path_sums.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// Gradients by the sums of every node of a tree (PathSums): what a key in a node gets by its value row, by its key row
/// and by being there at all. Nodes are numbered as there.
template <class T>
struct PathGradients {
  Index height = 0;
  Index d_v = 0;
  Index d = 0;         // 0: none by key rows
  T* count = nullptr;  // 2^(height + 1)
  T* v = nullptr;      // 2^(height + 1) x d_v
  T* k = nullptr;      // 2^(height + 1) x d

  Index n_nodes() const { return Index(2) << height; }

  /// Takes memory from a Scratch or a Frame.
  /// Errors  ShapeError for more than memory can hold.
  template <class Memory>
  static PathGradients take(Memory& memory, Index height, Index d_v, Index d) {
    PathGradients to{height, d_v, d};
    const Index nodes = to.n_nodes(), v_size = checked_product("nodes of the tree times d_v", {nodes, d_v}),
                k_size = checked_product("nodes of the tree times d", {nodes, d});
    to.count = memory.template take<T>(nodes);
    to.v = memory.template take<T>(v_size);
    to.k = memory.template take<T>(k_size);
    return to;
  }

  void clear() const {
    std::fill_n(count, n_nodes(), T(0));
    std::fill_n(v, n_nodes() * d_v, T(0));
    std::fill_n(k, n_nodes() * d, T(0));
  }

  /// Adds to every node what those above it hold: a leaf then has what a key gets from its whole path.
  void sum_down() const {
    for (Index node = 2; node < n_nodes(); ++node) {
      const Index above = node / 2;
      count[node] += count[above];
      for (Index c = 0; c < d_v; ++c) v[node * d_v + c] += v[above * d_v + c];
      for (Index c = 0; c < d; ++c) k[node * d + c] += k[above * d + c];
    }
  }
};

/// What each level of each query's path gives the sums of its node: entry (t, i) at t * n_q + i.
template <class T>
struct PathShares {
  Index n_q = 0;
  T* v = nullptr;      // times d_out_i: by the sum of value rows; no_weight where the level does not count
  T* k = nullptr;      // times q_i: by the sum of key rows
  T* count = nullptr;  // by the number of keys

  static PathShares take(Workspace::Frame& frame, Index n_levels, Index n_q) {
    PathShares shares{n_q};
    for (T** part : {&shares.v, &shares.k, &shares.count}) *part = frame.take<T>(n_levels * n_q);
    return shares;
  }
  bool counts(Index at) const { return !(v[at] < 0); }
};

/// One row of any storage scalar, to be multiplied by rows of T.
template <class T>
class WidenedRow {
 public:
  WidenedRow(Scratch& scratch, Index width, Isa isa)
      : width_(width), isa_(isa), row_(scratch.take<T>(padded_width(width))) {}

  template <class S>
  void load(const ConstView<S>& rows, Index i) const {
    std::fill_n(row_, padded_width(width_), T(0));
    storage_kernels<T, KernelScalar<S>>(isa_).gather(kernel_pointer(rows.data) + i * rows.row_stride, rows.row_stride,
                                                     rows.col_stride, nullptr, 1, width_, row_, width_);
  }
  T* data() const { return row_; }
  T dot(const T* other) const {
    T product = 0;
    storage_kernels<T, T>(isa_).row_scores(other, width_, 1, row_, width_, 1, width_, &product, 1);
    return product;
  }

 private:
  Index width_;
  Isa isa_;
  T* row_;
};

/// to(j, c) += row[c].
template <class T>
void add_row(const View<T>& to, Index j, const T* row) {
  T* at = to.data + j * to.row_stride;
  if (to.col_stride == 1) {
    for (Index c = 0; c < to.cols; ++c) at[c] += row[c];
    return;
  }
  for (Index c = 0; c < to.cols; ++c) at[c * to.col_stride] += row[c];
}

}  // namespace heed::detail
