#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/approx/projected_gradients.hpp"
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/vector_view.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/matrix_product.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/exact/attend_over.hpp"  // the doors, for those who include a value source alone
#include "heed/exact/call_values.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed::detail {

/// Adds what one dense product of `rows` rows costs.
inline void count_projection(FlopCounter* flops, double rows, double d_in, double columns) {
  if (flops != nullptr) flops->add_products(Phase::project, 2.0 * rows * d_in * columns);
}

/// Number of rows of x that may be read. Padding is not read, and its value rows are 0.
inline Index real_keys(const Mask& mask, Index n_k) { return std::min(mask.n_real_keys, n_k); }

/// Threads worth waking for a dense product: one for about ten microseconds of arithmetic.
inline int projection_threads(Index asked, double products) { return threads_for(products, 1e6, thread_count(asked)); }

/// True where x or w_v is a matrix that would be gone after the call.
template <class X, class W>
concept dangling_operands = (OwningMatrix<X> && !std::is_lvalue_reference_v<X>) ||
                            (OwningMatrix<W> && !std::is_lvalue_reference_v<W>);

/// Base of value sources X W_v + b: views of x: n_k x d_in and of w_v: d_in x (n_kv_heads * d_v), and what is done with
/// the rows.
template <class S>
class ValueOperands {
 public:
  using Scalar = S;
  using Gradients = ProjectedGradients<S>;
  static constexpr bool computes_rows = true;
  static constexpr const char *rows_from = "x", *columns_from = "w_v";

  Index n_keys() const { return x_.rows; }
  Index width() const { return w_.cols; }

  /// See core/values.hpp.
  void size_gradients(Gradients& grads) const {
    grads.d_x.resize(x_.rows, x_.cols);
    grads.d_w_v.resize(w_.rows, w_.cols);
    grads.d_b_v.resize(has_bias_ ? w_.cols : 0);
  }
  template <class Grads>
  void check_gradients(const Grads& grads) const {
    check_value_gradients(grads, x_, w_, has_bias_);
  }

 protected:
  ValueOperands() = default;  // of constructors that do not compile

  /// Errors  ShapeError if cols(x) != rows(w_v) or b does not fit.
  template <TokenMatrix X, TokenMatrix W>
  ValueOperands(const X& x, const W& w_v, const VectorView& bias)
      : x_(view_of(x)), w_(view_of(w_v)), has_bias_(bias.given()) {
    static_assert(std::is_same_v<typename X::Scalar, S> && std::is_same_v<typename W::Scalar, S>,
                  "heed: x and w_v must have the scalar type of the values: cast them first");
    if (x_.cols != w_.rows)
      throw ShapeError(message("cols(x) = ", x_.cols, " but rows(w_v) = ", w_.rows, ": they must be equal"));
    if (x_.cols > most_size)
      throw ShapeError(message("cols(x) = ", x_.cols, " must be at most 2^", size_bits, " = ", most_size));
    checked_product("rows(x) * cols(x)", {x_.rows, x_.cols});
    checked_product("rows(w_v) * cols(w_v)", {w_.rows, w_.cols});
    checked_product("rows(x) * cols(w_v)", {x_.rows, w_.cols});
    if (bias.given() && bias.size() != w_.cols)
      throw ShapeError(message("bias has ", bias.size(), " entries but must have cols(w_v) = ", w_.cols));
  }

  /// Checks the matrix into which a caller wants all value rows: n_k x width(), without gaps.
  template <class Out>
  S* rows_of(Out&& out) const {
    const auto to = output_view_of(std::forward<Out>(out));
    static_assert(std::is_same_v<typename std::remove_cvref_t<decltype(to)>::Scalar, S>,
                  "heed: out must have the scalar type of x and w_v");
    const bool contiguous = to.rows == 0 || to.cols == 0 ||
                            ((to.cols == 1 || to.col_stride == 1) && (to.rows == 1 || to.row_stride == width()));
    if (to.rows != n_keys() || to.cols != width() || !contiguous) {
      throw ShapeError(message("out is ", to.rows, " x ", to.cols, " but must be rows(x) x cols(w_v) = ", n_keys(),
                               " x ", width(), ", row-major without gaps"));
    }
    return to.data;
  }

  /// Points v of each call at its columns of `rows`, n_k x width() without gaps.
  template <class Call>
  void give_rows(std::span<Call> calls, Index heads_per_kv, const S* rows) const {
    give_values(calls, heads_per_kv, ConstView<S>{rows, x_.rows, w_.cols, w_.cols, 1});
  }

  /// Makes X W_v + b for the first n_real tokens and 0 for the others: 2 n_real d_in width() flops. The context brings
  /// a workspace.
  void multiply_rows(const VectorView& bias, Index n_real, const Context& context, S* rows) const {
    using T = Accumulator<S>;
    Workspace::Frame frame(*context.workspace);
    const Index n_k = x_.rows, columns = w_.cols;
    const double products = static_cast<double>(n_real) * static_cast<double>(x_.cols) * static_cast<double>(columns);
    const int threads = projection_threads(context.threads, products);
    std::fill(rows + n_real * columns, rows + n_k * columns, S(0));
    PackedWeights<S> weights(w_, active_isa());
    weights.pack(frame, threads);
    const ConstView<S> real{x_.data, n_real, x_.cols, x_.row_stride, x_.col_stride};
    project_rows<S>(real, weights, Index(0), columns, take_bias<T>(frame, bias, columns),
                    View<S>{rows, n_k, columns, columns, 1}, *context.workspace, threads);
    count_projection(context.flops, static_cast<double>(n_real), static_cast<double>(x_.cols),
                     static_cast<double>(columns));
  }

  /// Points d_v of each call at its columns of sums that start from 0: (n_k + n_more) x width() without gaps.
  template <class Call>
  View<Accumulator<S>> give_sums(std::span<Call> calls, Index heads_per_kv, Index n_more,
                                 Workspace::Frame& frame) const {
    using T = Accumulator<S>;
    const Index n_rows = x_.rows + n_more, columns = w_.cols,
                d_v = columns * heads_per_kv / static_cast<Index>(calls.size());
    const View<T> sums{frame.take<T>(n_rows * columns), n_rows, columns, columns, 1};
    std::fill(sums.data, sums.data + n_rows * columns, T(0));
    for (std::size_t c = 0; c < calls.size(); ++c)
      calls[c].d_v = sums.rows_from(0, x_.rows).columns(static_cast<Index>(c) / heads_per_kv * d_v, d_v);
    return sums;
  }

  ConstView<S> x_, w_;
  bool has_bias_ = false;
};

}  // namespace heed::detail
