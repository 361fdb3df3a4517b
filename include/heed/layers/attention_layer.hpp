#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "heed/core/check_option.hpp"
#include "heed/core/context.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/embedding.hpp"
#include "heed/layers/kept_methods.hpp"
#include "heed/layers/layer_method.hpp"
#include "heed/layers/linear.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"

namespace heed {

/// How a layer of attention makes queries, keys and scores.
struct AttentionLayerOptions {
  Index n_heads = 4;
  AttentionChoice choice{};
  bool causal = false;
  bool rotary = false;       ///< positions by rotation of queries and keys, whose heads have an even width
  bool tied = false;         ///< W_k is W_q: retrieval is learned far sooner (the tree then routes both alike)
  bool start_equal = false;  ///< W_k starts as W_q and goes its own way
  bool cosine = false;       ///< score = |tau_h| cos(q, k), tau_h learned; off: q . k / sqrt(d)
  double temperature = 12;   ///< cosine: where tau_h starts; > 0
};

namespace detail {

/// Throws OptionError where no layer of these options can be made. T: the scalar that sums are kept in.
template <class T>
void check_attention_layer(Index d_model, const AttentionLayerOptions& options) {
  check_size(d_model, 1, "d_model");
  if (options.n_heads < 1 || d_model % options.n_heads != 0)
    throw OptionError(
        message("AttentionLayerOptions::n_heads = ", options.n_heads, " must be >= 1 and divide d_model = ", d_model));
  const Index d = d_model / options.n_heads;
  if (options.rotary && d % 2 != 0) {
    throw OptionError(message("AttentionLayerOptions::rotary turns pairs of entries, but d_model / n_heads = ", d,
                              " is odd: it must be even"));
  }
  if (options.cosine) check_positive(options.temperature, number_range<T>(), "AttentionLayerOptions::temperature");
  check_choice(options.choice, options.causal);
}

}  // namespace detail

/// y = concat_h attend(x W_q, x W_k, x W_v)_h W_o over sequences of n tokens, the method chosen at run time. With
/// `cosine` rows of q and k have the length sqrt(|tau_h|), so that the score is |tau_h| cos(q, k) and trees see queries
/// and keys of one length. The sign of tau_h says nothing: a step of an optimiser may carry it over 0, where an end to
/// its values would leave it without a gradient.
///
/// Shapes  x, y: n_sequences n x d_model, rows without gaps; d = d_model / n_heads.
/// Cost    8 n d_model^2 flops (tied: 6) and the method's own; backward twice that and the method's own. Kept: 5 n
///         d_model numbers.
template <class T>
class AttentionLayer {
 public:
  AttentionLayer() = default;
  /// Adds "<name>.q", ".k" (unless tied), ".v", ".o" and the method's parameters. `n_keys`: tokens of a sequence, for
  /// methods whose parameters belong to positions.
  /// Errors  OptionError for options out of range, before anything is added.
  AttentionLayer(ParameterStore<T>& store, const std::string& name, Index d_model, Index n_keys,
                 const AttentionLayerOptions& options, std::uint64_t seed)
      : options_(options) {
    detail::check_attention_layer<T>(d_model, options);
    d_ = d_model / options.n_heads;
    store.add_all_or_none([&] {
      q_ = Linear<T>(store, name + ".q", d_model, d_model, false, seed);
      if (!options.tied) k_ = Linear<T>(store, name + ".k", d_model, d_model, false, seed);
      v_ = Linear<T>(store, name + ".v", d_model, d_model, false, seed);
      o_ = Linear<T>(store, name + ".o", d_model, d_model, false, seed);
      if (options.start_equal && !options.tied) copy(store, q_.weights(), k_.weights());
      if (options.cosine) {
        temperature_ = store.add(name + ".temperature", 1, options.n_heads, {.decays = false});
        store.fill(temperature_, static_cast<T>(options.temperature));
      }
      method_ = detail::LayerMethod<T>(store, name, options.choice, options.n_heads, d_, n_keys, seed);
    });
  }

  const AttentionLayerOptions& options() const { return options_; }
  detail::LayerMethod<T>& method() { return method_; }
  const detail::LayerMethod<T>& method() const { return method_; }
  /// Replaces the method by another, whose parameters are added to the store as "<name>...": from exact attention to a
  /// tree, or to a tree of another height.
  /// Errors  OptionError for a choice that this layer cannot use; layer and store are untouched then.
  void choose(ParameterStore<T>& store, const std::string& name, const AttentionChoice& choice, Index n_keys,
              std::uint64_t seed) {
    detail::check_choice(choice, options_.causal);
    method_ = detail::LayerMethod<T>(store, name, choice, options_.n_heads, d_, n_keys, seed);
    options_.choice = choice;
  }

  /// Medians of each sequence, or stored biases, for the trees of the layer.
  /// Errors  OptionError for medians in a causal layer with trees.
  void set_biases(TreeBiases biases) {
    AttentionChoice changed = options_.choice;
    changed.biases = biases;
    detail::check_choice(changed, options_.causal);
    options_.choice = changed;
    method_.set_biases(biases);
  }

  /// What stands in for values and method: writes `out` of one sequence from its queries and keys, the layer's input x
  /// and W_v.
  using Substitute =
      std::function<void(const ConstView<T>& q, const ConstView<T>& k, const ConstView<T>& x, const ConstView<T>& w_v,
                         const AttentionOptions& options, const View<T>& out, const Context& context)>;
  /// For evaluation alone, such as sampled values in a trained model: backward knows nothing of it. Empty: none.
  void set_substitute(Substitute substitute) { substitute_ = std::move(substitute); }

  /// What forward leaves for backward.
  struct Kept {
    View<T> q, k, v, out;          // n x d_model; q and k as attention saw them; the same rows where they are tied
    View<T> lengths_q, lengths_k;  // n x n_heads, before they became those of `cosine`
    View<T> lse;                   // n x n_heads
    ConstView<T> more_d_out{};     // n x d_model: a gradient by `out` of another loss, for backward to add; or no data
    mutable detail::KeptMethods<T> methods{};  // what forward and backward make of the parameters, again and again
  };
  Kept take(Workspace::Frame& frame, Index n) const {
    Kept kept;
    take(frame, n, kept);
    return kept;
  }
  /// The same into what another pass has left.
  void take(Workspace::Frame& frame, Index n, Kept& kept) const {
    const Index width = d_ * options_.n_heads, heads = options_.n_heads, c = options_.cosine ? heads : 0;
    const auto rows = [&](Index cols) { return detail::take_rows<T>(frame, n, cols); };
    kept.q = rows(width);
    kept.lengths_q = rows(c);
    kept.k = options_.tied ? kept.q : rows(width);
    kept.lengths_k = options_.tied ? kept.lengths_q : rows(c);
    for (View<T>* all : {&kept.v, &kept.out}) *all = rows(width);
    kept.lse = rows(heads);
    kept.more_d_out = {};
  }

  void forward(const ParameterStore<T>& store, const ConstView<T>& x, Index n, const Kept& kept, const View<T>& y,
               const Context& context) const {
    q_.forward(store, x, kept.q, context);
    if (!options_.tied) k_.forward(store, x, kept.k, context);
    if (!substitute_) v_.forward(store, x, kept.v, context);
    for (Index first = 0; options_.rotary && first < x.rows; first += n) {
      rotate_positions(kept.q.rows_from(first, n), options_.n_heads);
      if (!options_.tied) rotate_positions(kept.k.rows_from(first, n), options_.n_heads);
    }
    if (options_.cosine) {
      normalise(store, kept.q, kept.lengths_q);
      if (!options_.tied) normalise(store, kept.k, kept.lengths_k);
    }
    if (substitute_) {
      for (Index first = 0; first < x.rows; first += n) {
        const auto part = [&](const View<T>& rows) { return detail::read_only(rows.rows_from(first, n)); };
        substitute_(part(kept.q), part(kept.k), ConstView<T>{x.data + first * x.row_stride, n, x.cols, x.row_stride, 1},
                    store.values(v_.weights()), attention_options(), kept.out.rows_from(first, n), context);
      }
    } else {
      method_.visit(store, options_.causal, kept.methods,
                    [&](const auto& method) { attend(method, kept, n, kept.out, kept.lse, context); });
    }
    o_.forward(store, detail::read_only(kept.out), y, context);
  }

  /// What exact attention makes of the queries, keys and values that forward left: n x d_model, before W_o.
  void exact_out(Index n, const Kept& kept, const View<T>& out, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    attend(ExactAttention<>{}, kept, n, out, detail::take_rows<T>(frame, out.rows, options_.n_heads), context);
  }

  /// d_x is written.
  void backward(ParameterStore<T>& store, const ConstView<T>& x, Index n, const Kept& kept, const ConstView<T>& d_y,
                const View<T>& d_x, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    const Index width = x.cols;
    const auto rows = [&] { return detail::take_rows<T>(frame, x.rows, width); };
    const View<T> d_out = rows(), d_q = rows(), d_k = rows(), d_v = rows(), more = rows();
    o_.backward(store, detail::read_only(kept.out), d_y, d_out, context);
    for (Index i = 0; kept.more_d_out.data != nullptr && i < x.rows; ++i)
      detail::row_of(d_out, i) += detail::row_of(kept.more_d_out, i);
    method_.visit(store, options_.causal, kept.methods, [&](const auto& method) {
      using One = detail::MethodOfHead<std::remove_cvref_t<decltype(method)>>;
      auto grads = gradients_for(method, kept.methods);
      for (Index first = 0; first < x.rows; first += n) {
        const auto part = [&](const View<T>& of) { return detail::map_of(of.rows_from(first, n)); };
        grads.d_q = d_q.rows_from(first, n);
        grads.d_k = d_k.rows_from(first, n);
        grads.d_v = d_v.rows_from(first, n);
        multi_head_attend_backward_into(grads, part(d_out), part(kept.q), part(kept.k), part(kept.v), part(kept.out),
                                        One::has_softmax ? part(kept.lse) : detail::map_of(View<T>{}),
                                        {.n_heads = options_.n_heads}, attention_options(), method, context,
                                        method_.backward());
        if constexpr (requires { grads.d_methods; })
          method_.template add<typename One::Gradients>(store, grads.d_methods);
      }
    });
    for (Index i = 0; options_.tied && i < x.rows; ++i) detail::row_of(d_q, i) += detail::row_of(d_k, i);
    const auto add_side = [&](const Linear<T>& linear, const View<T>& seen, const View<T>& lengths,
                              const View<T>& gradient, const View<T>& to) {
      if (options_.cosine) derive(store, seen, lengths, gradient);
      for (Index first = 0; options_.rotary && first < x.rows; first += n)
        rotate_positions(gradient.rows_from(first, n), options_.n_heads, 10000.0, -1);
      linear.backward(store, x, detail::read_only(gradient), to, context);
    };
    const auto add_more = [&] {
      for (Index i = 0; i < x.rows; ++i) detail::row_of(d_x, i) += detail::row_of(more, i);
    };
    add_side(q_, kept.q, kept.lengths_q, d_q, d_x);
    if (!options_.tied) {
      add_side(k_, kept.k, kept.lengths_k, d_k, more);
      add_more();
    }
    v_.backward(store, x, detail::read_only(d_v), more, context);
    add_more();
  }

 private:
  struct Gradients {
    View<T> d_q, d_k, d_v;
  };
  template <class OfOne>
  struct ListedGradients : Gradients {
    std::span<OfOne> d_methods;
  };
  template <class Method>
  static Gradients gradients_for(const Method&, detail::KeptMethods<T>&) {
    return {};
  }
  template <class Method>
  static auto gradients_for(const std::vector<Method>& methods, detail::KeptMethods<T>& kept) {
    return ListedGradients<typename Method::Gradients>{{}, kept.room_for_gradients(methods)};
  }

  template <class Method>
  void attend(const Method& method, const Kept& kept, Index n, const View<T>& out, const View<T>& lse,
              const Context& context) const {
    for (Index first = 0; first < out.rows; first += n) {
      const auto part = [&](const View<T>& rows) { return detail::map_of(rows.rows_from(first, n)); };
      multi_head_attend_into(
          part(out), detail::MethodOfHead<Method>::has_softmax ? part(lse) : detail::map_of(View<T>{}), part(kept.q),
          part(kept.k), part(kept.v), {.n_heads = options_.n_heads}, attention_options(), method, context);
    }
  }

  AttentionOptions attention_options() const {
    AttentionOptions options;
    if (options_.causal) options.mask.causal = Causal::square;
    if (options_.cosine) options.scale = 1.0;
    return options;
  }

  static void copy(ParameterStore<T>& store, const Slice& from, const Slice& to) {
    const T* source = store.values(from).data;
    std::copy(source, source + from.size(), store.values(to).data);
  }

  // sqrt(|tau|), never 0: a head of length 0 would stay so.
  static T length_of(T tau) { return std::sqrt(std::max(std::abs(tau), std::numeric_limits<T>::min())); }

  // Rows x of each head become x sqrt(|tau|) / |x|.
  void normalise(const ParameterStore<T>& store, const View<T>& x, const View<T>& lengths) const {
    const ConstView<T> tau = store.values(temperature_);
    for (Index i = 0; i < x.rows; ++i) {
      for (Index h = 0; h < options_.n_heads; ++h) {
        auto row = detail::row_of(x.columns(h * d_, d_), i);
        lengths(i, h) = std::sqrt(row.square().sum() + T(1e-12));
        row *= length_of(tau(0, h)) / lengths(i, h);
      }
    }
  }

  // With r = sqrt(|tau|) and u = x / |x| = y / r: d_x = r (d_y - u (u . d_y)) / |x|, d_tau += sign(tau) d_y . u / (2
  // r). d is d_y and becomes d_x.
  void derive(ParameterStore<T>& store, const View<T>& y, const View<T>& lengths, const View<T>& d) const {
    const View<T> tau = store.values(temperature_), d_tau = store.gradients(temperature_);
    for (Index i = 0; i < y.rows; ++i) {
      for (Index h = 0; h < options_.n_heads; ++h) {
        const T root = length_of(tau(0, h));
        const auto row = detail::row_of(y.columns(h * d_, d_), i);
        auto d_row = detail::row_of(d.columns(h * d_, d_), i);
        const T along = (row * d_row).sum() / root;  // u . d_y
        d_tau(0, h) += (tau(0, h) < 0 ? -along : along) / (T(2) * root);
        d_row = (d_row - row * (along / root)) * (root / lengths(i, h));
      }
    }
  }

  Substitute substitute_;
  AttentionLayerOptions options_;
  Index d_ = 0;
  Linear<T> q_, k_, v_, o_;
  Slice temperature_;
  detail::LayerMethod<T> method_;
};

}  // namespace heed
