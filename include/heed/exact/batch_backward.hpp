#pragma once
#include <cstddef>
#include <type_traits>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/tensor_view.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/batch.hpp"

namespace heed {

namespace detail {

/// The heads of one entry side by side: tokens x (n_heads * width).
template <class S>
void pack_entry(const TensorView<const S>& t, Index entry, Matrix<S>& to) {
  to.resize(t.tokens(), t.n_heads() * t.width());
  for (Index h = 0; h < t.n_heads(); ++h) {
    const auto head = head_of(t, entry, h);
    for (Index i = 0; i < head.rows; ++i) {
      for (Index c = 0; c < head.cols; ++c) to(i, h * head.cols + c) = head(i, c);
    }
  }
}

template <class T>
void add_tree_gradient(TreeGradient<T>& sum, const TreeGradient<T>& more) {
  sum.planes += more.planes;
  sum.biases += more.biases;
}

/// Adds gradients of parameters, those of a method or of options.
template <class Grads>
void add_parameter_gradients(Grads& sum, const Grads& more) {
  if constexpr (requires { sum.d_sinks; }) sum.d_sinks += more.d_sinks;
  if constexpr (requires { sum.d_tree; }) add_tree_gradient(sum.d_tree, more.d_tree);
  if constexpr (requires { sum.d_trees; }) {
    for (std::size_t t = 0; t < sum.d_trees.size(); ++t) add_tree_gradient(sum.d_trees[t], more.d_trees[t]);
  }
  if constexpr (requires { sum.d_level_logits; }) sum.d_level_logits += more.d_level_logits;
  if constexpr (requires { sum.d_key_projection; }) {
    sum.d_key_projection += more.d_key_projection;
    sum.d_value_projection += more.d_value_projection;
  }
  if constexpr (requires { sum.d_methods; }) {
    for (std::size_t m = 0; m < sum.d_methods.size(); ++m) add_parameter_gradients(sum.d_methods[m], more.d_methods[m]);
  }
}

template <class T>
void clear_tree_gradient(TreeGradient<T>& sum) {
  sum.planes.setZero();
  sum.biases.setZero();
}

/// Starts the gradients of a method's parameters, which have their sizes, at 0.
template <class Grads>
void clear_method_gradients(Grads& sum) {
  if constexpr (requires { sum.d_tree; }) clear_tree_gradient(sum.d_tree);
  if constexpr (requires { sum.d_trees; }) {
    for (auto& tree : sum.d_trees) clear_tree_gradient(tree);
  }
  if constexpr (requires { sum.d_level_logits; }) sum.d_level_logits.setZero();
  if constexpr (requires { sum.d_key_projection; }) {
    sum.d_key_projection.setZero();
    sum.d_value_projection.setZero();
  }
  if constexpr (requires { sum.d_methods; }) {
    for (auto& one : sum.d_methods) clear_method_gradients(one);
  }
}

/// Rows of d_out of one entry, heads side by side.
template <class S, class D>
void pack_gradient(const D& d_out, const BatchShape& shape, Index entry, Matrix<S>& to) {
  if constexpr (is_tensor_view<D>) {
    pack_entry<S>(read_only(d_out), entry, to);
  } else {
    const auto rows = view_of(d_out);
    to.resize(shape.n_q, rows.cols);
    for (Index i = 0; i < shape.n_q; ++i) {
      for (Index c = 0; c < rows.cols; ++c) to(i, c) = rows(entry * shape.n_q + i, c);
    }
  }
}

template <class S, class D>
void check_batch_gradient(const D& d_out, const BatchShape& shape) {
  static_assert(std::is_same_v<OperandScalar<D>, S>, "heed: d_out must have the scalar type of q, k and v: cast it");
  if constexpr (is_tensor_view<D>) {
    check_tensor(d_out, "d_out");
    check_tensor_sizes(d_out.sizes, {shape.n_entries, shape.n_heads, shape.n_q, shape.d_v}, "d_out");
  } else {
    require_token_matrix<D>();
    check_gradient_of_out(d_out.rows(), d_out.cols(), shape.n_entries * shape.n_q, shape.n_heads * shape.d_v);
  }
}

}  // namespace detail

/// Gradients of batch_attend, `r` being what it returned: d_q, d_k and d_v of every entry; those of sinks and of the
/// method's own parameters are sums over entries, in their order, and that of a bias over what shares each of its rows.
///
/// Shapes  d_out: a TensorView batch x n_heads x n_q x d_v, or a matrix as r.out; BackwardOptions::d_lse as r.lse;
///         returns d_q: (batch * n_q) x (n_heads * d), d_k: (batch * n_k) x (n_kv_heads * d), d_v: (batch * n_k) x
///         (n_kv_heads * d_v), the rows of entry 0 first; d_bias as attend_backward: of a tensor batch x heads x rows x
///         n_k row i of head h of entry b is number (b * heads + h) * rows + i, each size being 1 where it is shared.
/// Empty   rows without keys, masked keys and padding get 0.
/// Errors  as batch_attend and attend_backward.
/// Cost    batch times multi_head_attend_backward, and a copy of one entry's operands.
/// Threads as attend_backward, entry by entry: the same bits for any context.threads.
template <class D, class Q, class K, class V, class R, class Method = ExactAttention<>>
auto batch_attend_backward(const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                           const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {},
                           const BackwardOptions& backward = {}) {
  detail::require_tensors<Q, K, V>();
  using S = typename Q::Scalar;
  const auto read_q = detail::read_only(q), read_k = detail::read_only(k), read_v = detail::read_only(v);
  const detail::BatchShape shape = detail::check_batch<S>(read_q, read_k, read_v, options, method, context);
  detail::check_batch_gradient<S>(d_out, shape);
  const Index n_rows = shape.n_entries * shape.n_q;
  detail::check_gradient(r.out.rows(), r.out.cols(), "r.out", "batch_attend returned", n_rows,
                         shape.n_heads * shape.d_v);
  if (detail::returns_lse<Method>())
    detail::check_gradient(r.lse.rows(), r.lse.cols(), "r.lse", "batch_attend returned", n_rows, shape.n_heads);
  detail::check_gradient_of_lse(backward.d_lse, n_rows, shape.n_heads);
  const detail::PackedHeads packed{shape.n_heads, shape.n_kv_heads, shape.d, shape.d_v};

  typename detail::GradientsOf<S, Matrix<S>, Method>::type sum;
  sum.d_q.setZero(n_rows, shape.n_heads * shape.d);
  sum.d_k.setZero(shape.n_entries * shape.n_k, shape.n_kv_heads * shape.d);
  sum.d_v.setZero(shape.n_entries * shape.n_k, shape.n_kv_heads * shape.d_v);
  if (options.sinks.given()) sum.d_sinks.setZero(shape.n_heads);
  if (backward.bias && options.mask.bias.given())
    sum.d_bias.setZero(options.mask.bias.stacked_rows(), options.mask.bias.cols());
  detail::size_method_gradients(method, sum);
  detail::clear_method_gradients(sum);
  const PairView& bias = options.mask.bias;
  const detail::WithWorkspace inner(context);
  Matrix<S> own_q, own_k, own_v, own_d_out;
  for (Index b = 0; b < shape.n_entries; ++b) {
    detail::pack_entry(read_q, b, own_q);
    detail::pack_entry(read_k, b, own_k);
    detail::pack_entry(read_v, b, own_v);
    detail::pack_gradient<S>(d_out, shape, b, own_d_out);
    MultiHeadResult<S> own_r{r.out.middleRows(b * shape.n_q, shape.n_q), {}};
    if (detail::returns_lse<Method>()) own_r.lse = r.lse.middleRows(b * shape.n_q, shape.n_q);
    BackwardOptions own_backward = backward;
    own_backward.d_lse = backward.d_lse.of_rows(b * shape.n_q, shape.n_q);
    const auto own =
        detail::gradients_of_heads(own_d_out, own_q, own_k, own_v, own_r, packed, detail::options_of_entry(options, b),
                                   method, inner.context(), own_backward);
    sum.d_q.middleRows(b * shape.n_q, shape.n_q) = own.d_q;
    sum.d_k.middleRows(b * shape.n_k, shape.n_k) = own.d_k;
    sum.d_v.middleRows(b * shape.n_k, shape.n_k) = own.d_v;
    detail::add_parameter_gradients(sum, own);
    if (own.d_bias.size() > 0)
      sum.d_bias.middleRows(bias.n_entries() > 1 ? b * own.d_bias.rows() : 0, own.d_bias.rows()) += own.d_bias;
  }
  return sum;
}

}  // namespace heed
