#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/run_backward.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/run_method.hpp"

namespace heed {

namespace detail {

/// A functor that can be gone through backwards, or none.
template <class ScoreMod, class T>
concept DerivableScoreMod = std::is_same_v<ScoreMod, NoScoreMod> || requires(const ScoreMod& mod, T s) {
  { mod.derivative(s, Index(0), Index(0)) } -> std::convertible_to<T>;
};

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
    for (Index i = 0; i < sum_.rows; ++i) {
      for (Index c = 0; c < sum_.cols; ++c) sum_(i, c) = T(0);
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

inline void check_gradient(Index rows, Index cols, const char* name, const char* of, Index n, Index width) {
  if (rows != n || cols != width)
    throw ShapeError(message(name, " is ", rows, " x ", cols, " but must be as ", of, ": ", n, " x ", width));
}

/// The backward pass of packed heads; one head is packed alone.
template <class S, class G, class D, class Out, class Method>
void backward_of_heads(G&& grads, const ConstView<D>& d_out, const ConstView<S>& q, const ConstView<S>& k,
                       const ConstView<S>& v, const ConstView<Out>& out, const ConstView<Accumulator<S>>& lse,
                       const PackedHeads& packed, const AttentionOptions& options, const Method& method,
                       const Context& given, const BackwardOptions& backward) {
  using T = Accumulator<S>;
  using Call = GradientCall<S, S>;
  using One = MethodOfHead<Method>;
  static_assert(std::is_same_v<D, S>, "heed: d_out must have the scalar type of q, k and v: cast it first");
  static_assert(NamesPairs<One, Call>, "heed: the method has no gradient: it does not name pairs (core/method.hpp)");
  static_assert(DerivableScoreMod<std::remove_cvref_t<decltype(score_mod_of(std::declval<const One&>()))>, T>,
                "heed: the score functor needs derivative(s, i, j), the derivative of what it returns by s, for a gradient");
  const auto d_q = output_view_of(grads.d_q), d_k = output_view_of(grads.d_k), d_v = output_view_of(grads.d_v);
  check_gradient_of_out(d_out.rows, d_out.cols, q.rows, packed.n_heads * packed.d_v);
  check_gradient(out.rows, out.cols, "out", "d_out", d_out.rows, d_out.cols);
  check_gradient(lse.rows, lse.cols, "lse", "rows(q) x n_heads", q.rows, packed.n_heads);
  check_gradient(d_q.rows, d_q.cols, "d_q", "q", q.rows, q.cols);
  check_gradient(d_k.rows, d_k.cols, "d_k", "k", k.rows, k.cols);
  check_gradient(d_v.rows, d_v.cols, "d_v", "v", v.rows, v.cols);
  check_gradient_of_lse(backward.d_lse, q.rows, packed.n_heads);
  check_heads_of(method, packed.d, options);
  const WithWorkspace inner(given);
  const Context& context = inner.context();
  Workspace::Frame frame(inner.workspace());
  const GradientSum<T, S> q_sum(d_q, frame), k_sum(d_k, frame), v_sum(d_v, frame);
  Call* calls = frame.take<Call>(packed.n_heads);
  T* means = frame.take<T>(packed.n_heads * q.rows);
  const View<T> d_bias = grads.d_bias.size() > 0 ? output_view_of(grads.d_bias) : View<T>{};
  for (Index h = 0; h < packed.n_heads; ++h) {
    const Index kv = h / packed.per_kv();
    Call* call = new (calls + h) Call{};
    call->q = q.columns(h * packed.d, packed.d);
    call->k = k.columns(kv * packed.d, packed.d);
    call->v = v.columns(kv * packed.d_v, packed.d_v);
    call->lse = const_cast<T*>(lse.data) + h * lse.col_stride;  // read only
    call->lse_stride = lse.row_stride;
    call->head = h;
    call->d_out = d_out.columns(h * packed.d_v, packed.d_v);
    call->d_q = q_sum.sum().columns(h * packed.d, packed.d);
    call->d_k = k_sum.sum().columns(kv * packed.d, packed.d);
    call->d_v = v_sum.sum().columns(kv * packed.d_v, packed.d_v);
    call->mean = means + h * q.rows;
    if (d_bias.data != nullptr) {
      const bool stacked = options.mask.bias.rows() > q.rows;
      call->d_bias = {d_bias.data + (stacked ? h * q.rows * d_bias.row_stride : 0), q.rows, d_bias.cols,
                      d_bias.row_stride, d_bias.col_stride};
    }
    row_means(*call, out.columns(h * packed.d_v, packed.d_v), backward.d_lse, means + h * q.rows);
  }
  const std::span<const Call> all(calls, static_cast<std::size_t>(packed.n_heads));
  for_each_method(method, all.size(), [&](const One& one, std::size_t, std::size_t first, std::size_t n) {
    const std::span<const Call> own = all.subspan(first, n);
    const Index share = method_list<Method> ? static_cast<Index>(n) : packed.per_kv();
    Workspace::Frame pairs_frame(*context.workspace);
    run_backward(one.pairs(own, share, options, context, pairs_frame), own, share, options, score_mod_of(one), context);
  });
  for (Index h = 0; h < grads.d_sinks.size(); ++h)
    grads.d_sinks(h) = gradient_of_sink(calls[h], options.sinks.of(h));
  q_sum.finish();
  k_sum.finish();
  v_sum.finish();
}

}  // namespace detail

/// Gradients of one head: given d_out, what the loss says of out, and what the forward call returned.
///   d_v_j = sum_i P_ij d_out_i,  d_s_ij = P_ij (d_out_i . v_j - d_out_i . out_i + d_lse_i),  d_q_i = sum_j d_r_ij k_j,
///   d_k_j = sum_i d_r_ij q_i,
/// P recomputed from lse, d_r what d_s becomes through score functor, bias, softcap and scale.
///
/// Shapes  d_out: n_q x d_v, r: what attend(q, k, v, options, method) returned; returns d_q, d_k, d_v as q, k, v; d_bias and d_sinks where
///         asked for.
/// Empty   rows without keys and masked keys get 0.
/// Errors  as attend; ShapeError for a d_out, out, lse or d_lse that does not fit.
/// Cost    2 (3 d + 2 d_v) flops and one exponential per kept pair; memory O(n_q) and a few tiles a thread, and a sum in float for
///         each number of half or bfloat16 gradients.
/// Threads const and re-entrant; the same bits for any context.threads, also where one head is split over threads.
/// Source  Dao et al. 2022, appendix B; Milakov and Gimelshein 2018 (the softmax).
template <class D, class Q, class K, class V, class R, class Method = ExactAttention<>>
auto attend_backward(const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                     const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {},
                     const BackwardOptions& backward = {}) -> AttentionGradients<detail::OperandScalar<Q>> {
  detail::require_operands<Q, K, V>();
  AttentionGradients<detail::OperandScalar<Q>> grads;
  grads.d_q.resize(q.rows(), q.cols());
  grads.d_k.resize(k.rows(), k.cols());
  grads.d_v.resize(v.rows(), v.cols());
  if (backward.bias && options.mask.bias.given())
    grads.d_bias.setZero(options.mask.bias.rows(), options.mask.bias.cols());
  if (options.sinks.given()) grads.d_sinks.setZero(1);
  const auto lse = view_of(r.lse);
  const detail::PackedHeads one{1, 1, q.cols(), v.cols()};
  detail::check_attention(q.cols(), k.rows(), k.cols(), v.rows(), {q.rows(), k.rows(), k.cols(), v.cols()}, options);
  detail::backward_of_heads<detail::OperandScalar<Q>>(grads, view_of(d_out), view_of(q), view_of(k), view_of(v),
                                                      view_of(r.out), lse, one, options, method, context, backward);
  return grads;
}

/// The same for all heads of packed rows, `r` being what multi_head_attend returned: gradients of keys and values are sums over the
/// heads that share them, in a fixed order.
template <class D, class Q, class K, class V, class R, class Method = ExactAttention<>>
auto multi_head_attend_backward(const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                                const HeadOptions& heads, const AttentionOptions& options = {},
                                const Method& method = {}, const Context& context = {},
                                const BackwardOptions& backward = {}) -> AttentionGradients<detail::OperandScalar<Q>> {
  detail::require_operands<Q, K, V>();
  const detail::PackedHeads packed = detail::check_heads(q, k, v.rows(), v.cols(), heads, options, method);
  AttentionGradients<detail::OperandScalar<Q>> grads;
  grads.d_q.resize(q.rows(), q.cols());
  grads.d_k.resize(k.rows(), k.cols());
  grads.d_v.resize(v.rows(), v.cols());
  if (backward.bias && options.mask.bias.given())
    grads.d_bias.setZero(options.mask.bias.rows(), options.mask.bias.cols());
  if (options.sinks.given()) grads.d_sinks.setZero(packed.n_heads);
  detail::backward_of_heads<detail::OperandScalar<Q>>(grads, view_of(d_out), view_of(q), view_of(k), view_of(v),
                                                      view_of(r.out), view_of(r.lse), packed, options, method, context,
                                                      backward);
  return grads;
}

}  // namespace heed
