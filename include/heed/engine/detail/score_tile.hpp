#pragma once
#include <algorithm>
#include <optional>
#include <span>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/pair_tile.hpp"
#include "heed/engine/detail/query_ranges.hpp"
#include "heed/engine/detail/score_rule.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// What the score tiles of one thread share: it lives only while one panel of queries looks at one tile of keys.
template <class T>
struct ScoreRoom {
  /// `keys`: of the largest tile.
  ScoreRoom(Scratch& scratch, Index keys, Index vectors, Index lanes) : pairs(scratch, keys, vectors, lanes) {
    const Index width = vectors * lanes;
    s = scratch.take<T>(keys * width);
    for (T** row : {&top, &ignored, &low, &high, &part_low, &part_high}) *row = scratch.take<T>(width);
    key_position = scratch.take<T>(keys);
    parts = scratch.take<TilePart>(keys / 2 + 1);
  }
  PairRoom<T> pairs;
  T* s;                     // keys x width: scores, where parts say
  T* top;                   // width: the largest score of each query
  T* ignored;               // width: maxima that nobody looks at
  T *low, *high;            // width: keys of the tile [low, high) that each query sees
  T *part_low, *part_high;  // width: the same for one part
  T* key_position;          // keys
  TilePart* parts;
  // Where backward passes want them, keys x width like the scores: what a softcap and what a functor was given. Null:
  // not kept.
  T *raw = nullptr, *before = nullptr;
};

/// A panel of queries of one head (up to lanes * vectors of them) against tiles of keys: final scores, in units that
/// `softmax_factor` brings to base-2 exponents; every pair that is not kept is -inf. Scale, softcap, bias, ALiBi,
/// functor and masks are applied here and nowhere else.
///
/// The keys of a tile go in *parts*. Keys every query of the panel sees form one wide part; keys at the edge of a
/// causal or windowed range form parts one vector of keys long that only touch the query vectors which see some of
/// them, so that a diagonal costs little more than its kept half.
/// `Operands` are how products read queries and keys (WidenedOperands, Bf16Operands, Int8PanelOperands); all else is in
/// their Sum.
template <class Operands, class Call, class ScoreMod>
class ScoreTile {
 public:
  using T = typename Operands::Sum;
  using Tile = typename Operands::Tile;

  ScoreTile(Scratch& scratch, const ScoreRoom<T>& room, Index d, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        isa_(isa),
        room_(room),
        operands_(scratch, tiles_.lanes * tiles_.vectors, d, isa),
        ranges_(scratch, tiles_.vectors, tiles_.lanes) {
    for (T** row : {&first_label_, &end_label_}) *row = scratch.take<T>(tiles_.lanes * tiles_.vectors);
  }

  /// Starts on `queries` of `call`.
  void begin(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
             const PairRule& rule, const ScoreMod& mod) {
    call_ = &call;
    mod_ = &mod;
    rule_ = &rule;
    set_ = queries;
    by_pair_ = has_functor || rule.keeps.given();
    vectors_ = (queries.size + tiles_.lanes - 1) / tiles_.lanes;
    width_ = vectors_ * tiles_.lanes;
    scores_.emplace(options, call.k.cols, call.head, by_pair_);
    pairs_.emplace(options.mask, call.q.rows, call.head, isa_);
    operands_.pack(call.q, queries, width_, scores_->query_factor);
    loaded_ = nullptr;
    if (rule.label != nullptr) load_labels(rule);
    ranges_.begin(queries, vectors_, bounds, scores_->slope != 0);
  }

  const Call& call() const { return *call_; }
  const TokenSet& queries() const { return set_; }
  Index width() const { return width_; }      ///< entries of a row of scores: queries in whole vectors
  Index vectors() const { return vectors_; }  ///< of queries
  T softmax_factor() const { return scores_->softmax_factor; }
  const ScoreRule<T>& rule() const { return *scores_; }
  const Operands& operands() const { return operands_; }
  /// Key positions [low, high) outside which no query of the panel looks.
  Index low() const { return ranges_.low(); }
  Index high() const { return ranges_.high(); }

  /// Adds to `ahead` the rows of bias and boolean mask that the panel will read for these keys.
  void fetch_pairs(const TokenSet& keys, Ahead& ahead) const {
    pairs_->visit_rows(set_, keys, [&](const char* from, Index bytes, Index stride, Index n) {
      if (ahead.n < Ahead::capacity) ahead.rows[ahead.n++] = {from, stride, bytes, nullptr, n, false};
    });
  }

  /// Scores those of the tile's `keys` that some query sees, fetching meanwhile what is `ahead` (null: nothing). The
  /// scores of the parts it returns are in the room, with the largest of each query.
  std::span<const TilePart> score(const Tile& tile, const TokenSet& keys, const Ahead* ahead) {
    tile_ = &tile;
    keys_ = keys;
    ahead_ = ahead;
    n_parts_ = 0;
    add_parts();
    return {room_.parts, static_cast<std::size_t>(n_parts_)};
  }

 private:
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod>;

  void add_parts() {
    if (!by_pair_ && ranges_.all_see(keys_)) {
      std::fill(room_.top, room_.top + width_, minus_infinity<T>);
      add_part(0, keys_.size, 0, vectors_, false);
      return;
    }
    if (ranges_.none_sees(keys_)) return;
    auto [low_least, low_most, high_least, high_most] = ranges_.cut(keys_, room_.low, room_.high);
    if (low_least >= high_most) return;
    std::fill(room_.top, room_.top + width_, minus_infinity<T>);
    // Parts begin at whole granules: a granule with a key that some query does not see belongs to an edge.
    constexpr Index granule = Operands::granule;
    low_least -= low_least % granule;
    low_most += (granule - low_most % granule) % granule;
    if (high_least < keys_.size) high_least -= high_least % granule;
    if (high_least - low_most >= tiles_.rows) {  // fewer keys are no register tile of their own
      add_part(low_most, high_least - low_most, 0, vectors_, false);
      add_edge(low_least, low_most);
      add_edge(high_least, high_most);
    } else {
      add_edge(low_least, high_most);
    }
  }

  // Keys near a bound: short parts, each for the query vectors that see some of its keys.
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
      if (last >= 0) add_part(at, n, first, last - first + 1, true);
    }
  }

  void add_part(Index at, Index n, Index first, Index count, bool edge) {
    const TokenSet keys = keys_.part(at, n);
    T* s = room_.s + at * width_;
    const PairCensus pairs = pairs_->census(set_, keys, width_, room_.pairs);
    if (!pairs.some_kept) return;
    const bool labels = rule_->has_labels() && !by_pair_;  // else they are asked pair by pair
    const bool adjusts = scores_->adjusts_all || pairs.some_masked, bounded = edge || by_pair_;
    // The maximum counts only once the scores are final; until then it goes where nobody looks.
    T* const before_bounds = bounded || labels ? room_.ignored : room_.top;
    std::fill(room_.ignored, room_.ignored + width_, minus_infinity<T>);
    TilePart part{at, n, first, count, edge || pairs.some_masked || !rule_->every_pair() || by_pair_};
    operands_.scores(*tile_, part, width_, s, adjusts ? room_.ignored : before_bounds, ahead_);
    ahead_ = nullptr;  // once
    if (room_.raw != nullptr) std::copy_n(s, n * width_, room_.raw + at * width_);
    if (adjusts) {
      for (Index j = 0; j < n; ++j) room_.key_position[j] = static_cast<T>(keys[j]);
      if (pairs_->adjust(*scores_, set_, keys, pairs, width_, first, count, ranges_.diagonal(), room_.key_position,
                         room_.pairs, s, before_bounds))
        part.partial = true;
    }
    if (room_.before != nullptr) std::copy_n(s, n * width_, room_.before + at * width_);
    if (by_pair_) visit_pairs(keys, part, s);
    if (labels) exclude_labels(keys, part, s, bounded ? room_.ignored : room_.top);
    if (bounded) {
      for (Index i = 0; i < width_; ++i) {
        room_.part_low[i] = room_.low[i] - static_cast<T>(at);
        room_.part_high[i] = room_.high[i] - static_cast<T>(at);
      }
      tiles_.bound(n, width_, first, count, room_.part_low, room_.part_high, s, room_.top);
    }
    room_.parts[n_parts_++] = part;
  }

  void load_labels(const PairRule& rule) {
    for (Index i = 0; i < width_; ++i) {
      const Index query = set_[std::min(i, set_.size - 1)];
      first_label_[i] = static_cast<T>(rule.first[query]);
      end_label_[i] = static_cast<T>(rule.end[query]);
    }
    loaded_ = &rule;
  }

  // Leaves out what the rule's labels say; the largest of what is left counts when the last rule has spoken.
  void exclude_labels(const TokenSet& keys, const TilePart& part, T* s, T* top) {
    for (const PairRule* rule = rule_; rule != nullptr; rule = rule->also) {
      if (rule->label == nullptr) continue;
      if (rule != loaded_) load_labels(*rule);
      for (Index j = 0; j < keys.size; ++j) room_.key_position[j] = static_cast<T>(rule->label[keys[j]]);
      tiles_.exclude(keys.size, width_, part.first, part.count, first_label_, end_label_, room_.key_position, s,
                     rule->also == nullptr ? top : room_.ignored);
    }
  }

  // The rule and the functor, kept pairs only.
  void visit_pairs(const TokenSet& keys, const TilePart& part, T* s) const {
    const Index end = std::min((part.first + part.count) * tiles_.lanes, set_.size);
    for (Index j = 0; j < keys.size; ++j) {
      const T place = static_cast<T>(part.at + j);
      for (Index i = part.first * tiles_.lanes; i < end; ++i) {
        if (place < room_.low[i] || place >= room_.high[i]) continue;
        T& score = s[j * width_ + i];
        if (is_minus_infinity(score) && !pairs_->keeps(set_[i], keys[j])) continue;
        if (!(*rule_)(set_[i], keys[j])) {
          score = minus_infinity<T>;
        } else if constexpr (has_functor) {
          score = static_cast<T>((*mod_)(score, set_[i], keys[j]));
        }
      }
    }
  }

  const TileKernels<T>& tiles_;
  Isa isa_;
  ScoreRoom<T> room_;
  Operands operands_;
  QueryRanges<T> ranges_;
  T *first_label_, *end_label_;
  const PairRule* loaded_ = nullptr;  // whose labels these are

  const Call* call_ = nullptr;
  const ScoreMod* mod_ = nullptr;
  const PairRule* rule_ = nullptr;
  std::optional<ScoreRule<T>> scores_;
  std::optional<PairTile<T>> pairs_;
  const Tile* tile_ = nullptr;
  const Ahead* ahead_ = nullptr;
  TokenSet set_, keys_;
  bool by_pair_ = false;  // a rule or functor is asked for every kept pair
  Index vectors_ = 0, width_ = 0, n_parts_ = 0;
};

}  // namespace heed::detail
