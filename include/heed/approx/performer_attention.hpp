#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <type_traits>

#include "heed/approx/detail/feature_attention.hpp"
#include "heed/approx/detail/feature_gradient.hpp"
#include "heed/approx/detail/feature_sequences.hpp"
#include "heed/approx/detail/random_features.hpp"
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/attend.hpp"  // the doors, for those who include the method alone

namespace heed {

/// The random features of PerformerAttention.
struct PerformerOptions {
  Index n_features = 256;  ///< error knob: more are more exact, variance falls as 1 / n_features; >= 1
  std::uint64_t seed = 0;  ///< same seed, same features
  bool orthogonal = true;  ///< features orthogonal in blocks of d: less variance for the same work; off: independent
};

namespace detail {

/// phi(x) = e^(w_f . x - |x|^2 / 2) of tokens x already multiplied by the root of the scale. A row of a feature is w_f,
/// 1, reference; a token is x, -|x|^2 / 2, -1 for keys and x, 0, 1 for queries, whose length no answer depends on.
template <class T>
class PositiveFeatures {
 public:
  using Sum = T;
  static constexpr bool has_rows = true;

  /// w: n_features x d.
  PositiveFeatures(const T* w, Index n_features, Index d, double scale) : w_(w), size_(n_features), d_(d) {
    factor_ = static_cast<T>(std::sqrt(std::abs(scale)));
    sign_ = scale < 0 ? T(-1) : T(1);
  }
  Index size() const { return size_; }
  Index depth() const { return d_ + 2; }
  T factor(FeatureSide side) const { return side == FeatureSide::key ? sign_ * factor_ : factor_; }

  void write_rows(Index first, Index count, T* rows) const {
    for (Index f = 0; f < count; ++f, rows += depth()) {
      std::copy_n(w_ + (first + f) * d_, d_, rows);
      rows[d_] = 1;
      rows[d_ + 1] = 0;
    }
  }
  void complete(FeatureSide side, Index width, Index n, T* x) const {
    T *half_square = x + d_ * width, *sign = half_square + width;
    std::fill_n(half_square, n, T(0));
    std::fill_n(sign, n, side == FeatureSide::key ? T(-1) : T(1));
    if (side == FeatureSide::query) return;
    for (Index c = 0; c < d_; ++c) {
      for (Index j = 0; j < n; ++j) half_square[j] -= x[c * width + j] * x[c * width + j];
    }
    for (Index j = 0; j < n; ++j) half_square[j] /= 2;
  }

 private:
  const T* w_;
  Index size_, d_;
  T factor_, sign_;
};

}  // namespace detail

/// Performer: softmax attention with e^(scale q . k) estimated without bias by positive random features,
/// out_i = sum_j w_ij v_j / sum_j w_ij over the keys that query i sees, w_ij = phi(q_i) . phi(k_j),
/// phi(x)_f = e^(w_f . x' - |x'|^2 / 2) / sqrt(n_features), x' = sqrt(scale) x, w_f ~ N(0, 1)^d. So keys and values are
/// summed up once, in time linear in tokens. A negative scale turns the keys' sign.
///
/// For tokens of any size no feature overflows and no denominator vanishes: features of keys are taken relative to a
/// reference for each feature, the logit of a key that came before, those of a query relative to its largest. Causal
/// answers do not depend on later tokens, not in one bit.
///
/// The variance of w_ij grows as e^(|q' + k'|^2): few features do for |x'|^2 up to about 2. Models trained with a
/// softmax pass that: on the 16 heads of a small language model, |x'|^2 from 6 to 60, out is off by its own size with
/// 128 features and with 1024. This is a layer to train with.
///
/// Shapes  as attend. There is no lse: has_softmax is false and lse is left alone. One set of features serves all
///         heads; a list of methods with seeds of their own gives each head its own.
/// Empty   a query that sees no key gets out = 0. A key whose length is past the root of the largest number weighs 0.
/// Errors  as attend; OptionError for any mask but causal ones, padding, absent keys (Mask::keys) and packed sequences,
///         for ALiBi, softcap and sinks; ShapeError where cols(k) is not the width features were drawn for.
/// Cost    2 m (d + d_v + 1) flops and m exponentials a key and a query, m = n_features; backward about 2.3 times
///         that. Where causal, pairs within a panel of p keys (48 with AVX-512, less elsewhere) take up to 2 p (m +
///         d_v) more a query, which are not counted. Drawing features takes 4 m d^2 flops a call; for_width draws them
///         once. Memory O(m (d + d_v)) a key head, backward also n_q numbers a head and, for each thread, m n_k / p.
/// Threads const and re-entrant; the same bits for any context.threads. Causal calls and the backward pass share out
///         key heads alone.
/// Source  Choromanski et al. 2020, "Rethinking attention with Performers" (FAVOR+, causal sums). The references for
///         each feature are ours.
template <RealScalar S>
class PerformerAttention {
 public:
  static constexpr bool has_softmax = false;
  using Sum = Accumulator<S>;

  /// Errors  OptionError unless n_features is at least 1.
  explicit PerformerAttention(const PerformerOptions& options = {}) : options_(options) {
    if (options.n_features < 1)
      throw OptionError(detail::message("PerformerOptions::n_features = ", options.n_features, " must be >= 1"));
    detail::checked_size(options.n_features, "PerformerOptions::n_features");
  }

  const PerformerOptions& options() const { return options_; }

  /// The rows w_f for tokens of width d: n_features x d, those a call uses.
  Matrix<Sum> features(Index d) const {
    if (drawn_.cols() == d && drawn_.rows() > 0) return drawn_;
    detail::checked_product("n_features * d", {options_.n_features, d});
    Matrix<Sum> w(options_.n_features, d);
    Vector<double> room((d + 1) * d);
    detail::draw_features(options_.seed, options_.n_features, d, options_.orthogonal, w.data(), room.data());
    return w;
  }
  /// The same method with its features drawn, for tokens of this width alone: calls need not draw them again.
  PerformerAttention for_width(Index d) const {
    PerformerAttention drawn = *this;
    drawn.drawn_ = features(d);
    return drawn;
  }

  /// See core/method.hpp.
  void check_heads(const CallShape& heads, const AttentionOptions& options) const {
    detail::refuse_pair_scores(options, "PerformerAttention sums keys up and scores no pair");
    if (drawn_.rows() > 0 && drawn_.cols() != heads.d) {
      throw ShapeError(detail::message("cols(k) = ", heads.d, " but PerformerAttention has features for width ",
                                       drawn_.cols(), ": they must be equal"));
    }
    detail::checked_product("PerformerOptions::n_features * (cols(k) + cols(v))",
                            {options_.n_features, heads.d + heads.d_v + 3});
  }

  /// See core/method.hpp.
  template <class Call>
    requires std::is_same_v<typename Call::Sum, Sum>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    check_heads({.d = calls.front().k.cols, .d_v = calls.front().v.cols}, options);
    with_map(calls.front().k.cols, options, context, [&](const auto& map, double products, const Context& inner) {
      detail::attend_features(map, calls, heads_per_kv, options.mask, products, inner);
    });
  }

  /// See core/method.hpp.
  template <class Call, class Grads>
    requires std::is_same_v<typename Call::Sum, Sum>
  void attend_heads_backward(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                             const BackwardOptions&, Grads&, const Context& context) const {
    if (calls.empty()) return;
    with_map(calls.front().k.cols, options, context, [&](const auto& map, double products, const Context& inner) {
      detail::attend_features_backward(map, calls, heads_per_kv, options.mask, products, inner);
    });
  }

 private:
  // Calls run(map, flops of the features of a token, context with a workspace).
  template <class Run>
  void with_map(Index d, const AttentionOptions& options, const Context& context, const Run& run) const {
    const detail::WithWorkspace own(context);
    Workspace::Frame frame(own.workspace());
    const Sum* w = drawn_.data();
    if (drawn_.rows() == 0) {
      Sum* drawn = frame.take<Sum>(options_.n_features * d);
      Workspace::Frame inside(own.workspace());
      detail::draw_features(options_.seed, options_.n_features, d, options_.orthogonal, drawn,
                            inside.take<double>((d + 1) * d));
      w = drawn;
    }
    const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(std::max<Index>(1, d))));
    run(detail::PositiveFeatures<Sum>(w, options_.n_features, d, scale),
        2.0 * static_cast<double>(options_.n_features) * static_cast<double>(d), own.context());
  }

  PerformerOptions options_;
  Matrix<Sum> drawn_;  // 0 x 0: drawn by every call
};

}  // namespace heed
