#pragma once
#include <algorithm>
#include <span>
#include <type_traits>

#include "heed/core/check.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/types.hpp"
#include "heed/core/values.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed::detail {

/// Where gradients of storage S are summed: in place where it is the scalar of sums, else in the frame until finish().
template <class T, class S>
class GradientSum {
 public:
  GradientSum(const View<S>& to, Workspace::Frame& frame) : to_(to) {
    if constexpr (std::is_same_v<S, T>) {
      sum_ = to;
    } else {
      sum_ = {frame.take<T>(to.rows * to.cols), to.rows, to.cols, to.cols, 1};
    }
  }
  const View<T>& sum() const { return sum_; }
  void finish() const {
    if constexpr (!std::is_same_v<S, T>) {
      for (Index i = 0; i < to_.rows; ++i) {
        for (Index c = 0; c < to_.cols; ++c) to_(i, c) = static_cast<S>(sum_(i, c));
      }
    }
  }

 private:
  View<S> to_;
  View<T> sum_;
};

/// Log-sum-exp values as a matrix of n_q x n_heads: an Eigen object, a span or a vector.
template <class Lse>
auto lse_view_of(const Lse& lse) {
  if constexpr (is_view<Lse> || is_dense_eigen<Lse>) {
    return view_of(lse);
  } else {
    using T = std::remove_cvref_t<decltype(*lse.data())>;
    return ConstView<T>{lse.data(), static_cast<Index>(lse.size()), 1, 1, 1};
  }
}

/// The operands of a backward pass over packed heads but for its values; one head is packed alone.
template <class S, class Out>
struct BackwardOperands {
  ConstView<S> d_out, q, k;
  ConstView<Out> out;
  ConstView<Accumulator<S>> lse;  // not looked at of methods without a softmax
  PackedHeads heads;

  /// The same of the first n_q queries.
  BackwardOperands of_queries(Index n_q) const {
    BackwardOperands cut = *this;
    cut.d_out.rows = cut.q.rows = cut.out.rows = cut.lse.rows = n_q;
    return cut;
  }
};

template <class D, class Q, class K, class Out, class Lse>
auto backward_operands(const D& d_out, const Q& q, const K& k, const Out& out, const Lse& lse,
                       const PackedHeads& packed) {
  using S = OperandScalar<Q>;
  require_token_matrix<D>();
  static_assert(std::is_same_v<OperandScalar<D>, S>, "heed: d_out must have the scalar type of q, k and v: cast it");
  using O = OperandScalar<Out>;
  return BackwardOperands<S, O>{view_of(d_out), view_of(q), view_of(k), view_of(out), lse_view_of(lse), packed};
}

/// One head as packed ones, checked.
template <class Q, class K, class V>
PackedHeads one_head(const Q& q, const K& k, const V& v, const AttentionOptions& options) {
  require_call_operands<Q, K, V>();
  const ValueShape values = shape_of_values(v);
  check_attention<Accumulator<OperandScalar<Q>>>(q.cols(), k.rows(), k.cols(), values.rows,
                                                 {q.rows(), k.rows(), k.cols(), values.cols}, options,
                                                 values.rows_from);
  return {1, 1, q.cols(), values.cols};
}

/// Several heads of packed rows, checked.
template <class Q, class K, class V, class Method>
PackedHeads packed_heads(const Q& q, const K& k, const V& v, const HeadOptions& heads, const AttentionOptions& options,
                         const Method& method, const Context& context) {
  require_call_operands<Q, K, V>();
  return check_heads(q, k, shape_of_values(v), heads, options, method, context);
}

template <class S, class Gradient>
void check_operand_gradient(Gradient&& gradient, const char* name, const char* of, Index rows, Index cols) {
  static_assert(std::is_same_v<typename std::remove_cvref_t<Gradient>::Scalar, S>,
                "heed: d_q, d_k and d_v must have the scalar type of q, k and v");
  const auto view = output_view_of(gradient);
  check_gradient(view.rows, view.cols, name, of, rows, cols);
}

/// What must hold of a backward pass but for d_bias.
template <class S, class Out, class V, class Grads>
void check_backward_without_bias(const BackwardOperands<S, Out>& in, const V& v, bool has_softmax, Grads& grads,
                                 const AttentionOptions& options, const BackwardOptions& backward) {
  const Index n_q = in.q.rows, d_v = in.heads.n_heads * in.heads.d_v;
  check_gradient_of_out(in.d_out.rows, in.d_out.cols, n_q, d_v);
  check_gradient(in.out.rows, in.out.cols, "out", "d_out", n_q, d_v);
  if (has_softmax) check_gradient(in.lse.rows, in.lse.cols, "lse", "rows(q) x n_heads", n_q, in.heads.n_heads);
  check_operand_gradient<S>(grads.d_q, "d_q", "q", n_q, in.q.cols);
  check_operand_gradient<S>(grads.d_k, "d_k", "k", in.k.rows, in.k.cols);
  if constexpr (ComputedValues<V>) {
    if constexpr (requires { v.check_gradients(grads); }) v.check_gradients(grads);
  } else {
    check_operand_gradient<S>(grads.d_v, "d_v", "v", in.k.rows, in.heads.n_kv_heads * in.heads.d_v);
  }
  check_gradient_of_lse(backward.d_lse, n_q, in.heads.n_heads);
  if constexpr (requires { grads.d_sinks; }) {
    const Index n_sinks = options.sinks.given() ? in.heads.n_heads : 0;
    if (grads.d_sinks.size() > 0 && grads.d_sinks.size() != n_sinks) {
      throw ShapeError(
          message("d_sinks has ", grads.d_sinks.size(), " entries but must have one per head with a sink: ", n_sinks));
    }
  }
}

template <class S, class Out, class V, class Grads>
void check_backward(const BackwardOperands<S, Out>& in, const V& v, bool has_softmax, Grads& grads,
                    const AttentionOptions& options, const BackwardOptions& backward) {
  check_backward_without_bias(in, v, has_softmax, grads, options, backward);
  if constexpr (requires { grads.d_bias; }) {
    const PairView& bias = options.mask.bias;
    if (grads.d_bias.size() > 0) {
      const char* of = bias.is_tensor() ? "mask.bias with the rows of its entries and heads stacked" : "mask.bias";
      check_gradient(grads.d_bias.rows(), grads.d_bias.cols(), "d_bias", of, bias.stacked_rows(), bias.cols());
    }
  }
}

/// The rows of d_bias that `n_real` real queries of n_q add to, of one head: its own, or those that heads share. One
/// row for all queries is n_real rows at the same place.
template <class T>
View<T> bias_gradient_of(const View<T>& d_bias, const PairView& bias, Index head, Index n_q, Index n_real) {
  const bool by_head = bias.by_head(n_q);
  const Index each = by_head && !bias.is_tensor() ? n_q : bias.rows();
  View<T> rows = d_bias.rows_from(by_head ? head * each : 0, std::min(each, n_real));
  if (each != 1) return rows;
  rows.rows = n_real;
  rows.row_stride = 0;
  return rows;
}

/// Calls of all heads, without values and their gradients.
template <class Call, class S, class Out, class T>
std::span<Call> gradient_calls(const BackwardOperands<S, Out>& in, const View<T>& d_q, const View<T>& d_k,
                               Workspace::Frame& frame) {
  const PackedHeads& packed = in.heads;
  Call* calls = frame.take<Call>(packed.n_heads);
  for (Index h = 0; h < packed.n_heads; ++h) {
    const Index kv = h / packed.per_kv();
    Call* call = new (calls + h) Call{};
    call->q = in.q.columns(h * packed.d, packed.d);
    call->k = in.k.columns(kv * packed.d, packed.d);
    call->v = {nullptr, in.k.rows, packed.d_v, 0, 1};
    call->known_lse = entry(in.lse.data, h * in.lse.col_stride);
    call->known_lse_stride = in.lse.row_stride;
    call->head = h;
    call->d_out = in.d_out.columns(h * packed.d_v, packed.d_v);
    call->d_q = d_q.columns(h * packed.d, packed.d);
    call->d_k = d_k.columns(kv * packed.d, packed.d);
  }
  return {calls, static_cast<std::size_t>(packed.n_heads)};
}

}  // namespace heed::detail
