#pragma once
#include <cmath>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/split_lse.hpp"

namespace heed::detail {

/// Running softmax of `width` queries over the keys seen so far, `factor` bringing scores s to base-2 exponents:
///   m = max s, l = sum of 2^(factor (s - m)), out[c * width + i] = sum of 2^(factor (s - m)) v_c.
/// Two states over disjoint keys merge by scaling both to the larger m (Milakov and Gimelshein 2018; Rabe and Staats
/// 2021).
template <class T>
struct SoftmaxState {
  Index width = 0;
  Index d_v = 0;
  T factor = 1;
  T* m = nullptr;
  T* l = nullptr;
  T* out = nullptr;

  SoftmaxState() = default;
  SoftmaxState(Scratch& frame, Index panel_width, Index value_width) : width(panel_width), d_v(value_width) {
    m = frame.take<T>(width);
    l = frame.take<T>(width);
    out = frame.take<T>(width * d_v);
  }

  void clear() const {
    clear_weights();
    clear_out();
  }
  void clear_weights() const {
    for (Index i = 0; i < width; ++i) m[i] = minus_infinity<T>;
    for (Index i = 0; i < width; ++i) l[i] = 0;
  }
  void clear_out() const {
    for (Index c = 0; c < width * d_v; ++c) out[c] = 0;
  }

  /// Takes the sums of `other`, which is no wider.
  void copy(const SoftmaxState& other) {
    width = other.width;
    factor = other.factor;
    for (Index i = 0; i < width; ++i) m[i] = other.m[i];
    for (Index i = 0; i < width; ++i) l[i] = other.l[i];
    for (Index c = 0; c < width * d_v; ++c) out[c] = other.out[c];
  }

  /// 2^(factor (score - top)), and 0 for a score of -inf.
  T weight(T score, T top) const { return is_minus_infinity(score) ? T(0) : std::exp2(factor * (score - top)); }
  /// True where no key was kept. A kept key whose score is NaN leaves m alone but not l.
  bool empty(Index i) const { return is_minus_infinity(m[i]) && is_zero(l[i]); }

  /// Adds the keys of `other`, whose queries are those from `first` on. Not inlined, as what follows: sums merged at
  /// different places of a program, or on different machines, are to have the same bits whatever the compiler fuses.
  [[gnu::noinline]] void merge(const SoftmaxState& other, Index first = 0) const {
    T mine[merged], theirs[merged];
    for (Index i0 = 0; i0 < other.width; i0 += merged) {
      const Index n = other.width - i0 < merged ? other.width - i0 : merged;
      Index n_empty = 0;
      for (Index i = 0; i < n; ++i) {
        mine[i] = 1;
        theirs[i] = 0;
        if (other.empty(i0 + i)) {
          ++n_empty;
          continue;
        }
        T &top = m[first + i0 + i], &sum = l[first + i0 + i];
        const T theirs_top = other.m[i0 + i], now = is_minus_infinity(top) || top < theirs_top ? theirs_top : top;
        mine[i] = weight(top, now);
        theirs[i] = weight(theirs_top, now);
        top = now;
        sum = sum * mine[i] + other.l[i0 + i] * theirs[i];
      }
      if (n_empty == n) continue;
      for (Index c = 0; c < d_v; ++c) {
        T* to = out + c * width + first + i0;
        const T* from = other.out + c * other.width + i0;
        for (Index i = 0; i < n; ++i) {
          if (n_empty == 0 || !other.empty(i0 + i)) to[i] = to[i] * mine[i] + from[i] * theirs[i];
        }
      }
    }
  }

  /// Adds a sink to query i: a key with this logit and no value row.
  [[gnu::noinline]] void add_sink(Index i, double logit) const {
    const T score = score_of_sink(logit, factor);
    if (is_minus_infinity(score)) return;
    const T top = is_minus_infinity(m[i]) || m[i] < score ? score : m[i];
    const T mine = weight(m[i], top);
    m[i] = top;
    l[i] = l[i] * mine + weight(score, top);
    for (Index c = 0; c < d_v; ++c) out[c * width + i] *= mine;
  }

  /// The same log-sum-exp as lse(i), in parts.
  SplitLse split_lse(Index i) const {
    if (empty(i)) return {};
    SplitLse split = SplitLse::of_score(m[i], factor);
    split.rest += std::log2(static_cast<double>(l[i]));
    return split;
  }
  /// Natural log of the softmax denominator, -inf where no key was kept.
  [[gnu::noinline]] T lse(Index i) const {
    if (empty(i)) return minus_infinity<T>;
    if (is_minus_infinity(m[i])) return l[i];  // NaN
    return static_cast<T>(static_cast<double>(m[i]) * (static_cast<double>(factor) * log_2) +
                          static_cast<double>(std::log(l[i])));
  }

 private:
  static constexpr Index merged = 64;  // queries at a time: their rows of out are read once
  static constexpr double log_2 = 0.69314718055994530942;
};

}  // namespace heed::detail
