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
  }
  const View<T>& sum() const { return sum_; }
  void clear() const {
    for (Index i = 0; i < sum_.rows; ++i) {
      for (Index c = 0; c < sum_.cols; ++c) sum_(i, c) = T(0);
    }
  }
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

inline void check_gradient(Index rows, Index cols, const char* name, const char* of, Index n, Index width) {
  if (rows != n || cols != width)
    throw ShapeError(message(name, " is ", rows, " x ", cols, " but must be as ", of, ": ", n, " x ", width));
}

/// The operands of a backward pass over packed heads; one head is packed alone.
template <class S, class Out>
struct BackwardOperands {
  ConstView<S> d_out, q, k, v;
  ConstView<Out> out;
  ConstView<Accumulator<S>> lse;
  PackedHeads heads;
};

template <class S, class Out, class Grads>
void check_backward(const BackwardOperands<S, Out>& in, Grads& grads, const AttentionOptions& options,
                    const BackwardOptions& backward) {
  const Index n_q = in.q.rows, d_v = in.heads.n_heads * in.heads.d_v;
  check_gradient_of_out(in.d_out.rows, in.d_out.cols, n_q, d_v);
  check_gradient(in.out.rows, in.out.cols, "out", "d_out", n_q, d_v);
  check_gradient(in.lse.rows, in.lse.cols, "lse", "rows(q) x n_heads", n_q, in.heads.n_heads);
  const auto check = [](const auto& gradient, const char* name, const char* of, const ConstView<S>& as) {
    static_assert(std::is_same_v<typename std::remove_cvref_t<decltype(gradient)>::Scalar, S>,
                  "heed: d_q, d_k and d_v must have the scalar type of q, k and v");
    check_gradient(gradient.rows, gradient.cols, name, of, as.rows, as.cols);
  };
  check(output_view_of(grads.d_q), "d_q", "q", in.q);
  check(output_view_of(grads.d_k), "d_k", "k", in.k);
  check(output_view_of(grads.d_v), "d_v", "v", in.v);
  check_gradient_of_lse(backward.d_lse, n_q, in.heads.n_heads);
  if constexpr (requires { grads.d_bias; }) {
    const PairView& bias = options.mask.bias;
    if (grads.d_bias.size() > 0)
      check_gradient(grads.d_bias.rows(), grads.d_bias.cols(), "d_bias", "mask.bias", bias.rows(), bias.cols());
  }
  if constexpr (requires { grads.d_sinks; }) {
    const Index n_sinks = options.sinks.given() ? in.heads.n_heads : 0;
    if (grads.d_sinks.size() > 0 && grads.d_sinks.size() != n_sinks) {
      throw ShapeError(
          message("d_sinks has ", grads.d_sinks.size(), " entries but must have one per head with a sink: ", n_sinks));
    }
  }
}

/// Runs checked operands. `grads`: members d_q, d_k, d_v, and d_bias and d_sinks where they are wanted and not empty.
template <class S, class Out, class Grads, class Method>
void backward_of_heads(Grads& grads, const BackwardOperands<S, Out>& in, const AttentionOptions& options,
                       const Method& method, const Context& given, const BackwardOptions& backward) {
  using T = Accumulator<S>;
  using Call = GradientCall<S, S>;
  using One = MethodOfHead<Method>;
  static_assert(NamesPairs<One, Call>, "heed: the method has no gradient: it does not name pairs (core/method.hpp)");
  static_assert(DerivableScoreMod<std::remove_cvref_t<decltype(score_mod_of(std::declval<const One&>()))>, T>,
                "heed: a gradient needs the functor's derivative(s, i, j), that of what it returns by s");
  const PackedHeads& packed = in.heads;
  check_running(given);
  check_backward(in, grads, options, backward);
  check_heads_of(method, {in.q.rows, in.k.rows, packed.d, packed.d_v, packed.n_heads}, options);
  for_each_method(method, std::size_t{0}, [&](const One& one, std::size_t, std::size_t, std::size_t) {
    if constexpr (requires { one.check_backward(backward); }) one.check_backward(backward);
  });
  const WithWorkspace inner(given);
  const Context& context = inner.context();
  Workspace::Frame frame(inner.workspace());
  const GradientSum<T, S> q_sum(output_view_of(grads.d_q), frame), k_sum(output_view_of(grads.d_k), frame),
      v_sum(output_view_of(grads.d_v), frame);
  Call* calls = frame.take<Call>(packed.n_heads);
  T* means = frame.take<T>(packed.n_heads * in.q.rows);
  for (Index h = 0; h < packed.n_heads; ++h) {
    const Index kv = h / packed.per_kv();
    Call* call = new (calls + h) Call{};
    call->q = in.q.columns(h * packed.d, packed.d);
    call->k = in.k.columns(kv * packed.d, packed.d);
    call->v = in.v.columns(kv * packed.d_v, packed.d_v);
    call->known_lse = entry(in.lse.data, h * in.lse.col_stride);
    call->known_lse_stride = in.lse.row_stride;
    call->head = h;
    call->d_out = in.d_out.columns(h * packed.d_v, packed.d_v);
    call->d_q = q_sum.sum().columns(h * packed.d, packed.d);
    call->d_k = k_sum.sum().columns(kv * packed.d, packed.d);
    call->d_v = v_sum.sum().columns(kv * packed.d_v, packed.d_v);
    call->mean = means + h * in.q.rows;
    if constexpr (requires { grads.d_bias; }) {
      const bool stacked = options.mask.bias.rows() > in.q.rows;
      if (grads.d_bias.size() > 0)
        call->d_bias = output_view_of(grads.d_bias).rows_from(stacked ? h * in.q.rows : 0, in.q.rows);
    }
    row_means(*call, in.out.columns(h * packed.d_v, packed.d_v), backward.d_lse, means + h * in.q.rows);
  }
  const std::span<const Call> all(calls, static_cast<std::size_t>(packed.n_heads));
  MethodRun<Method> run(method, frame);
  run.prepare(all, packed.per_kv(), options, context);
  for (const auto* sum : {&q_sum, &k_sum, &v_sum}) sum->clear();
  run.visit_pairs(all, packed.per_kv(),
                  [&](const Pairs& pairs, std::span<const Call> own, Index share, const auto& mod) {
                    run_backward(pairs, own, share, options, mod, context);
                  });
  if constexpr (requires { grads.d_sinks; }) {
    for (Index h = 0; h < grads.d_sinks.size(); ++h) grads.d_sinks(h) = gradient_of_sink(calls[h], options.sinks.of(h));
  }
  for (const auto* sum : {&q_sum, &k_sum, &v_sum}) sum->finish();
}

template <class S, class Grads>
void take_gradients(Grads& grads, Index n_q, Index n_k, const PackedHeads& packed, const AttentionOptions& options,
                    const BackwardOptions& backward) {
  grads.d_q.resize(n_q, packed.n_heads * packed.d);
  grads.d_k.resize(n_k, packed.n_kv_heads * packed.d);
  grads.d_v.resize(n_k, packed.n_kv_heads * packed.d_v);
  if (backward.bias && options.mask.bias.given())
    grads.d_bias.setZero(options.mask.bias.rows(), options.mask.bias.cols());
  if (options.sinks.given()) grads.d_sinks.setZero(packed.n_heads);
}

template <class D, class Q, class K, class V, class Out, class Lse>
auto backward_operands(const D& d_out, const Q& q, const K& k, const V& v, const Out& out, const Lse& lse,
                       const PackedHeads& packed) {
  using S = OperandScalar<Q>;
  static_assert(std::is_same_v<OperandScalar<D>, S>, "heed: d_out must have the scalar type of q, k and v: cast it");
  using O = OperandScalar<Out>;
  return BackwardOperands<S, O>{view_of(d_out), view_of(q),       view_of(k), view_of(v),
                                view_of(out),   lse_view_of(lse), packed};
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
  using S = detail::OperandScalar<Q>;
  detail::check_attention<Accumulator<detail::OperandScalar<Q>>>(q.cols(), k.rows(), k.cols(), v.rows(),
                                                                 {q.rows(), k.rows(), k.cols(), v.cols()}, options);
  const detail::PackedHeads one{1, 1, q.cols(), v.cols()};
  AttentionGradients<S> grads;
  detail::take_gradients<S>(grads, q.rows(), k.rows(), one, options, backward);
  detail::backward_of_heads(grads, detail::backward_operands(d_out, q, k, v, r.out, r.lse, one), options, method,
                            context, backward);
  return grads;
}

/// `attend_backward` into storage the caller owns; nothing is allocated with a grown Workspace.
///
/// Shapes  grads: an object with members d_q, d_k, d_v, each a writable TokenMatrix shaped as q, k, v in their scalar, and, where they
///         are wanted, d_bias (shaped as the bias, which it is added to) and d_sinks; out, lse: what the forward call wrote.
/// Errors  as attend_backward; gradients are untouched when it throws.
template <class Grads, class D, class Q, class K, class V, class Out, class Lse, class Method = ExactAttention<>>
void attend_backward_into(Grads&& grads, const D& d_out, const Q& q, const K& k, const V& v, const Out& out,
                          const Lse& lse, const AttentionOptions& options = {}, const Method& method = {},
                          const Context& context = {}, const BackwardOptions& backward = {}) {
  detail::require_operands<Q, K, V>();
  detail::check_attention<Accumulator<detail::OperandScalar<Q>>>(q.cols(), k.rows(), k.cols(), v.rows(),
                                                                 {q.rows(), k.rows(), k.cols(), v.cols()}, options);
  const detail::PackedHeads one{1, 1, q.cols(), v.cols()};
  detail::backward_of_heads(grads, detail::backward_operands(d_out, q, k, v, out, lse, one), options, method, context,
                            backward);
}

/// The same for all heads of packed rows, `r` being what multi_head_attend returned: gradients of keys and values are sums over the
/// heads that share them, in a fixed order.
template <class D, class Q, class K, class V, class R, class Method = ExactAttention<>>
auto multi_head_attend_backward(const D& d_out, const Q& q, const K& k, const V& v, const R& r,
                                const HeadOptions& heads, const AttentionOptions& options = {},
                                const Method& method = {}, const Context& context = {},
                                const BackwardOptions& backward = {}) -> AttentionGradients<detail::OperandScalar<Q>> {
  detail::require_operands<Q, K, V>();
  using S = detail::OperandScalar<Q>;
  const detail::PackedHeads packed =
      detail::check_heads(q, k, detail::shape_of_values(v), heads, options, method, context);
  AttentionGradients<S> grads;
  detail::take_gradients<S>(grads, q.rows(), k.rows(), packed, options, backward);
  detail::backward_of_heads(grads, detail::backward_operands(d_out, q, k, v, r.out, r.lse, packed), options, method,
                            context, backward);
  return grads;
}

}  // namespace heed
