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
#include "heed/engine/head_call.hpp"
#include "heed/engine/key_tile.hpp"
#include "heed/engine/label_rule.hpp"
#include "heed/engine/pair_tile.hpp"
#include "heed/engine/query_ranges.hpp"
#include "heed/engine/score_rule.hpp"
#include "heed/engine/softmax_state.hpp"
#include "heed/engine/tile_part.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Scratch the panels of one thread share: what lives only while one of them visits one tile of keys.
template <class T>
struct PanelScratch {
  PanelScratch(Scratch& scratch, Index vectors, Index lanes) : pairs(scratch, KeyTile<T, T>::capacity, vectors, lanes) {
    const auto width = static_cast<std::size_t>(vectors * lanes),
               rows = static_cast<std::size_t>(KeyTile<T, T>::capacity);
    s = scratch.take<T>(width * rows);
    for (T** row : {&top, &base, &correction, &low, &high, &ones}) *row = scratch.take<T>(width);
    key_position = scratch.take<T>(rows);
  }
  PairRoom<T> pairs;
  T* s;                                            // capacity x width
  T *top, *base, *correction, *low, *high, *ones;  // width
  T* key_position;                                 // capacity
};

/// Streams tiles of keys past one panel of queries of one head (up to lanes * vectors of them), keeping the running softmax.
///
/// The keys of a tile go in *strips*. Keys every query of the panel sees form one wide strip; keys at the edge of a causal or
/// windowed range form strips one vector of keys long that only touch the query vectors which see some of them, so that a
/// diagonal costs little more than its kept half. Then: new maximum, weights, values (`flush`).
/// `Operands` are how products read queries, keys, values and weights (WidenedOperands, Bf16Operands); all else is in their Sum.
template <class Operands, class Call, class ScoreMod>
class SoftmaxPanel {
 public:
  using T = typename Operands::Sum;
  using Tile = typename Operands::Tile;

  SoftmaxPanel(Scratch& scratch, const PanelScratch<T>& shared, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        isa_(isa),
        shared_(shared),
        operands_(scratch, tiles_.lanes * tiles_.vectors, d, isa),
        ranges_(scratch, tiles_.vectors, tiles_.lanes) {
    const Index width = tiles_.lanes * tiles_.vectors;
    for (T** row : {&first_label_, &end_label_})
      *row = excludes ? scratch.take<T>(static_cast<std::size_t>(width)) : nullptr;
    state_ = SoftmaxState<T>(scratch, width, d_v);
  }

  /// Starts on `queries` of `call` with no keys seen.
  void begin(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
             const ScoreMod& mod) {
    call_ = &call;
    mod_ = &mod;
    set_ = queries;
    vectors_ = (queries.size + tiles_.lanes - 1) / tiles_.lanes;
    width_ = vectors_ * tiles_.lanes;
    state_.width = width_;
    state_.clear_weights();
    no_values_ = true;
    rule_.emplace(options, call.k.cols, call.head, has_functor);
    state_.factor = rule_->softmax_factor;
    pairs_.emplace(options.mask, call.q.rows, call.head, isa_);
    operands_.pack(call.q, queries, width_, rule_->query_factor);
    if constexpr (excludes) {
      for (Index i = 0; i < width_; ++i) {
        const Index query = queries[std::min(i, queries.size - 1)];
        first_label_[i] = static_cast<T>(mod.first[query]);
        end_label_[i] = static_cast<T>(mod.end[query]);
      }
    }
    ranges_.begin(queries, vectors_, bounds, rule_->slope != 0);
  }

  /// What the queries have seen so far.
  const SoftmaxState<T>& state() {
    if (no_values_) state_.clear_out();
    no_values_ = false;
    return state_;
  }
  const TokenSet& queries() const { return set_; }
  /// Key positions [low, high) outside which no query of the panel looks.
  Index low() const { return ranges_.low(); }
  Index high() const { return ranges_.high(); }

  /// Adds to `ahead` the rows of bias and boolean mask that the panel will read for these keys.
  void fetch_pairs(const TokenSet& keys, Ahead& ahead) const {
    pairs_->visit_rows(set_, keys, [&](const char* from, Index bytes, Index stride, Index n) {
      if (ahead.n < Ahead::capacity) ahead.rows[ahead.n++] = {from, stride, bytes, nullptr, n, false};
    });
  }

  /// Adds those of the tile's `keys` that some query sees, fetching meanwhile what is `ahead`.
  void add_keys(Tile& tile, const TokenSet& keys, const Ahead& ahead) {
    tile_ = &tile;
    keys_ = keys;
    ahead_ = &ahead;
    add_strips();
    ahead_ = nullptr;
  }

 private:
  static constexpr bool excludes = std::is_same_v<ScoreMod, LabelRule>;
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod> && !excludes;
  static constexpr Index max_strips = Tile::capacity / 2 + 1;

  void add_strips() {
    const TokenSet& keys = keys_;
    if (!has_functor && ranges_.all_see(keys)) {
      std::fill(shared_.top, shared_.top + width_, minus_infinity<T>);
      add_strip(0, keys.size, 0, vectors_, false);
      flush();
      return;
    }
    if (ranges_.none_sees(keys)) return;
    auto [low_least, low_most, high_least, high_most] = ranges_.cut(keys, shared_.low, shared_.high);
    if (low_least >= high_most) return;
    std::fill(shared_.top, shared_.top + width_, minus_infinity<T>);
    // Strips begin at whole granules: a granule with a key that some query does not see belongs to an edge.
    constexpr Index granule = Operands::granule;
    low_least -= low_least % granule;
    low_most += low_most % granule;
    if (high_least < keys.size) high_least -= high_least % granule;
    if (high_least - low_most >= tiles_.rows) {  // fewer keys are no register tile of their own
      add_strip(low_most, high_least - low_most, 0, vectors_, false);
      add_edge(low_least, low_most);
      add_edge(high_least, high_most);
    } else {
      add_edge(low_least, high_most);
    }
    flush();
  }

  // Keys near a bound: short strips, each for the query vectors that see some of its keys.
  void add_edge(Index from, Index to) {
    const Index step = tiles_.lanes;
    for (Index at = from; at < to; at += step) {
      const Index n = std::min(step, to - at);
      Index first = vectors_, last = -1;
      for (Index u = 0; u < vectors_; ++u) {
        if (ranges_.vector_sees(u, at, at + n)) {
          first = std::min(first, u);
          last = u;
        }
      }
      if (last >= 0) add_strip(at, n, first, last - first + 1, true);
    }
  }

  void add_strip(Index at, Index n, Index first, Index count, bool edge) {
    const TokenSet keys = keys_.part(at, n);
    T* s = shared_.s + at * width_;
    const PairCensus pairs = pairs_->census(set_, keys, width_, shared_.pairs);
    if (!pairs.some_kept) return;
    const bool adjusts = rule_->adjusts_all || pairs.some_masked;
    // The maximum counts only once the scores are final; until then it goes where nobody looks.
    const bool bounded = edge || has_functor;
    std::fill(shared_.base, shared_.base + width_, minus_infinity<T>);
    TilePart strip{at, n, first, count, edge || pairs.some_masked || has_functor || excludes};  // a functor may mask
    operands_.scores(*tile_, strip, width_, s, adjusts || bounded || excludes ? shared_.base : shared_.top, ahead_);
    ahead_ = nullptr;  // once
    if (adjusts && adjust(keys, pairs, first, count, s, bounded || excludes ? shared_.base : shared_.top))
      strip.partial = true;
    if constexpr (excludes) {
      for (Index j = 0; j < n; ++j) shared_.key_position[j] = static_cast<T>(mod_->label[keys[j]]);
      tiles_.exclude(n, width_, first, count, first_label_, end_label_, shared_.key_position, s,
                     bounded ? shared_.base : shared_.top);
    }
    if (bounded) {
      for (Index i = 0; i < width_; ++i) {  // bounds relative to the strip
        shared_.base[i] = shared_.low[i] - static_cast<T>(at);
        shared_.correction[i] = shared_.high[i] - static_cast<T>(at);
      }
      tiles_.bound(n, width_, first, count, shared_.base, shared_.correction, s, shared_.top);
    }
    strips_[static_cast<std::size_t>(n_strips_++)] = strip;
  }

  // Returns whether the bias masks some pair.
  bool adjust(const TokenSet& keys, const PairCensus& pairs, Index first, Index count, T* s, T* top) {
    for (Index j = 0; j < keys.size; ++j) shared_.key_position[j] = static_cast<T>(keys[j]);
    const bool some_masked = pairs_->adjust(*rule_, set_, keys, pairs, width_, first, count, ranges_.diagonal(),
                                            shared_.key_position, shared_.pairs, s, top);
    if constexpr (has_functor) {
      const Index end = std::min((first + count) * tiles_.lanes, set_.size);
      for (Index j = 0; j < keys.size; ++j) {
        for (Index i = first * tiles_.lanes; i < end; ++i) {
          T& score = s[j * width_ + i];
          if (!is_minus_infinity(score)) score = static_cast<T>((*mod_)(score, set_[i], keys[j]));
        }
      }
    }
    return some_masked;
  }

  // Scores to weights to values for the strips of the tile.
  void flush() {
    if (n_strips_ == 0) return;
    const Index d_v = call_->v.cols;
    tiles_.advance(width_, rule_->softmax_factor, shared_.top, state_.m, state_.l, shared_.base, shared_.correction);
    const T* correction = shared_.correction;  // applied by the first product over all vectors
    if (no_values_) {                          // which then only writes
      no_values_ = false;
      correction = nullptr;
      const TilePart& first = strips_[0];
      if (first.count < vectors_ || first.partial) {
        state_.clear_out();
        correction = shared_.ones;
      }
    }
    const auto correct_now = [&](T* s) {
      if (correction != shared_.ones) tiles_.values(s, 0, 0, 0, s, d_v, width_, 0, vectors_, correction, state_.out);
      correction = shared_.ones;
    };
    std::fill(shared_.ones, shared_.ones + width_, T(1));
    for (Index t = 0; t < n_strips_; ++t) {
      const TilePart& strip = strips_[static_cast<std::size_t>(t)];
      T* w = shared_.s + strip.at * width_;
      if (strip.count < vectors_) correct_now(w);
      operands_.weigh(strip, width_, rule_->softmax_factor, shared_.base, w, state_.l);
      if (strip.partial && !tile_->finite(strip.at, strip.n_keys)) {
        operands_.finite_values(*tile_, strip, width_, w, correction, state_.out);
        add_spoiled(strip, w);
      } else {
        operands_.values(*tile_, strip, width_, w, correction, state_.out);
      }
      correction = shared_.ones;
    }
    n_strips_ = 0;
  }

  // Value rows of a strip with masked pairs may hold NaN or Inf: 0 has stood in for them, so that every other number keeps its bits;
  // now they reach the queries that give their key a weight.
  void add_spoiled(const TilePart& strip, const T* w) {
    for (Index j = strip.at; j < strip.at + strip.n_keys; ++j) {
      for (Index c = 0; c < call_->v.cols; ++c) {
        const T value = tile_->value(j, c);
        if (is_finite(value)) continue;
        for (Index i = strip.first * tiles_.lanes; i < (strip.first + strip.count) * tiles_.lanes; ++i) {
          const T weight = Operands::weight(w, width_, j - strip.at, i);
          if (!is_zero(weight)) state_.out[c * width_ + i] += weight * value;
        }
      }
    }
  }

  const TileKernels<T>& tiles_;
  Isa isa_;
  PanelScratch<T> shared_;
  Operands operands_;
  QueryRanges<T> ranges_;
  T *first_label_, *end_label_;

  const Call* call_ = nullptr;
  const ScoreMod* mod_ = nullptr;
  std::optional<ScoreRule<T>> rule_;
  std::optional<PairTile<T>> pairs_;
  SoftmaxState<T> state_;
  Tile* tile_ = nullptr;
  const Ahead* ahead_ = nullptr;
  TokenSet set_, keys_;
  bool no_values_ = true;  // state_.out is not yet written
  Index vectors_ = 0, width_ = 0, n_strips_ = 0;
  std::array<TilePart, static_cast<std::size_t>(max_strips)> strips_;
};

}  // namespace heed::detail
