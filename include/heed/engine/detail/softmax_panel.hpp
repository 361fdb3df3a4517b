#pragma once
#include <algorithm>
#include <cstdint>
#include <span>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/score_tile.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// What the softmax panels of one thread share.
template <class T>
struct SoftmaxRoom {
  SoftmaxRoom(Scratch& scratch, Index keys, Index vectors, Index lanes) : scores(scratch, keys, vectors, lanes) {
    for (T** row : {&base, &correction, &ones}) *row = scratch.take<T>(vectors * lanes);
    kept = scratch.take<std::uint32_t>(keys * vectors);
  }
  ScoreRoom<T> scores;
  T *base, *correction, *ones;  // width
  std::uint32_t* kept;          // keys x vectors: a bit for each lane; of keys whose value rows are not finite
};

/// Streams tiles of keys past one panel of queries of one head, keeping the running softmax: scores (ScoreTile), then
/// a new maximum, weights, values.
template <class Operands, class Call, class ScoreMod>
class SoftmaxPanel {
 public:
  using T = typename Operands::Sum;
  using Tile = typename Operands::Tile;

  SoftmaxPanel(Scratch& scratch, const SoftmaxRoom<T>& room, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        room_(room),
        scores_(scratch, room.scores, d, isa),
        state_(scratch, tiles_.lanes * tiles_.vectors, d_v) {}

  /// Starts on `queries` of `call` with no keys seen.
  void begin(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
             const PairRule& rule, const ScoreMod& mod) {
    scores_.begin(call, queries, bounds, options, rule, mod);
    state_.width = scores_.width();
    state_.factor = scores_.softmax_factor();
    state_.clear_weights();
    no_values_ = true;
  }

  /// What the queries have seen so far.
  const SoftmaxState<T>& state() {
    if (no_values_) state_.clear_out();
    no_values_ = false;
    return state_;
  }
  const TokenSet& queries() const { return scores_.queries(); }
  /// Key positions [low, high) outside which no query of the panel looks.
  Index low() const { return scores_.low(); }
  Index high() const { return scores_.high(); }
  void fetch_pairs(const TokenSet& keys, Ahead& ahead) const { scores_.fetch_pairs(keys, ahead); }

  /// Adds those of the tile's `keys` that some query sees, fetching meanwhile what is `ahead`.
  void add_keys(Tile& tile, const TokenSet& keys, const Ahead& ahead) {
    const std::span<const TilePart> parts = scores_.score(tile, keys, &ahead);
    if (parts.empty()) return;
    const Index d_v = scores_.call().v.cols, width = scores_.width(), vectors = scores_.vectors();
    const T factor = scores_.softmax_factor();
    tiles_.advance(width, factor, room_.scores.top, state_.m, state_.l, room_.base, room_.correction);
    const T* correction = room_.correction;  // applied by the first product over all vectors
    if (no_values_) {                        // which then only writes
      no_values_ = false;
      correction = nullptr;
      if (parts.front().count < vectors || parts.front().partial) {
        state_.clear_out();
        correction = room_.ones;
      }
    }
    std::fill(room_.ones, room_.ones + width, T(1));
    for (const TilePart& part : parts) {
      T* w = room_.scores.s + part.at * width;
      if (part.count < vectors && correction != room_.ones) {
        tiles_.values(w, 0, 0, 0, w, d_v, width, 0, vectors, correction, state_.out);
        correction = room_.ones;
      }
      const bool spoiled = (part.partial || Operands::rounds_tiles) && !tile.finite(part.at, part.n_keys);
      if (spoiled) note_kept(tile, part, w);
      scores_.operands().weigh(tile, part, width, factor, room_.base, w, state_.l);
      if (spoiled) {
        scores_.operands().finite_values(tile, part, width, w, correction, state_.out);
        add_spoiled(tile, part, w);
      } else {
        scores_.operands().values(tile, part, width, w, correction, state_.out);
      }
      correction = room_.ones;
    }
  }

 private:
  bool row_is_finite(const Tile& tile, Index j) const {
    for (Index c = 0; c < scores_.call().v.cols; ++c) {
      if (!is_finite(tile.value(j, c))) return false;
    }
    return true;
  }

  // Before scores become weights: which queries keep each key whose value row is not finite. A weight of 0 does not
  // tell, it may be one that underflowed.
  void note_kept(const Tile& tile, const TilePart& part, const T* s) {
    const Index width = scores_.width(), vectors = scores_.vectors();
    for (Index j = 0; j < part.n_keys; ++j) {
      if (row_is_finite(tile, part.at + j)) continue;
      for (Index u = 0; u < vectors; ++u) {
        std::uint32_t& bits = room_.kept[(part.at + j) * vectors + u];
        bits = 0;
        for (Index lane = 0; lane < tiles_.lanes; ++lane)
          bits |= is_minus_infinity(s[j * width + u * tiles_.lanes + lane]) ? 0u : 1u << lane;
      }
    }
  }

  // Value rows of a part with masked pairs may hold NaN or Inf: 0 has stood in for them, so that every other number
  // keeps its bits; now they reach the queries that keep their key, whatever it weighs.
  void add_spoiled(const Tile& tile, const TilePart& part, const T* w) {
    const Index width = scores_.width(), vectors = scores_.vectors();
    for (Index j = part.at; j < part.at + part.n_keys; ++j) {
      if (row_is_finite(tile, j)) continue;
      for (Index c = 0; c < scores_.call().v.cols; ++c) {
        const T value = tile.value(j, c);
        if (is_finite(value)) continue;
        for (Index i = part.first * tiles_.lanes; i < (part.first + part.count) * tiles_.lanes; ++i) {
          const bool kept = (room_.kept[j * vectors + i / tiles_.lanes] >> (i % tiles_.lanes) & 1u) != 0;
          if (kept) state_.out[c * width + i] += Operands::weight(w, width, j - part.at, i) * value;
        }
      }
    }
  }

  const TileKernels<T>& tiles_;
  SoftmaxRoom<T> room_;
  ScoreTile<Operands, Call, ScoreMod> scores_;
  SoftmaxState<T> state_;
  bool no_values_ = true;  // state_.out is not yet written
};

}  // namespace heed::detail
