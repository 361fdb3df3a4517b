#pragma once
#include <algorithm>
#include <span>
#include <utility>

#include "heed/approx/projected_gradients.hpp"
#include "heed/approx/value_operands.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/vector_view.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/matrix_product.hpp"

namespace heed {

/// Which of the two products comes first; both are exact, and equal but for rounding.
enum class ProjectionOrder {
  automatic,      ///< whichever takes fewer products
  project_first,  ///< A (X W_v)
  attend_first    ///< (A X) W_v: cheaper for few queries; not with a bias beside attention sinks
};

/// How ProjectedValues makes value rows.
struct ProjectionOptions {
  VectorView bias{};                                   ///< b of x W + b, cols(w_v) entries; default: none
  ProjectionOrder order = ProjectionOrder::automatic;  ///< default: the cheaper one
};

/// Exact values X W_v + b made during the call: attend(q, k, projected) is attend(q, k, v) with v = x w_v + b, and
/// several heads own columns of one w_v. Views x, w_v and b, which must outlive it.
///
/// Shapes  x: n_k x d_in, w_v: d_in x (n_kv_heads * d_v), one scalar type, any strides; b: cols(w_v) entries.
/// Order   A (X W_v), or (A X) W_v where that takes fewer products, for few queries: for one head where n_q (n_k d_in +
///         d_in d_v) < n_q n_k d_v + n_k d_in d_v. A bias is then added to the rows that saw a key, whose weights add
///         up to 1.
/// Errors  ShapeError if cols(x) != rows(w_v) or b does not fit. Temporaries do not compile.
/// Cost    2 n_k d_in d_v flops a key head; or 2 n_q d_in d_v a query head, and 2 d_in instead of 2 d_v per kept pair.
///         Memory O((n_k + d_in) n_kv_heads d_v) from the workspace.
/// Backward projects first, whatever the order of the forward call: 2 n_k d_in d_v flops a key head for the rows again,
///         and as many each for d_x and d_w_v (ProjectedGradients) of the keys that some query sees. Other rows of x
///         are not read, and get 0.
/// Threads const and re-entrant; the same bits for any number of threads.
template <class S>
class ProjectedValues : public detail::ValueOperands<S> {
 public:
  template <TokenMatrix X, TokenMatrix W>
    requires(!detail::is_view<X>)
  ProjectedValues(const X& x, const W& w_v, const ProjectionOptions& options = {})
      : Operands(x, w_v, options.bias), options_(options) {}
  template <class X, class W>
    requires detail::dangling_operands<X, W> ProjectedValues(X&&, W&&, const ProjectionOptions& = {}) {
      static_assert(sizeof(X) == 0, "heed: ProjectedValues would dangle: it views a temporary matrix; name it first");
    }

  /// X W_v + b itself, all key heads side by side: to keep, or to time. out: n_k x width(), row-major without gaps.
  template <class Out>
  void value_rows_into(Out&& out, const Context& context = {}) const {
    S* rows = this->rows_of(std::forward<Out>(out));
    detail::check_running(context);
    const detail::WithWorkspace inner(context);
    this->multiply_rows(options_.bias, this->n_keys(), inner.context(), rows);
  }

  /// See core/values.hpp.
  template <class Call, class Run>
  void attend_heads(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run& run,
                    const Context& context) const {
    // With a bias it must be known which rows saw a key: their weights add up to 1.
    const bool possible = !options_.bias.given() || (Run::has_softmax() && !options.sinks.given());
    if (possible && attends_first(calls.front().q.rows, static_cast<Index>(calls.size()), heads_per_kv)) {
      attend_then_project(calls, heads_per_kv, options, run, context);
    } else {
      project_then_attend(calls, heads_per_kv, options, run, context);
    }
  }

  /// See core/values.hpp.
  template <class Call, class Run, class Grads>
  void backward(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, Run& run, Grads& grads,
                const Context& context) const {
    const std::span<const Call> given(calls);
    run.prepare(given, heads_per_kv, options, context);
    Workspace::Frame frame(*context.workspace);
    project(calls, heads_per_kv, options, context, frame);
    const auto d_v = view_of(this->give_sums(calls, heads_per_kv, 0, frame));
    run.run_backward(given, heads_per_kv, options, context);
    const Index n_real = detail::real_keys(options.mask, x_.rows);
    detail::multiply_gradients(x_, w_, d_v, static_cast<Index>(calls.size()) / heads_per_kv, n_real,
                               detail::value_gradient_views<S>(grads), context);
    detail::sum_bias_gradient(d_v, n_real, grads, *context.workspace);
  }

 private:
  using T = Accumulator<S>;
  using Operands = detail::ValueOperands<S>;
  using Operands::w_;
  using Operands::x_;

  bool attends_first(Index n_q, Index n_heads, Index heads_per_kv) const {
    if (options_.order != ProjectionOrder::automatic) return options_.order == ProjectionOrder::attend_first;
    const double queries = static_cast<double>(n_q), keys = static_cast<double>(x_.rows);
    const double heads = static_cast<double>(n_heads), kv_heads = heads / static_cast<double>(heads_per_kv);
    const double d_in = static_cast<double>(x_.cols), d_v = static_cast<double>(w_.cols) / kv_heads;
    // With every pair kept, which favours the other order: attending first pays more per pair.
    return heads * queries * (keys * d_in + d_in * d_v) < heads * queries * keys * d_v + kv_heads * keys * d_in * d_v;
  }

  // Makes the rows of all keys, and points v of each call at them.
  template <class Call>
  void project(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, const Context& context,
               Workspace::Frame& frame) const {
    const Index n_k = x_.rows, n_real = detail::real_keys(options.mask, n_k);
    S* rows = frame.take<S>(n_k * w_.cols);
    this->multiply_rows(options_.bias, n_real, context, rows);
    const Index n_key_heads = static_cast<Index>(calls.size()) / heads_per_kv;
    if (context.flops != nullptr) context.flops->add_value_rows(0, static_cast<double>(n_real * n_key_heads));
    this->give_rows(calls, heads_per_kv, rows);
  }

  template <class Call, class Run>
  void project_then_attend(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run& run,
                           const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    project(calls, heads_per_kv, options, context, frame);
    run.run(std::span<const Call>(calls), heads_per_kv, options, context);
  }

  template <class Call, class Run>
  void attend_then_project(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run& run,
                           const Context& context) const {
    using Wide = detail::HeadCall<typename Call::Query, typename Call::Key, T>;
    Workspace::Frame frame(*context.workspace);
    const Index n_q = calls.front().q.rows, d_in = x_.cols, n_calls = static_cast<Index>(calls.size());
    const Index d_v = w_.cols * heads_per_kv / n_calls;
    const Index size = detail::checked_product("n_heads * rows(q) * cols(x)", {n_calls, n_q, d_in});
    T* means = frame.take<T>(size);
    T* lse = frame.take<T>(n_calls * n_q);
    std::fill(means, means + size, T(0));
    std::fill(lse, lse + n_calls * n_q, detail::minus_infinity<T>);  // of queries in no group
    Wide* wide = frame.take<Wide>(n_calls);
    for (Index c = 0; c < n_calls; ++c) {
      const Call& call = calls[static_cast<std::size_t>(c)];
      new (wide + c)
          Wide{call.q, call.k, x_, {means + c * n_q * d_in, n_q, d_in, d_in, 1}, lse + c * n_q, 1, call.head};
    }
    run.run(std::span<const Wide>(wide, calls.size()), heads_per_kv, options, context);
    const double products = static_cast<double>(n_calls * n_q) * static_cast<double>(d_in) * static_cast<double>(d_v);
    const int threads = detail::projection_threads(context.threads, products);
    const T* bias = detail::take_bias<T>(frame, options_.bias, w_.cols);
    for (Index c = 0; c < n_calls; ++c) {
      Workspace::Frame inside(*context.workspace);
      Call& call = calls[static_cast<std::size_t>(c)];
      const Index first = c / heads_per_kv * d_v;
      detail::PackedWeights<S> weights(w_.columns(first, d_v), active_isa());
      weights.pack(inside, threads);
      detail::project_rows<S>(ConstView<T>{means + c * n_q * d_in, n_q, d_in, d_in, 1}, weights, Index(0), d_v,
                              bias == nullptr ? nullptr : bias + first, call.out, *context.workspace, threads);
      for (Index i = 0; i < n_q; ++i) {
        const T sum = lse[c * n_q + i];
        if (call.lse != nullptr) call.lse[i * call.lse_stride] = sum;
        if (bias == nullptr || !detail::is_minus_infinity(sum)) continue;
        for (Index e = 0; e < d_v; ++e) call.out(i, e) = static_cast<typename Call::Out>(T(0));  // it saw no key
      }
    }
    detail::count_projection(context.flops, static_cast<double>(n_calls * n_q), static_cast<double>(d_in),
                             static_cast<double>(d_v));
  }

  ProjectionOptions options_;
};

template <TokenMatrix X, TokenMatrix W>
ProjectedValues(const X&, const W&) -> ProjectedValues<typename X::Scalar>;
template <TokenMatrix X, TokenMatrix W>
ProjectedValues(const X&, const W&, const ProjectionOptions&) -> ProjectedValues<typename X::Scalar>;

}  // namespace heed
