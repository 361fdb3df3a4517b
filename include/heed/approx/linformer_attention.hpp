#pragma once
#include <algorithm>
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/add_product.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/present_keys.hpp"
#include "heed/engine/run_backward.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/exact/attend.hpp"  // the doors, for those who include the method alone
#include "heed/exact/backward_operands.hpp"

namespace heed {

/// Linformer: softmax attention over r learned mixtures of the keys,
/// out_i = sum_t softmax_t(scale q_i . (E k)_t) (F v)_t.
///
/// E and F belong to the positions of keys: a call has as many keys as they have columns. Sharing one method between
/// all heads is the paper's headwise sharing, E = F its key-value sharing; a list of methods gives each head its own.
///
/// Shapes  key_projection E, value_projection F: r x n_k each; q: n_q x d, k: n_k x d, v: n_k x d_v; lse: over the r
///         projected keys.
/// Empty   without a real key out = 0 and lse = -inf, or that of the sink.
/// Errors  as attend; ShapeError where rows(k) is not cols(E). Padding and absent keys (Mask::n_real_keys, Mask::keys)
///         leave columns of E and F out, and their rows are not read; OptionError for every other mask, and ALiBi: a
///         projected key is all keys at once. Scale, softcap and sinks are those of the projected keys.
/// Cost    2 r n_k (d + d_v) flops a key head, n_k the keys that are there; then 2 r (d + d_v) and r exponentials a
///         query; backward twice the former, three times with gradients of E and F, and r (6 d + 4 d_v) a query.
///         Memory O(r (d + d_v)) a key head.
/// Threads const and re-entrant; the same bits for any context.threads.
/// Source  Wang, Li, Khabsa, Fang, Ma 2020, "Linformer: Self-attention with linear complexity".
template <RealScalar S>
class LinformerAttention {
 public:
  static constexpr bool has_softmax = true;
  using Scalar = S;

  /// Copies both.
  /// Errors  ShapeError unless they are of one shape, with a row at least.
  template <TokenMatrix E, TokenMatrix F>
  LinformerAttention(const E& key_projection, const F& value_projection)
      : keys_(key_projection), values_(value_projection) {
    static_assert(std::is_same_v<typename E::Scalar, S> && std::is_same_v<typename F::Scalar, S>,
                  "heed: both projections must have the scalar type of the method: cast them first");
    if (keys_.rows() != values_.rows() || keys_.cols() != values_.cols()) {
      throw ShapeError(detail::message("value_projection is ", values_.rows(), " x ", values_.cols(),
                                       " but must be as key_projection: ", keys_.rows(), " x ", keys_.cols()));
    }
    if (keys_.rows() < 1) throw ShapeError("heed: rows(key_projection) = 0 must be >= 1");
  }

  /// Puts other numbers in the place of both, whose shapes stay: nothing is allocated.
  /// Errors  ShapeError for another shape; the method is untouched then.
  template <TokenMatrix E, TokenMatrix F>
  void set_projections(const E& key_projection, const F& value_projection) {
    const auto check = [&](const auto& given, const char* name) {
      detail::check_gradient(given.rows(), given.cols(), name, "before", keys_.rows(), keys_.cols());
    };
    check(key_projection, "key_projection");
    check(value_projection, "value_projection");
    keys_ = key_projection;
    values_ = value_projection;
  }

  const Matrix<S>& key_projection() const { return keys_; }
  const Matrix<S>& value_projection() const { return values_; }

  /// Gradients by the projections, summed over the heads of the method.
  struct Gradients {
    Matrix<S> d_key_projection;    ///< r x n_k
    Matrix<S> d_value_projection;  ///< r x n_k
  };
  /// See core/method.hpp.
  void size_gradients(Gradients& grads) const {
    grads.d_key_projection.resize(keys_.rows(), keys_.cols());
    grads.d_value_projection.resize(values_.rows(), values_.cols());
  }
  template <class Grads>
  void check_gradients(const Grads& grads) const {
    if constexpr (requires { grads.d_key_projection; }) check_one(grads.d_key_projection, "d_key_projection");
    if constexpr (requires { grads.d_value_projection; }) check_one(grads.d_value_projection, "d_value_projection");
  }

  /// See core/method.hpp.
  void check_heads(const CallShape& heads, const AttentionOptions& options) const {
    constexpr const char* why = "a projected key of LinformerAttention is all keys at once";
    detail::refuse_option(options.mask.causal != Causal::none, "Mask::causal", why);
    detail::refuse_pair_masks(options.mask, why);
    detail::refuse_option(!options.mask.sequence_offsets.empty(), "Mask::sequence_offsets", why);
    if (heads.n_k != keys_.cols()) {
      throw ShapeError(detail::message("rows(k) = ", heads.n_k, " but cols(key_projection) = ", keys_.cols(),
                                       ": they must be equal"));
    }
  }

  /// See core/method.hpp.
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    using T = typename Call::Sum;
    using Narrow = detail::HeadCall<typename Call::Query, T, typename Call::Out>;
    check_heads({.n_k = calls.front().k.rows}, options);
    const detail::WithWorkspace own(context);
    Workspace::Frame frame(own.workspace());
    const Groups<Call> groups(calls, heads_per_kv, real_keys(options.mask, frame), own.context());
    const Rows<T> keys = take_rows<T>(frame, groups, calls.front().k.cols),
                  values = take_rows<T>(frame, groups, calls.front().v.cols);
    project(groups, keys, values);
    Narrow* narrow = frame.take<Narrow>(static_cast<Index>(calls.size()));
    for (std::size_t c = 0; c < calls.size(); ++c) {
      const Call& call = calls[c];
      const Index g = static_cast<Index>(c) / heads_per_kv;
      new (narrow + c) Narrow{call.q, keys.read(g), values.read(g), call.out, call.lse, call.lse_stride, call.head};
    }
    const std::span<const Narrow> all(narrow, calls.size());
    const AttentionOptions over_rows = without_mask(options);
    FlopCounter flops;
    detail::run_pairs(detail::every_pair(all, over_rows.mask, frame), all, heads_per_kv, over_rows, NoScoreMod{},
                      Context{&flops, &own.workspace(), context.threads});
    count(context.flops, flops, options.mask, calls.size());
    if (context.flops == nullptr) return;
    context.flops->add_products(Phase::project, groups.products(keys) + groups.products(values));
  }

  /// See core/method.hpp.
  template <class Call, class Grads>
  void attend_heads_backward(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                             const BackwardOptions&, Grads& grads, const Context& context) const {
    if (calls.empty()) return;
    using T = typename Call::Sum;
    using Narrow = detail::GradientCall<typename Call::Query, T>;
    const detail::WithWorkspace own(context);
    Workspace::Frame frame(own.workspace());
    const Groups<Call> groups(calls, heads_per_kv, real_keys(options.mask, frame), own.context());
    const Rows<T> keys = take_rows<T>(frame, groups, calls.front().k.cols),
                  d_keys = take_rows<T>(frame, groups, keys.cols),
                  values = take_rows<T>(frame, groups, calls.front().v.cols),
                  d_values = take_rows<T>(frame, groups, values.cols);
    project(groups, keys, values);
    Narrow* narrow = frame.take<Narrow>(static_cast<Index>(calls.size()));
    for (std::size_t c = 0; c < calls.size(); ++c) {
      const Call& call = calls[c];
      const Index g = static_cast<Index>(c) / heads_per_kv;
      Narrow* one = new (narrow + c) Narrow{};
      one->q = call.q;
      one->k = keys.read(g);
      one->v = values.read(g);
      one->head = call.head;
      one->d_out = call.d_out;
      one->known_lse = call.known_lse;
      one->known_lse_stride = call.known_lse_stride;
      one->split_lse = call.split_lse;
      one->mean = call.mean;
      one->d_q = call.d_q;
      one->d_k = d_keys.of(g);
      one->d_v = d_values.of(g);
    }
    const std::span<const Narrow> all(narrow, calls.size());
    const AttentionOptions over_rows = without_mask(options);
    FlopCounter flops;
    detail::run_backward(detail::every_pair(all, over_rows.mask, frame), all, heads_per_kv, over_rows, NoScoreMod{},
                         Context{&flops, &own.workspace(), context.threads});
    // (E k)_t = sum_j E_tj k_j: d_k = E^T d_(E k), d_E = d_(E k) k^T; F and v alike.
    double of_keys = 2, of_values = 2;  // products with all keys: the projection again, and d_k
    for (Index g = 0; g < groups.count; ++g) {
      const Call& call = groups.first_of(g);
      const TokenSet rows = all_of(keys.rows);
      groups.add(call.d_k, detail::transposed(view_of(keys_)), d_keys.read(g), {groups.real, rows, all_of(keys.cols)});
      groups.add(call.d_v, detail::transposed(view_of(values_)), d_values.read(g),
                 {groups.real, rows, all_of(values.cols)});
    }
    if constexpr (requires { grads.d_key_projection; }) {
      if (grads.d_key_projection.size() > 0) {
        const auto rows_of = [](const Call& call) { return call.k; };
        write_gradient(output_view_of(grads.d_key_projection), groups, d_keys, rows_of, frame);
        of_keys = 3;
      }
    }
    if constexpr (requires { grads.d_value_projection; }) {
      if (grads.d_value_projection.size() > 0) {
        const auto rows_of = [](const Call& call) { return call.v; };
        write_gradient(output_view_of(grads.d_value_projection), groups, d_values, rows_of, frame);
        of_values = 3;
      }
    }
    count(context.flops, flops, options.mask, calls.size());
    if (context.flops == nullptr) return;
    context.flops->add_products(Phase::backward_scores, of_keys * groups.products(keys));
    context.flops->add_products(Phase::backward_values, of_values * groups.products(values));
  }

 private:
  // r rows for each key head, or none where no key is real.
  template <class T>
  struct Rows {
    T* data;
    Index rows, cols;
    View<T> of(Index g) const { return {data + g * rows * cols, rows, cols, cols, 1}; }
    ConstView<T> read(Index g) const { return {data + g * rows * cols, rows, cols, cols, 1}; }
  };

  static TokenSet all_of(Index n) { return {0, n}; }

  // Keys that are there and no padding.
  TokenSet real_keys(const Mask& mask, Workspace::Frame& frame) const {
    const TokenSet real = all_of(std::min<Index>(mask.n_real_keys, keys_.cols()));
    return mask.keys.given() ? detail::PresentKeys(mask.keys, keys_.cols(), frame).of(real) : real;
  }

  // Heads that share keys, and their real keys.
  template <class Call>
  struct Groups {
    using T = typename Call::Sum;
    Groups(std::span<const Call> of, Index heads_per_kv, const TokenSet& real_keys, const Context& of_call)
        : calls(of), share(heads_per_kv), real(real_keys), context(of_call) {
      count = static_cast<Index>(of.size()) / heads_per_kv;
    }
    const Call& first_of(Index g) const { return calls[static_cast<std::size_t>(g * share)]; }
    // Of all projections of one side.
    double products(const Rows<T>& rows) const {
      return 2.0 * static_cast<double>(count * rows.rows) * static_cast<double>(real.size) *
             static_cast<double>(rows.cols);
    }
    template <class A, class B>
    void add(const View<T>& to, const ConstView<A>& a, const ConstView<B>& b, const detail::ProductTokens& some) const {
      const double products = static_cast<double>(some.rows.size) * static_cast<double>(some.inner.size) *
                              static_cast<double>(some.columns.size);
      detail::add_product(to, a, b, some, *context.workspace,
                          detail::threads_for(products, 1e6, detail::thread_count(context.threads)));
    }

    std::span<const Call> calls;
    Index share;
    TokenSet real;
    const Context& context;
    Index count = 0;
  };

  template <class T, class Call>
  Rows<T> take_rows(Workspace::Frame& frame, const Groups<Call>& groups, Index cols) const {
    const Index rows = groups.real.size == 0 ? 0 : keys_.rows(), size = groups.count * rows * cols;
    const Rows<T> taken{frame.take<T>(size), rows, cols};
    std::fill_n(taken.data, size, T(0));
    return taken;
  }

  template <class Call, class T>
  void project(const Groups<Call>& groups, const Rows<T>& keys, const Rows<T>& values) const {
    const TokenSet rows = all_of(keys.rows);
    for (Index g = 0; g < groups.count; ++g) {
      const Call& call = groups.first_of(g);
      groups.add(keys.of(g), view_of(keys_), call.k, {rows, groups.real, all_of(keys.cols)});
      groups.add(values.of(g), view_of(values_), call.v, {rows, groups.real, all_of(values.cols)});
    }
  }

  // d_projection = sum over key heads of d_rows tokens^T; columns of keys that are not real are 0.
  template <class Out, class Call, class T, class RowsOf>
  static void write_gradient(const View<Out>& to, const Groups<Call>& groups, const Rows<T>& d_rows,
                             const RowsOf& rows_of, Workspace::Frame& frame) {
    static_assert(std::is_same_v<Out, S>, "heed: gradients of projections must have their scalar type");
    Workspace::Frame inside = frame.nested();
    const detail::GradientSum<T, S> sum(to, inside);
    detail::fill(sum.sum(), T(0));
    for (Index g = 0; g < groups.count; ++g) {
      groups.add(sum.sum(), d_rows.read(g), detail::transposed(rows_of(groups.first_of(g))),
                 {all_of(d_rows.rows), all_of(d_rows.cols), groups.real});
    }
    sum.finish();
  }

  template <class Gradient>
  void check_one(const Gradient& gradient, const char* name) const {
    if (gradient.size() == 0) return;
    detail::check_gradient(gradient.rows(), gradient.cols(), name, "the projections", keys_.rows(), keys_.cols());
  }

  static AttentionOptions without_mask(AttentionOptions options) {
    options.mask = Mask();
    return options;
  }

  // What is counted over projected keys, and the real ones as tokens.
  void count(FlopCounter* flops, const FlopCounter& over_rows, const Mask& mask, std::size_t n_heads) const {
    if (flops == nullptr) return;
    for (const Phase phase : {Phase::scores, Phase::values, Phase::backward_scores, Phase::backward_values})
      flops->add_products(phase, over_rows.products(phase));
    flops->add_exponentials(over_rows.exponentials());
    detail::count_tokens(*flops, mask, keys_.cols(), static_cast<Index>(n_heads));
  }

  Matrix<S> keys_, values_;
};

}  // namespace heed
