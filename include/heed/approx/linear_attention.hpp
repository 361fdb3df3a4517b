#pragma once
#include <algorithm>
#include <cmath>
#include <span>

#include "heed/approx/detail/feature_attention.hpp"
#include "heed/approx/detail/feature_gradient.hpp"
#include "heed/approx/detail/feature_sequences.hpp"
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/attend.hpp"  // the doors, for those who include the method alone

namespace heed {

namespace detail {

/// phi(x) = elu(x) + 1: x + 1 above 0, e^x elsewhere, entry by entry. That of a query is divided by its largest entry,
/// which leaves the answer what it is.
template <class T>
class EluFeatures {
 public:
  using Sum = T;
  static constexpr bool has_rows = false;

  explicit EluFeatures(Index d) : d_(d) {}
  Index size() const { return d_; }
  Index depth() const { return d_; }
  T factor(FeatureSide) const { return T(1); }
  void complete(FeatureSide, Index, Index, T*) const {}

  void features(FeatureSide side, const TileKernels<T>& tiles, Index first, Index count, const T* x, Index width,
                Index vectors, T* phi, T* room) const {
    const Index n = vectors * tiles.lanes;
    x += first * width;
    for (Index f = 0; f < count; ++f) {
      for (Index i = 0; i < n; ++i) phi[f * width + i] = -positive_part(-x[f * width + i]);
    }
    std::fill_n(room, 2 * width, T(0));
    tiles.weigh(count, width, 0, vectors, static_cast<T>(1.4426950408889634074), room, phi, room + width);
    for (Index f = 0; f < count; ++f) {
      for (Index i = 0; i < n; ++i) phi[f * width + i] += positive_part(x[f * width + i]);
    }
    if (side == FeatureSide::key) return;
    T* largest = room;
    for (Index f = 0; f < count; ++f) {
      for (Index i = 0; i < n; ++i) largest[i] = std::max(largest[i], phi[f * width + i]);
    }
    for (Index i = 0; i < n; ++i) largest[i] = largest[i] > 0 ? 1 / largest[i] : T(0);
    for (Index f = 0; f < count; ++f) {
      for (Index i = 0; i < n; ++i) phi[f * width + i] *= largest[i];
    }
  }

  // phi'(x) = 1 or e^x, divided by what phi was divided by.
  void pull_back(Index width, Index n, const T* x, const T* phi, T* d_phi) const {
    for (Index f = 0; f < d_; ++f) {
      for (Index i = f * width; i < f * width + n; ++i) d_phi[i] *= phi[i] / (positive_part(x[i]) + 1);
    }
  }

 private:
  // max(x, 0) without a branch, of which every second is foreseen wrongly; NaN stays.
  static T positive_part(T x) { return T(0.5) * (x + std::abs(x)); }

  Index d_;
};

}  // namespace detail

/// Linear attention: a product of feature maps takes the place of the softmax, so that keys and values are summed up,
/// out_i = phi(q_i) S_i / phi(q_i) . z_i with S_i = sum_j phi(k_j)^T v_j and z_i = sum_j phi(k_j) over the keys that
/// query i sees, phi(x) = elu(x) + 1.
///
/// Its weights are not those of softmax attention: it is a trained model's own layer. It has no scale: options.scale is
/// not looked at.
///
/// Shapes  as attend. There is no lse: has_softmax is false and lse is left alone.
/// Empty   a query that sees no key gets out = 0, and so does one whose denominator vanishes in the scalar of sums
///         (all entries below -87 in float).
/// Errors  as attend; OptionError for any mask but causal ones, padding, absent keys (Mask::keys) and packed sequences,
///         for ALiBi, softcap and sinks.
/// Cost    2 d (d_v + 1) flops and d exponentials a key that is there and a query; backward 2.5 times that. Where
///         causal, pairs within a panel of p keys (48 with AVX-512, less elsewhere) take up to 2 p (d + d_v) more a
///         query, which are not counted. Memory O(d d_v) a key head, backward also n_q numbers a head.
/// Threads const and re-entrant; the same bits for any context.threads. Causal calls and the backward pass share out
///         key heads alone.
/// Source  Katharopoulos, Vyas, Pappas, Fleuret 2020, "Transformers are RNNs"; their sums forward and backward, in
///         panels of keys.
class LinearAttention {
 public:
  static constexpr bool has_softmax = false;

  /// See core/method.hpp.
  void check_heads(const CallShape&, const AttentionOptions& options) const {
    detail::refuse_pair_scores(options, "LinearAttention sums keys up and scores no pair");
  }

  /// See core/method.hpp.
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    check_heads({}, options);
    const detail::WithWorkspace own(context);
    const detail::EluFeatures<typename Call::Sum> map(calls.front().k.cols);
    detail::attend_features(map, calls, heads_per_kv, options.mask, 0.0, own.context());
  }

  /// See core/method.hpp.
  template <class Call, class Grads>
  void attend_heads_backward(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                             const BackwardOptions&, Grads&, const Context& context) const {
    if (calls.empty()) return;
    const detail::EluFeatures<typename Call::Sum> map(calls.front().k.cols);
    detail::attend_features_backward(map, calls, heads_per_kv, options.mask, 0.0, context);
  }
};

}  // namespace heed
