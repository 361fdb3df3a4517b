#pragma once
#include <algorithm>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/matrix_product.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/engine/transposed_product.hpp"
#include "heed/kernels/select.hpp"

namespace heed {

/// Gradients of values V = X W_v + b by what they are made from, in the place of d_v:
///   d_x = d_v W_v^T, summed over the key heads;   d_w_v = X^T d_v;   d_b_v_c = sum_j d_v_jc.
/// Of sampled values they are those of the very products that were drawn.
template <class S>
struct ProjectedGradients {
  Matrix<S> d_x;                 ///< n_k x d_in
  Matrix<S> d_w_v;               ///< d_in x (n_kv_heads * d_v)
  Vector<Accumulator<S>> d_b_v;  ///< cols(w_v) entries where a bias is given; else empty
};

namespace detail {

/// Where the gradients of value operands go. No entries: not wanted.
template <class S>
struct ValueGradientViews {
  View<S> d_x{}, d_w_v{};

  bool wants_x() const { return d_x.rows > 0 && d_x.cols > 0; }
  bool wants_w() const { return d_w_v.rows > 0 && d_w_v.cols > 0; }
};

template <class S, class Grads>
ValueGradientViews<S> value_gradient_views(Grads& grads) {
  ValueGradientViews<S> views;
  if constexpr (requires { grads.d_x; }) views.d_x = output_view_of(grads.d_x);
  if constexpr (requires { grads.d_w_v; }) views.d_w_v = output_view_of(grads.d_w_v);
  return views;
}

template <class G>
void check_value_gradient(const G& gradient, const char* name, const char* must, Index rows, Index cols) {
  const auto view = view_of(gradient);
  if (view.rows * view.cols == 0 || (view.rows == rows && view.cols == cols)) return;
  throw ShapeError(
      message(name, " is ", view.rows, " x ", view.cols, " but must be as ", must, ": ", rows, " x ", cols));
}

/// Errors  ShapeError where a member of grads has entries but not those of x, w_v or the bias.
template <class S, class Grads>
void check_value_gradients(const Grads& grads, const ConstView<S>& x, const ConstView<S>& w, bool bias) {
  if constexpr (requires { grads.d_x; }) {
    static_assert(std::is_same_v<typename std::remove_cvref_t<decltype(view_of(grads.d_x))>::Scalar, S>,
                  "heed: d_x must have the scalar type of x");
    check_value_gradient(grads.d_x, "d_x", "x", x.rows, x.cols);
  }
  if constexpr (requires { grads.d_w_v; }) {
    static_assert(std::is_same_v<typename std::remove_cvref_t<decltype(view_of(grads.d_w_v))>::Scalar, S>,
                  "heed: d_w_v must have the scalar type of w_v");
    check_value_gradient(grads.d_w_v, "d_w_v", "w_v", w.rows, w.cols);
  }
  if constexpr (requires { grads.d_b_v; }) {
    const Index size = static_cast<Index>(grads.d_b_v.size()), must = bias ? w.cols : 0;
    if (size > 0 && size != must)
      throw ShapeError(message("d_b_v has ", size, " entries but must have those of the bias: ", must));
  }
}

/// Column sums of d_v over the first n_real tokens, where they are wanted.
template <class T, class Grads>
void sum_bias_gradient(const ConstView<T>& d_v, Index n_real, Grads& grads, Workspace& workspace) {
  if constexpr (requires { grads.d_b_v; }) {
    if (grads.d_b_v.size() == 0) return;
    Workspace::Frame frame(workspace);
    T* sums = frame.take<T>(d_v.cols);
    std::fill(sums, sums + d_v.cols, T(0));
    for (Index j = 0; j < n_real; ++j) {
      for (Index c = 0; c < d_v.cols; ++c) sums[c] += d_v(j, c);
    }
    for (Index c = 0; c < d_v.cols; ++c)
      grads.d_b_v(c) = static_cast<std::remove_cvref_t<decltype(grads.d_b_v(c))>>(sums[c]);
  }
}

/// The tokens j < n whose row of `d_v` is not all 0. The others are those that no query sees: nothing of theirs may be
/// read, for it may be NaN.
template <class T>
TokenSet moved_tokens(Workspace::Frame& frame, const ConstView<T>& d_v, Index n) {
  Index* list = frame.take<Index>(n);
  Index found = 0;
  for (Index j = 0; j < n; ++j) {
    Index c = 0;
    while (c < d_v.cols && is_zero(d_v(j, c))) ++c;
    if (c < d_v.cols) list[found++] = j;
  }
  return found == n ? TokenSet{0, n} : TokenSet{0, found, list};
}

/// d_x = d_v W^T and d_w_v = X^T d_v over the first n_real tokens, from sums d_v: n_k x cols(w). The context brings a
/// workspace.
///
/// Cost    2 d_in d_v flops for each of the two, a token and key head that has a gradient: Phase::backward_values.
template <class S>
void multiply_gradients(const ConstView<S>& x, const ConstView<S>& w, const ConstView<Accumulator<S>>& d_v, Index n_kv,
                        Index n_real, const ValueGradientViews<S>& to, const Context& context) {
  const double d_in = static_cast<double>(w.rows), columns = static_cast<double>(w.cols);
  const int threads = threads_for(static_cast<double>(n_real) * d_in * columns, 1e6, thread_count(context.threads));
  const auto count = [&](Index n_tokens, double n_columns) {
    if (context.flops != nullptr)
      context.flops->add_products(Phase::backward_values, 2.0 * static_cast<double>(n_tokens) * d_in * n_columns);
  };
  Workspace::Frame frame(*context.workspace);
  if (to.wants_x()) {
    Workspace::Frame inside = frame.nested();
    const TokenSet tokens = moved_tokens(inside, d_v, n_real);
    if (tokens.size < x.rows) fill(to.d_x, S(0));
    PackedWeights<S> weights(transposed(w), active_isa());
    weights.pack(inside, threads);
    project_tokens<S>(d_v, tokens, weights, Index(0), w.rows, nullptr, to.d_x, *context.workspace, threads);
    count(tokens.size, columns);
  }
  if (!to.wants_w()) return;
  const Index width = w.cols / n_kv;
  TokenSet* tokens = frame.take<TokenSet>(n_kv);
  bool all = true;
  for (Index kv = 0; kv < n_kv; ++kv) {
    tokens[kv] = moved_tokens(frame, d_v.columns(kv * width, width), n_real);
    all = all && tokens[kv].size == n_real;
    count(tokens[kv].size, static_cast<double>(width));
  }
  if (all) return multiply_transposed(x, d_v, TokenSet{0, n_real}, to.d_w_v, *context.workspace, threads);
  for (Index kv = 0; kv < n_kv; ++kv) {
    multiply_transposed(x, d_v.columns(kv * width, width), tokens[kv], to.d_w_v.columns(kv * width, width),
                        *context.workspace, threads);
  }
}

}  // namespace detail
}  // namespace heed
