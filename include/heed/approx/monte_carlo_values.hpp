#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <utility>

#include "heed/approx/encode_values.hpp"
#include "heed/approx/encoding_weights.hpp"
#include "heed/approx/projected_gradients.hpp"
#include "heed/approx/sample_plan.hpp"
#include "heed/approx/sample_planner.hpp"
#include "heed/approx/sampled_gradients.hpp"
#include "heed/approx/value_operands.hpp"
#include "heed/approx/value_path.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/options.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/sampling/error_bounds.hpp"
#include "heed/sampling/monte_carlo_options.hpp"

namespace heed {

/// Values X W_v + b of which each token computes only as many products as its importance asks for: Monte-Carlo
/// attention over any method with a softmax over a pattern of pairs, over TcAttention, and over any method at all with
/// Budget::constant.
///
///     MonteCarloValues<float> sampled(x, w_v, {.alpha = 0.4, .seed = 7});
///     auto r = attend(q, k, sampled);
///
/// out = A (H + b), H_j = sum over r_j sampled products of x_j W_v. MonteCarloOptions decides r_j and the estimator;
/// r_j >= d_in is the exact product, r_j = 0 a row of 0 (of the mean row's product where centred).
///
/// Shapes  x: n_k x d_in, w_v: d_in x (n_kv_heads * d_v), one scalar type, any strides. Each key head owns d_v columns,
///         in order; heads of one group share its importance.
/// Draws   are a pure function of (seed, key head, token, index): no order, thread or batch matters. With replacement,
///         16 tokens of a block of 256, no two next to each other, share one sequence of draws, of which token j takes
///         the first r_j; each token alone has the law it would have with draws of its own.
/// Later   under a causal mask too, a sampled row depends on tokens behind its own, unless the budget is constant and
///         not centred: see Budget. A decoder may keep rows of that kind only. `largest` with Budget::constant chooses
///         once for all heads, and head by head once masks that differ by head make counts differ.
/// Exact   MonteCarloOptions::path alone decides. With ValuePath::fastest, the default, a head is multiplied exactly
///         where sampling it is estimated not to be faster (value_path.hpp): in small layers, for narrow heads or large
///         r, for `largest` with a budget that needs weights, and for any such budget where two passes over all scores
///         cost more than they can save. A call says which it was by FlopCounter::sampled_rows() and projected_rows();
///         before it, plan(...).exact says it of each head. ValuePath::sampled always samples, as published.
/// Errors  ShapeError if cols(x) != rows(w_v) or b does not fit; OptionError for options outside their range, and for a
///         budget that needs weights over a method that has none. Temporaries do not compile.
/// Cost    Phase::sample 2 d_v r_j a token and key head; Phase::project 2 d_in d_v for exact rows and mean rows.
///         Phase::route, unless the budget is constant, 4 d a kept pair and two exponentials for the importance (over
///         TcAttention O(h) a token), and O(d_in) a token to choose products.
/// Backward is the gradient of the sampled product for the very draws of the forward call, which it makes again: see
///         ProjectedGradients. Counts, choices and probabilities are taken as they are, as if they did not depend on
///         x, w_v, q and k; a token with r_j = 0 gives its x no gradient but through the mean row. d_x and d_w_v are as
///         unbiased as the estimator, since d_v does not depend on the values. Costs the forward call's route, sample
///         and project again, and 2 d_in d_v flops for each of d_x and d_w_v a token and key head with some product:
///         dense products, whatever r_j. Memory O(n_k d_in).
/// Threads const and re-entrant; the same bits for any number of threads.
/// Source  Kim and Ko 2022, section 3. Rounding::up departs from it and says why; see Estimator and Budget for what is
///         not in the paper.
template <class S>
class MonteCarloValues : public detail::ValueOperands<S> {
 public:
  template <TokenMatrix X, TokenMatrix W>
    requires(!detail::is_view<X>)
  MonteCarloValues(const X& x, const W& w_v, const MonteCarloOptions& options = {})
      : Operands(x, w_v, options.bias), options_(options) {
    detail::check_monte_carlo<Accumulator<S>>(options_);
  }
  template <class X, class W>
    requires detail::dangling_operands<X, W> MonteCarloValues(X&&, W&&, const MonteCarloOptions& = {}) {
      static_assert(sizeof(X) == 0, "heed: MonteCarloValues would dangle: it views a temporary matrix; name it first");
    }

  const MonteCarloOptions& options() const { return options_; }

  /// What a call with these operands decides; see SamplePlan. Queries and keys of several heads are packed as in
  /// multi_head_attend.
  template <class Q, class K, class Method = ExactAttention<>>
  SamplePlan<S> plan(const Q& q, const K& k, const AttentionOptions& given = {}, const Method& method = {},
                     const Context& context = {}, const HeadOptions& heads = {}) const {
    SamplePlan<S> plan;
    with_calls(q, k, given, method, context, heads,
               [&](auto calls, Index heads_per_kv, const AttentionOptions& options, const Context& inner) {
                 Workspace::Frame frame(*inner.workspace);
                 detail::MethodRun<Method> run(method, frame);
                 detail::check_weights<typename decltype(calls)::value_type>(run, options_.budget);
                 if (options_.budget != Budget::constant) run.prepare(calls, heads_per_kv, options, inner);
                 detail::SamplePlanner<S> planner(x_, w_, options_, *inner.workspace,
                                                  detail::thread_count(inner.threads));
                 const auto made = planner.plan(frame, calls, heads_per_kv, options, run, inner);
                 plan.d_in = x_.cols;
                 plan.counts.resize(x_.rows, made.n_kv);
                 plan.importance.resize(x_.rows, made.n_kv);
                 plan.kept.resize(x_.rows, made.n_kv);
                 plan.exact.resize(made.n_kv);
                 plan.x_norm.resize(x_.rows);
                 const bool never = never_pays(calls, heads_per_kv, options, run);
                 for (Index kv = 0; kv < made.n_kv; ++kv) {
                   plan.exact(kv) = never || multiplies(made, kv, detail::real_keys(options.mask, x_.rows)) ? 1 : 0;
                   for (Index j = 0; j < x_.rows; ++j) {
                     plan.counts(j, kv) = made.counts[kv * x_.rows + j];
                     plan.importance(j, kv) = static_cast<double>(made.largest[kv * x_.rows + j]);
                     plan.kept(j, kv) = made.kept[kv * x_.rows + j];
                     plan.x_norm(j) = made.x_norm[j];
                   }
                 }
               });
    return plan;
  }

  /// Makes the value rows of a call with these operands, all key heads side by side, without the attention: to look at,
  /// to keep, to time.
  ///
  /// Shapes  out: n_k x width(), contiguous rows; q and k as for `plan`. Rows of padding hold nothing of use.
  template <class Out, class Q, class K, class Method = ExactAttention<>>
  void value_rows_into(Out&& out, const Q& q, const K& k, const AttentionOptions& given = {}, const Method& method = {},
                       const Context& context = {}, const HeadOptions& heads = {}) const {
    S* rows = this->rows_of(std::forward<Out>(out));
    with_calls(q, k, given, method, context, heads,
               [&](auto calls, Index heads_per_kv, const AttentionOptions& options, const Context& inner) {
                 Workspace::Frame frame(*inner.workspace);
                 detail::MethodRun<Method> run(method, frame);
                 make_rows(calls, heads_per_kv, options, run, inner, rows,
                           prepares(calls, heads_per_kv, options, run, inner));
               });
  }

  /// See core/values.hpp.
  template <class Call, class Run>
  void attend_heads(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, Run& run,
                    const Context& context) const {
    const std::span<const Call> given(calls);
    const bool samples = prepares(given, heads_per_kv, options, run, context);
    Workspace::Frame frame(*context.workspace);
    S* rows = frame.take<S>(x_.rows * w_.cols);
    make_rows(given, heads_per_kv, options, run, context, rows, samples);
    this->give_rows(calls, heads_per_kv, rows);
    run.run(given, heads_per_kv, options, context);
  }

  /// See core/values.hpp.
  template <class Call, class Run, class Grads>
  void backward(std::span<Call> calls, Index heads_per_kv, const AttentionOptions& options, Run& run, Grads& grads,
                const Context& context) const {
    const std::span<const Call> given(calls);
    detail::check_weights<Call>(run, options_.budget);
    run.prepare(given, heads_per_kv, options, context);
    const Index n_real = detail::real_keys(options.mask, x_.rows);
    const auto to = detail::value_gradient_views<S>(grads);
    Workspace::Frame frame(*context.workspace);
    S* rows = frame.take<S>(x_.rows * w_.cols);
    this->give_rows(calls, heads_per_kv, rows);
    // Goes backward through the method, then hands the sums that it made of d_v to `finish`.
    const auto go_back = [&](Index n_means, const auto& finish) {
      Workspace::Frame inside(*context.workspace);
      const View<T> d_v = this->give_sums(calls, heads_per_kv, n_means, inside);
      run.run_backward(given, heads_per_kv, options, context);
      finish(d_v);
      detail::sum_bias_gradient(view_of(d_v), n_real, grads, *context.workspace);
    };
    const auto of_samples = [&](const Plan& plan, const detail::EncodingWeights<S>& weights, const unsigned char* exact,
                                int threads) {
      go_back(plan.centred ? plan.n_sequences : 0, [&](const View<T>& d_v) {
        detail::SampledGradients<S>(x_, w_, options_, plan, weights, exact, n_real, d_v, to, context, threads).run();
      });
    };
    if (may_sample(given, heads_per_kv, options, run) &&
        sample_rows(given, heads_per_kv, options, run, context, n_real, rows, of_samples))
      return;
    multiply_all_rows(static_cast<Index>(calls.size()) / heads_per_kv, n_real, context, rows);
    go_back(0, [&](const View<T>& d_v) {
      detail::multiply_gradients(x_, w_, view_of(d_v), static_cast<Index>(calls.size()) / heads_per_kv, n_real, to,
                                 context);
    });
  }

 private:
  using T = Accumulator<S>;
  using Plan = detail::PlanArrays<T>;
  using Operands = detail::ValueOperands<S>;
  using Operands::w_;
  using Operands::x_;

  // Checks operands and runs work(calls, heads_per_kv, context with a workspace) on calls without values or outputs.
  template <class Q, class K, class Method, class Work>
  void with_calls(const Q& q, const K& k, const AttentionOptions& options, const Method& method, const Context& context,
                  const HeadOptions& heads, const Work& work) const {
    detail::require_call_operands<Q, K, MonteCarloValues>();
    using Call = detail::HeadCall<S, S, T>;
    const detail::PackedHeads packed =
        detail::check_heads(q, k, detail::shape_of_values(*this), heads, options, method, context);
    const detail::WithWorkspace inner(context);
    Workspace::Frame frame(inner.workspace());
    const detail::RealTokens real = detail::real_tokens_of(options, q.rows(), k.rows(), packed.n_heads);
    const std::span<Call> made =
        detail::packed_calls<Call>(frame, view_of(q), view_of(k), View<T>{}, View<T>{}, packed);
    for (Call& call : made) {
      call.n_padding = call.q.rows - real.n_q;
      call.q.rows = real.n_q;
    }
    const std::span<const Call> calls(made);
    detail::check_heads_of(method, detail::shape_of(calls), real.options);
    work(calls, packed.per_kv(), real.options, inner.context());
  }

  // Whether some head may be sampled, as far as is known without a plan. Queries there are.
  template <class Call, class Run>
  bool may_sample(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                  const Run& run) const {
    return x_.rows > 0 && calls.front().q.rows > 0 && !never_pays(calls, heads_per_kv, options, run);
  }

  // The same. Where some head may be sampled the pairs are made, over which the importance and the output are computed.
  template <class Call, class Run>
  bool prepares(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options, Run& run,
                const Context& context) const {
    detail::check_weights<Call>(run, options_.budget);
    if (!may_sample(calls, heads_per_kv, options, run)) return false;
    if (options_.budget != Budget::constant) run.prepare(calls, heads_per_kv, options, context);
    return true;
  }

  template <class Call, class Run>
  void make_rows(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run& run,
                 const Context& context, S* rows, bool samples) const {
    const Index n_real = detail::real_keys(options.mask, x_.rows);
    const auto nothing = [](const Plan&, const detail::EncodingWeights<S>&, const unsigned char*, int) {};
    if (samples && sample_rows(calls, heads_per_kv, options, run, context, n_real, rows, nothing)) return;
    multiply_all_rows(static_cast<Index>(calls.size()) / heads_per_kv, n_real, context, rows);
  }

  void multiply_all_rows(Index n_kv, Index n_real, const Context& context, S* rows) const {
    if (x_.rows == 0) return;
    this->multiply_rows(options_.bias, n_real, context, rows);
    if (context.flops != nullptr) context.flops->add_value_rows(0, static_cast<double>(n_real * n_kv));
  }

  // Makes a plan, and if it samples some head the rows, and then calls then(plan, weights, exact, threads), where
  // exact[kv] tells which heads were multiplied. Returns whether it made the rows.
  template <class Call, class Run, class Then>
  bool sample_rows(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run& run,
                   const Context& context, Index n_real, S* rows, const Then& then) const {
    Workspace::Frame frame(*context.workspace);
    const int threads = detail::projection_threads(
        context.threads, static_cast<double>(x_.rows) * static_cast<double>(x_.cols) * static_cast<double>(w_.cols));
    detail::SamplePlanner<S> planner(x_, w_, options_, *context.workspace, threads);
    const Plan plan = planner.plan(frame, calls, heads_per_kv, options, run, context);
    unsigned char* exact = frame.take<unsigned char>(plan.n_kv);
    for (Index kv = 0; kv < plan.n_kv; ++kv) exact[kv] = multiplies(plan, kv, n_real) ? 1 : 0;
    if (std::all_of(exact, exact + plan.n_kv, [](unsigned char one) { return one != 0; })) return false;
    const detail::EncodingWeights<S> weights(w_, options_, plan, exact, *context.workspace, threads);
    detail::ValueEncoding<S> encoding(x_, options_, plan, weights, exact, n_real, rows, *context.workspace, threads);
    encoding.run();
    if (context.flops != nullptr) encoding.count(*context.flops);
    then(plan, weights, exact, threads);
    return true;
  }

  // True where no head can gain by sampling, whatever its plan. The passes that find the importance are part of its
  // cost where their length is known.
  template <class Call, class Run>
  bool never_pays(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options, const Run&) const {
    if (x_.cols == 0) return true;
    const Index n_kv = static_cast<Index>(calls.size()) / heads_per_kv;
    detail::SamplingWork work{x_.cols, w_.cols / n_kv, n_kv, detail::real_keys(options.mask, x_.rows)};
    const Call& one = calls.front();
    if (Run::sees_all_keys() && options_.budget != Budget::constant) {
      const detail::KeyBounds bounds(options.mask, one.q.rows, one.k.rows);
      for (Index i = 0; i < one.q.rows; ++i) work.weighing += static_cast<double>(bounds.of(i).high - bounds.of(i).low);
      work.weighing *= 2.0 * static_cast<double>(heads_per_kv * one.k.cols);  // two passes over the scores
    }
    return options_.path == ValuePath::fastest && detail::sampling_never_pays(options_, work);
  }

  // True where a head of this plan is multiplied exactly.
  bool multiplies(const Plan& plan, Index kv, Index n_real) const {
    detail::SamplingWork work{plan.d_in, w_.cols / plan.n_kv, plan.n_kv, n_real};
    Index n_kept = 0;
    for (Index j = 0; j < plan.n_k; ++j) {
      const Index r = plan.counts[kv * plan.n_k + j];
      n_kept += plan.kept[kv * plan.n_k + j];
      work.n_exact += r >= plan.d_in ? 1 : 0;
      work.n_sampled += r > 0 && r < plan.d_in ? 1 : 0;
      work.samples += r < plan.d_in ? static_cast<double>(r) : 0.0;
    }
    if (work.n_sampled == 0 && work.n_exact >= n_kept) return true;  // nothing would be sampled
    return options_.path == ValuePath::fastest && detail::sampling_is_slower(options_, work);
  }

  MonteCarloOptions options_;
};

template <TokenMatrix X, TokenMatrix W>
MonteCarloValues(const X&, const W&) -> MonteCarloValues<typename X::Scalar>;
template <TokenMatrix X, TokenMatrix W>
MonteCarloValues(const X&, const W&, const MonteCarloOptions&) -> MonteCarloValues<typename X::Scalar>;

}  // namespace heed
