#pragma once
#include <algorithm>
#include <cmath>
#include <limits>

#include "heed/approx/detail/feature_sequences.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

// Kernel feature attention: out_i = phi(q_i) S / phi(q_i) . z with S = sum_j phi(k_j)^T v_j and z = sum_j phi(k_j) over
// the keys that query i sees. A method is a map of features phi >= 0:
//
//   using Sum                        the scalar of sums
//   Index size(), depth()            features of a token; rows of a panel of tokens as the map reads it
//   Sum factor(side)                 what tokens are multiplied by when they are read
//   void complete(side, width, x)    writes the rows of a panel of tokens behind the first d
//   static constexpr bool has_rows   true: phi = e^(row . x) with a row of `depth` numbers for each feature
//     void write_rows(first, count, rows)
//                                    the rows; the last number of each, which x multiplies by 1 (queries) or -1 (keys),
//                                    is the reference of the feature and is written by the panel
//   has_rows = false:
//     void features(side, tiles, first, count, x, width, vectors, phi, room)
//     void pull_back(width, n, x, phi, d_phi)
//                                    phi of a panel, with room for 3 * width numbers; d_phi becomes the gradient by x
//
// Features that are exponentials have a size of their own for each feature: e^(row . x) of keys is divided by
// e^(reference) and of queries multiplied by it, and then divided by the largest of the query. References are logits of
// keys that came before, so that sums are at least 1: nothing overflows, no denominator vanishes, and what a query gets
// does not depend on keys behind those it sees.

enum class FeatureSide { query, key };

/// Features [first, first + count) of a head: their rows (where the map has rows) and sums over keys, row f being S_f
/// and then z_f, padded to whole vectors.
template <class T>
struct FeatureSums {
  Index first = 0, count = 0;
  T* rows = nullptr;  // count x depth
  T* sums = nullptr;  // count x stride of sums
};

/// Panels of keys and queries of one thread, vector lanes along tokens: entry (row, token) at [row * width + token].
template <class Map>
class FeaturePanel {
 public:
  using T = typename Map::Sum;

  FeaturePanel(Scratch& scratch, const Map& map, Index d, Index d_v, Isa isa)
      : map_(map), tiles_(tile_kernels<T>(isa)), gradients_(gradient_kernels<T>(isa)), isa_(isa), d_(d), d_v_(d_v) {
    width_ = width(isa);
    stride_ = stride_of_sums(d_v, isa);
    for (T** x : {&x_of_keys, &x_of_queries}) *x = scratch.take<T>(map.depth() * width_);
    for (T** phi : {&phi_of_keys, &phi_of_queries}) *phi = scratch.take<T>(map.size() * width_);
    pairs = scratch.take<T>(width_ * width_);
    for (T** rows : {&values, &finite_values_}) *rows = scratch.take<T>(width_ * stride_);
    out = scratch.take<T>(stride_ * width_);
    room_ = scratch.take<T>(3 * width_);
    ones_ = scratch.take<T>(width_);
    seen = scratch.take<Index>(width_);
    if (ones_ == nullptr) return;  // only measured
    top_ = room_;
    base_ = room_ + width_;
    ignored_ = room_ + 2 * width_;
    std::fill(ones_, ones_ + width_, T(1));
    std::fill(ignored_, ignored_ + width_, T(0));
  }

  static Index width(Isa isa) { return tile_kernels<T>(isa).lanes * tile_kernels<T>(isa).vectors; }
  static Index stride_of_sums(Index d_v, Isa isa) {
    const Index lanes = tile_kernels<T>(isa).lanes;
    return (d_v + 1 + lanes - 1) / lanes * lanes;
  }
  Index width() const { return width_; }
  Index stride() const { return stride_; }
  /// Vectors, and lanes of whole vectors, that hold n tokens.
  Index vectors_of(Index n) const { return (n + tiles_.lanes - 1) / tiles_.lanes; }
  Index lanes_of(Index n) const { return vectors_of(n) * tiles_.lanes; }

  /// Starts sums over keys at none.
  void clear(const FeatureSums<T>& state) {
    if constexpr (Map::has_rows) map_.write_rows(state.first, state.count, state.rows);
    std::fill_n(state.sums, state.count * stride_, T(0));
    fresh_ = true;
  }
  /// Whether no key has come yet: then there is no reference.
  void set_fresh(bool fresh) { fresh_ = fresh; }

  /// Makes features of the first of `some` keys in `phi_of_keys`, and returns of how many. A key far above the
  /// reference of some feature begins a panel of its own, and moves the references: sums, and those of the rows behind
  /// `sums`, move with them where `move_sums`.
  template <class S>
  Index keys(const FeatureSums<T>& state, const ConstView<S>& k, const TokenSet& some, bool move_sums) {
    Index n = std::min(width_, some.size);
    read(k, some.part(0, n), FeatureSide::key, x_of_keys);
    if constexpr (Map::has_rows) {
      logits(state, x_of_keys, vectors_of(n), phi_of_keys);
      if (fresh_ || top_[0] > most) {
        move_references(state, move_sums);
        logits(state, x_of_keys, vectors_of(n), phi_of_keys);
      }
      for (Index j = 1; j < n; ++j) {
        if (top_[j] > most) n = j;
      }
      // Keys left to a later panel may lie so far above these references that 2 to that power is no number.
      for (Index j = 0; j < width_; ++j) base_[j] = j < n ? T(0) : top_[j];
      tiles_.weigh(state.count, width_, 0, vectors_of(n), log2_e, base_, phi_of_keys, ignored_);
    } else {
      map_.features(FeatureSide::key, tiles_, state.first, state.count, x_of_keys, width_, vectors_of(n), phi_of_keys,
                    room_);
    }
    return n;
  }

  /// Makes features of queries [first, first + n) in `phi_of_queries`: each query's up to a factor of its own.
  template <class S>
  void queries(const FeatureSums<T>& state, const ConstView<S>& q, Index first, Index n) {
    read(q, {first, n}, FeatureSide::query, x_of_queries);
    if constexpr (Map::has_rows) {
      logits(state, x_of_queries, vectors_of(n), phi_of_queries);
      for (Index i = 0; i < width_; ++i) base_[i] = is_minus_infinity(top_[i]) ? T(0) : top_[i];
      tiles_.weigh(state.count, width_, 0, vectors_of(n), log2_e, base_, phi_of_queries, ignored_);
    } else {
      map_.features(FeatureSide::query, tiles_, state.first, state.count, x_of_queries, width_, vectors_of(n),
                    phi_of_queries, room_);
    }
  }

  /// Rows of values and a 1 behind each, in `values`.
  template <class S>
  void read_values(const ConstView<S>& v, const TokenSet& some) {
    storage_kernels<T, KernelScalar<S>>(isa_).gather(kernel_pointer(v.data) + some.first * v.row_stride, v.row_stride,
                                                     v.col_stride, some.list, some.size, d_v_, values, stride_);
    for (Index j = 0; j < some.size; ++j) {
      values[j * stride_ + d_v_] = T(1);
      for (Index c = d_v_ + 1; c < stride_; ++c) values[j * stride_ + c] = T(0);
    }
  }

  /// Adds n keys to the sums.
  void add_keys(const FeatureSums<T>& state, Index n) {
    gradients_.add_products(phi_of_keys, width_, state.count, values, stride_, n, stride_, state.sums, stride_);
  }

  /// out[c][i] = sum_f phi(q_i)_f S_fc for n queries, column d_v being the denominators.
  void read_sums(const FeatureSums<T>& state, Index n) {
    tiles_.values(state.sums, stride_, tiles_.rows, state.count, phi_of_queries, d_v_ + 1, width_, 0, vectors_of(n),
                  nullptr, out);
  }

  /// Calls visit(i, n) for the queries of a causal sequence whose last key is one of the n_keys from number t on, a
  /// panel of them after the other, with `seen` telling how many of these keys each sees.
  template <class Visit>
  void visit_last_seeing(const FeatureSequence& sequence, Index t, Index n_keys, const Visit& visit) {
    const Index end = std::min(sequence.q_end, sequence.query_of(t + n_keys));
    for (Index i = std::max(sequence.q_first, sequence.query_of(t)); i < end; i += width_) {
      const Index n = std::min(width_, end - i);
      for (Index c = 0; c < n; ++c) seen[c] = sequence.seen_by(i + c) - t;
      visit(i, n);
    }
  }

  /// pairs[j][i] = phi(q_i) . phi(k_j) for n_keys keys and n queries, and 0 from key seen[i] on for query i.
  void multiply_pairs(const FeatureSums<T>& state, Index n_keys, Index n) {
    tiles_.values(phi_of_keys, width_, tiles_.rows, state.count, phi_of_queries, n_keys, width_, 0, vectors_of(n),
                  nullptr, pairs);
    hide(pairs, n_keys, n);
  }
  /// Hides what comes behind each query's last key: query i sees keys [0, seen[i]) of the panel.
  void hide(T* some, Index n_keys, Index n) const {
    for (Index j = 0, hidden = 0; j < n_keys; ++j) {
      while (hidden < n && seen[hidden] <= j) ++hidden;
      std::fill_n(some + j * width_, hidden, T(0));
      std::fill(some + j * width_ + n, some + j * width_ + lanes_of(n), T(0));
    }
  }

  /// Adds the keys of the panel to `out`. Entries of values that are not finite reach the queries that see their key: 0
  /// stands in for them in the product, so that every other number keeps its bits.
  void add_pairs(Index n_keys, Index n) {
    const bool finite = tiles_.all_finite(values, stride_, n_keys, d_v_);
    const T* some = values;
    if (!finite) {
      for (Index x = 0; x < n_keys * stride_; ++x) finite_values_[x] = is_finite(values[x]) ? values[x] : T(0);
      some = finite_values_;
    }
    tiles_.values(some, stride_, tiles_.rows, n_keys, pairs, d_v_ + 1, width_, 0, vectors_of(n), ones_, out);
    for (Index j = 0; !finite && j < n_keys; ++j) {
      for (Index c = 0; c < d_v_; ++c) {
        const T value = values[j * stride_ + c];
        for (Index i = 0; i < n && !is_finite(value); ++i) {
          if (j < seen[i]) out[c * width_ + i] += pairs[j * width_ + i] * value;
        }
      }
    }
  }

  /// Divides `out` by its denominators and writes rows [first, first + n) of `to`.
  template <class Out>
  void write(const View<Out>& to, Index first, Index n) {
    T* sum = out + d_v_ * width_;
    for (Index i = 0; i < n; ++i) sum[i] = denominator(sum[i]);
    using Stored = KernelScalar<Out>;
    auto* rows = reinterpret_cast<Stored*>(to.data) + first * to.row_stride;
    storage_kernels<T, Stored>(isa_).write_rows(out, width_, sum, n, d_v_, rows, to.row_stride, to.col_stride, nullptr);
  }
  /// A denominator below the normal numbers has lost what it is to divide: as if no key were there.
  static T denominator(T sum) { return is_finite(sum) && sum < std::numeric_limits<T>::min() ? T(0) : sum; }

  T *x_of_keys, *x_of_queries;      // depth x width
  T *phi_of_keys, *phi_of_queries;  // features x width
  T* pairs;                         // keys x width
  T* values;                        // width x stride
  T* out;                           // stride x width
  Index* seen;                      // width: keys of the panel that each query sees; never fewer than the one before

 protected:
  static constexpr T log2_e = static_cast<T>(1.4426950408889634074);
  static constexpr T most = 40;          // a key e^40 above the references moves them
  static constexpr T least = T(-1e30f);  // of references: below it is no finite key

  template <class S>
  void read(const ConstView<S>& rows, const TokenSet& some, FeatureSide side, T* x) {
    storage_kernels<T, KernelScalar<S>>(isa_).transpose(kernel_pointer(rows.data) + some.first * rows.row_stride,
                                                        rows.row_stride, rows.col_stride, some.list, some.size, nullptr,
                                                        d_, x, width_, map_.factor(side), true);
    map_.complete(side, width_, lanes_of(some.size), x);
  }

  void logits(const FeatureSums<T>& state, const T* x, Index vectors, T* phi) {
    std::fill(top_, top_ + width_, minus_infinity<T>);
    tiles_.scores(state.rows, map_.depth(), state.count, x, map_.depth(), width_, 0, vectors, phi, top_, nullptr);
  }

  // Raises the references to the logits of the first key of the panel.
  void move_references(const FeatureSums<T>& state, bool move_sums) {
    T* sign = x_of_keys + (map_.depth() - 1) * width_;
    std::fill(sign, sign + tiles_.lanes, T(0));
    logits(state, x_of_keys, 1, phi_of_keys);
    std::fill(sign, sign + tiles_.lanes, T(-1));
    for (Index f = 0; f < state.count; ++f) {
      T& reference = state.rows[(f + 1) * map_.depth() - 1];
      const T before = fresh_ ? least : reference, logit = phi_of_keys[f * width_];
      reference = logit > before ? logit : before;
      if (move_sums && !fresh_) scale_sums(state, f, before, reference);
    }
    fresh_ = false;
  }
  void scale_sums(const FeatureSums<T>& state, Index f, T from, T to) const {
    const T factor = std::exp(from - to);
    for (Index c = 0; c < stride_; ++c) state.sums[f * stride_ + c] *= factor;
  }

  const Map& map_;
  const TileKernels<T>& tiles_;
  const GradientKernels<T>& gradients_;
  Isa isa_;
  Index d_, d_v_, width_, stride_;
  bool fresh_ = true;
  T* finite_values_;                                         // width x stride
  T *room_, *ones_;                                          // 3 x width; width
  T *top_ = nullptr, *base_ = nullptr, *ignored_ = nullptr;  // parts of room_
};

}  // namespace heed::detail
