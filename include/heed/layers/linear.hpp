#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/matrix_product.hpp"
#include "heed/engine/transposed_product.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// y = x W + b.
///
/// Shapes  x: n x n_in, W: n_in x n_out, b: n_out, y: n x n_out; any strides of x and y.
/// Cost    2 n n_in n_out flops, 4 n n_in n_out backward, at the speed of the tile kernels. The context must bring a
///         workspace.
/// Threads the same bits for any context.threads.
template <class T>
class Linear {
 public:
  Linear() = default;
  /// Adds W = N(0, 1 / n_in) as "<name>.w" and, where it `has_bias`, b = 0 as "<name>.b".
  Linear(ParameterStore<T>& store, const std::string& name, Index n_in, Index n_out, bool has_bias,
         std::uint64_t seed) {
    store.add_all_or_none([&] {
      w_ = store.add(name + ".w", n_in, n_out);
      if (has_bias) b_ = store.add(name + ".b", 1, n_out, {.decays = false});
    });
    store.fill_normal(w_, 1.0 / std::sqrt(static_cast<double>(std::max<Index>(1, n_in))), seed);
  }

  const Slice& weights() const { return w_; }
  const Slice& bias() const { return b_; }
  Index n_in() const { return w_.rows; }
  Index n_out() const { return w_.cols; }

  void forward(const ParameterStore<T>& store, const ConstView<T>& x, const View<T>& y, const Context& context) const {
    multiply(store.values(w_), b_.given() ? store.values(b_).data : nullptr, x, y, context);
  }

  /// d_W += x^T d_y, d_b += the sum of rows of d_y, d_x = d_y W^T (left out where d_x has no data).
  void backward(ParameterStore<T>& store, const ConstView<T>& x, const ConstView<T>& d_y, const View<T>& d_x,
                const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    const View<T> d_w = detail::take_rows<T>(frame, w_.rows, w_.cols);
    const int threads = detail::thread_count(context.threads);
    detail::multiply_transposed(x, d_y, TokenSet{0, x.rows}, d_w, *context.workspace, threads);
    T* sum = store.gradients(w_).data;
    for (Index e = 0; e < w_.size(); ++e) sum[e] += d_w.data[e];
    if (b_.given()) {
      T* sum_b = store.gradients(b_).data;
      for (Index i = 0; i < d_y.rows; ++i) {
        for (Index c = 0; c < d_y.cols; ++c) sum_b[c] += d_y(i, c);
      }
    }
    if (d_x.data != nullptr)
      multiply(detail::transposed(detail::read_only(store.values(w_))), nullptr, d_y, d_x, context);
  }

 private:
  static void multiply(const ConstView<T>& w, const T* bias, const ConstView<T>& x, const View<T>& y,
                       const Context& context) {
    Workspace::Frame frame(*context.workspace);
    const int threads = detail::thread_count(context.threads);
    detail::PackedWeights<T> packed(w, active_isa());
    packed.pack(frame, threads);
    detail::project_rows<T>(x, packed, Index(0), w.cols, bias, y, *context.workspace, threads);
  }

  Slice w_, b_;
};

}  // namespace heed
