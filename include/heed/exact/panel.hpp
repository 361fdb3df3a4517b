#pragma once
#include <algorithm>
#include <array>
#include <optional>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/head_call.hpp"
#include "heed/exact/pair_tile.hpp"
#include "heed/exact/score_rule.hpp"
#include "heed/exact/softmax_state.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Streams keys past one panel of queries of one head (up to lanes * vectors of them), keeping the running softmax.
///
/// Keys go in *strips* that gather into a tile of at most `tile_keys` score rows. Keys every query of the panel sees form wide
/// strips; keys at the edge of a causal or windowed range form strips one vector of keys long that only touch the query
/// vectors which see some of them, so that a diagonal costs little more than its kept half.
/// When the tile is full: new maximum, weights, values (`flush`).
template <class T, class Call, class ScoreMod>
class Panel {
 public:
  static constexpr Index tile_keys = 128;

  /// Scratch for panels of these sizes, taken once per thread.
  Panel(Scratch& frame, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)), keys_(storage_kernels<T, KernelScalar<typename Call::Key>>(isa)),
        queries_(storage_kernels<T, KernelScalar<typename Call::Query>>(isa)), isa_(isa) {
    const auto width = static_cast<std::size_t>(max_width());
    const auto rows = static_cast<std::size_t>(tile_keys);
    q_ = frame.take<T>(width * static_cast<std::size_t>(d));
    s_ = frame.take<T>(width * rows);
    added_ = frame.take<T>(width * rows);
    scratch_ = frame.take<T>(width * std::max(rows, static_cast<std::size_t>(d_v)));
    k_tile_ = frame.take<T>(rows * static_cast<std::size_t>(d));
    v_tile_ = frame.take<T>(rows * static_cast<std::size_t>(d_v));
    key_position_ = frame.take<T>(rows);
    for (T** row : {&top_, &base_, &correction_, &low_, &high_, &query_position_}) *row = frame.take<T>(width);
    range_low_ = frame.take<Index>(width);
    range_high_ = frame.take<Index>(width);
  }

  Index max_width() const { return tiles_.lanes * tiles_.vectors; }

  /// Starts on `queries` of `call`; keys seen are added to `state`, whose width it sets.
  void begin(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options, const ScoreMod& mod,
             SoftmaxState<T>& state) {
    call_ = &call;
    mod_ = &mod;
    set_ = queries;
    vectors_ = (queries.size + tiles_.lanes - 1) / tiles_.lanes;
    width_ = vectors_ * tiles_.lanes;
    state.width = width_;
    state.d_v = call.v.cols;
    state_ = state;
    rule_.emplace(options, call.k.cols, call.head, has_functor);
    pairs_.emplace(options.mask, call.q.rows, call.head, isa_);
    const auto* q = kernel_pointer(call.q.data) + (queries.list == nullptr ? queries.first * call.q.row_stride : 0);
    queries_.transpose(q, call.q.row_stride, call.q.col_stride, queries.list, queries.size, nullptr, call.q.cols, q_, width_,
                       rule_->query_factor, true);
    for (Index i = 0; i < width_; ++i) {  // lanes behind the last query repeat it; their results are not written
      const KeyRange range = bounds.of(queries[std::min(i, queries.size - 1)]);
      range_low_[i] = range.low;
      range_high_[i] = range.high;
      query_position_[i] = static_cast<T>(range.diagonal);
    }
    n_strips_ = 0;
    rows_ = 0;
  }

  /// Adds the keys of `segment` at offsets [from, to) that some query sees.
  void add_keys(const TokenSet& segment, Index from, Index to) {
    segment_ = segment;
    Index low_most = to, low_least = to, high_most = from, high_least = to;
    bool first = true;
    for (Index i = 0; i < width_; ++i) {
      const Index low = std::clamp(offset_of(range_low_[i]), from, to), high = std::clamp(offset_of(range_high_[i]), low, to);
      low_[i] = static_cast<T>(low - from);
      high_[i] = static_cast<T>(high - from);
      low_most = first ? low : std::max(low_most, low);
      low_least = std::min(low_least, low);
      high_most = std::max(high_most, high);
      high_least = std::min(high_least, high);
      first = false;
    }
    origin_ = from;
    if (low_least >= high_most) return;
    if (low_most < high_least) {
      add_shared(low_most, high_least);
      add_edge(low_least, low_most);
      add_edge(high_least, high_most);
    } else {
      add_edge(low_least, high_most);
    }
    flush();
  }

 private:
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod>;
  static constexpr Index max_strips = tile_keys / 2;

  struct Strip {
    Index row;      // first score row
    Index n_keys;
    Index first;    // query vectors it touches
    Index count;
    bool partial;   // some pair is masked: value rows may hold NaN that must not spread
    const T* v;
    Index v_stride;
  };

  // Number of entries of the segment below key position `key`.
  Index offset_of(Index key) const {
    if (segment_.list == nullptr) return key - segment_.first;
    return std::lower_bound(segment_.list, segment_.list + segment_.size, key) - segment_.list;
  }

  void add_shared(Index from, Index to) {
    for (Index at = from; at < to;) {
      const Index n = std::min(to - at, tile_keys - rows_);
      add_strip(at, n, 0, vectors_, false);
      at += n;
    }
  }

  // Keys near a bound: short strips, each for the query vectors that see some of its keys.
  void add_edge(Index from, Index to) {
    const Index step = tiles_.lanes;
    for (Index at = from; at < to; at += step) {
      const Index n = std::min(step, to - at);
      const T begin = static_cast<T>(at - origin_), end = static_cast<T>(at + n - origin_);
      Index first = vectors_, last = -1;
      for (Index i = 0; i < width_; ++i) {
        if (low_[i] < end && begin < high_[i] && low_[i] < high_[i]) {
          first = std::min(first, i / tiles_.lanes);
          last = i / tiles_.lanes;
        }
      }
      if (last >= 0) add_strip(at, n, first, last - first + 1, true);
    }
  }

  void add_strip(Index at, Index n, Index first, Index count, bool edge) {
    if (rows_ + n > tile_keys || n_strips_ == max_strips) flush();
    if (rows_ == 0) std::fill(top_, top_ + width_, minus_infinity<T>);
    const TokenSet keys = segment_.part(at, n);
    T* s = s_ + rows_ * width_;
    T* added = added_ + rows_ * width_;
    int census = 2;
    if (pairs_->given()) {
      pairs_->load(set_, keys, width_, rule_->unit, added, scratch_);
      census = tiles_.census(n, width_, set_.size, added);
      if (census == 1) return;  // no pair of the strip is kept
    }
    const bool partial = edge || census == 3;
    const bool adjusts = rule_->adjusts_all || census == 3;
    if (adjusts || partial) {
      std::fill(base_, base_ + width_, minus_infinity<T>);  // raw maxima of scores that are not final: not used
    }
    Index k_stride = 0;
    const T* k = rows_of(call_->k, keys, k_tile_ + rows_ * call_->k.cols, k_stride);
    tiles_.scores(k, k_stride, n, q_, call_->k.cols, width_, first, count, s, adjusts || partial ? base_ : top_);
    if (adjusts) adjust(keys, first, count, s, census == 3 || rule_->adjusts_all ? added : nullptr);
    if (edge) {
      for (Index i = 0; i < width_; ++i) {  // bounds relative to the strip
        base_[i] = low_[i] - static_cast<T>(at - origin_);
        correction_[i] = high_[i] - static_cast<T>(at - origin_);
      }
      tiles_.bound(n, width_, first, count, base_, correction_, s, top_);
    } else if (adjusts || partial) {
      tiles_.bound(n, width_, first, count, nullptr, nullptr, s, top_);
    }
    Strip& strip = strips_[static_cast<std::size_t>(n_strips_++)];
    strip = {rows_, n, first, count, partial, nullptr, 0};
    strip.v = rows_of(call_->v, keys, v_tile_ + rows_ * call_->v.cols, strip.v_stride);
    rows_ += n;
  }

  void adjust(const TokenSet& keys, Index first, Index count, T* s, const T* added) {
    for (Index j = 0; j < keys.size; ++j) key_position_[j] = static_cast<T>(keys[j]);
    tiles_.adjust(keys.size, width_, first, count, rule_->scale, rule_->cap, rule_->unit, pairs_->given() ? added : nullptr, rule_->slope,
                  query_position_, key_position_, s);
    if constexpr (has_functor) {
      const Index end = std::min((first + count) * tiles_.lanes, set_.size);
      for (Index j = 0; j < keys.size; ++j) {
        for (Index i = first * tiles_.lanes; i < end; ++i) {
          T& score = s[j * width_ + i];
          if (!is_minus_infinity(score)) score = static_cast<T>((*mod_)(score, set_[i], keys[j]));
        }
      }
    }
  }

  // Rows of keys or values in scalar T, features contiguous: read in place where they already are, else copied to `tile`.
  template <class S>
  const T* rows_of(const ConstView<S>& m, const TokenSet& keys, T* tile, Index& stride) const {
    const Index first = keys.list == nullptr ? keys.first : 0;
    if constexpr (std::is_same_v<S, T>) {
      if (m.col_stride == 1 && keys.list == nullptr) {
        stride = m.row_stride;
        return m.data + first * m.row_stride;
      }
    }
    stride = m.cols;
    keys_.gather(kernel_pointer(m.data) + first * m.row_stride, m.row_stride, m.col_stride, keys.list, keys.size, m.cols, tile, stride);
    return tile;
  }

  // Scores to weights to values for the strips of the tile.
  void flush() {
    if (n_strips_ == 0) return;
    tiles_.advance(width_, rule_->softmax_factor, top_, state_.m, state_.l, base_, correction_);
    const T* correction = correction_;  // applied by the first product over all vectors
    if (strips_[0].count < vectors_) {
      tiles_.values(nullptr, 0, 0, s_, call_->v.cols, width_, 0, vectors_, correction, state_.out);
      correction = nullptr;
    }
    for (Index t = 0; t < n_strips_; ++t) {
      const Strip& strip = strips_[static_cast<std::size_t>(t)];
      T* w = s_ + strip.row * width_;
      tiles_.weigh(strip.n_keys, width_, strip.first, strip.count, rule_->softmax_factor, base_, w, state_.l);
      if (strip.partial && !tiles_.all_finite(strip.v, strip.v_stride, strip.n_keys, call_->v.cols)) {
        if (correction != nullptr) tiles_.values(nullptr, 0, 0, w, call_->v.cols, width_, 0, vectors_, correction, state_.out);
        add_kept_values(strip, w);
      } else {
        tiles_.values(strip.v, strip.v_stride, strip.n_keys, w, call_->v.cols, width_, strip.first, strip.count, correction, state_.out);
      }
      correction = nullptr;
    }
    n_strips_ = 0;
    rows_ = 0;
  }

  // Value products of a strip with masked pairs over rows that hold NaN or Inf: masked pairs (weight 0) are skipped.
  void add_kept_values(const Strip& strip, const T* w) const {
    for (Index j = 0; j < strip.n_keys; ++j) {
      for (Index i = strip.first * tiles_.lanes; i < (strip.first + strip.count) * tiles_.lanes; ++i) {
        const T weight = w[j * width_ + i];
        if (weight == 0) continue;
        for (Index c = 0; c < call_->v.cols; ++c) state_.out[c * width_ + i] += weight * strip.v[j * strip.v_stride + c];
      }
    }
  }

  const TileKernels<T>& tiles_;
  const StorageKernels<T, KernelScalar<typename Call::Key>>& keys_;
  const StorageKernels<T, KernelScalar<typename Call::Query>>& queries_;
  Isa isa_;
  T *q_, *s_, *added_, *scratch_, *k_tile_, *v_tile_, *key_position_;
  T *top_, *base_, *correction_, *low_, *high_, *query_position_;
  Index *range_low_, *range_high_;

  const Call* call_ = nullptr;
  const ScoreMod* mod_ = nullptr;
  std::optional<ScoreRule<T>> rule_;
  std::optional<PairTile<T>> pairs_;
  SoftmaxState<T> state_;
  TokenSet set_, segment_;
  Index vectors_ = 0, width_ = 0, origin_ = 0, rows_ = 0, n_strips_ = 0;
  std::array<Strip, static_cast<std::size_t>(max_strips)> strips_;
};

}  // namespace heed::detail
