#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/int8_row_operands.hpp"
#include "heed/engine/detail/pair_tile.hpp"
#include "heed/engine/detail/row_operands.hpp"
#include "heed/engine/detail/score_rule.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Streams keys past one query of each of several heads that share keys and values (decoding). Vector lanes run along
/// features, and a key or value row is read from memory once for up to four heads. Each head's arithmetic is the same
/// alone and in company.
template <class T, class Call, class ScoreMod>
class DecodeRows {
 public:
  static constexpr Index max_heads = 4;
  using Operands = RowOperands<T, typename Call::Key>;

  /// `n_keys`: of the longest run to come.
  DecodeRows(Scratch& frame, Index n_keys, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        isa_(isa),
        tile_keys_(std::min(largest_tile, padded(n_keys))),
        d_padded_(padded(d)),
        v_padded_(padded(d_v)),
        operands_(frame, tile_keys_, max_heads, d, d_v, isa),
        pair_room_(frame, tile_keys_, 1, tiles_.lanes) {
    q_ = frame.take<T>(max_heads * d_padded_);
    s_ = frame.take<T>(max_heads * tile_keys_);
    out_ = frame.take<T>(max_heads * v_padded_);
    scratch_ = frame.take<T>(tile_keys_ * tiles_.lanes);
    kept_ = frame.take<unsigned char>(tile_keys_);
  }

  /// Adds keys [from, to) of query 0 of each of `calls` to `states` (width 1). The calls share k and v.
  void run(std::span<const Call> calls, Index from, Index to, const KeyBounds& bounds, const AttentionOptions& options,
           const PairRule& pair_rule, const ScoreMod& mod, std::span<SoftmaxState<T>> states) {
    const Call& shared = calls.front();
    const KeyRange range = bounds.of(0);
    const bool by_pair = has_functor || !pair_rule.every_pair();
    const bool masked = !Operands::all_finite && (by_pair || options.mask.allowed.given() || options.mask.bias.given());
    const Index d = shared.k.cols, d_v = shared.v.cols, n_heads = static_cast<Index>(calls.size());
    T score_scale = 1;
    std::fill(q_, q_ + n_heads * d_padded_, T(0));
    std::fill(out_, out_ + n_heads * v_padded_, T(0));
    for (Index h = 0; h < n_heads; ++h) {
      const Call& call = calls[static_cast<std::size_t>(h)];
      const ScoreRule<T> rule(options, d, call.head, by_pair);
      score_scale = rule.scale * rule.softmax_factor / static_cast<T>(ScoreRule<T>::log2_e);
      for (Index c = 0; c < d; ++c) q_[h * d_padded_ + c] = static_cast<T>(call.q(0, c)) * rule.query_factor;
      states[static_cast<std::size_t>(h)].clear();
      states[static_cast<std::size_t>(h)].factor = rule.softmax_factor;
    }
    operands_.begin(shared.k, q_, d_padded_, n_heads, score_scale);
    to = std::min(to, range.high);
    for (Index at = std::max(from, range.low), n = 0; at < to; at += n) {
      n = std::min(Operands::tile_end(at, tile_keys_), to) - at;
      operands_.scores(shared.k, at, n, q_, d_padded_, n_heads, s_, tile_keys_);
      T correction[max_heads];
      std::fill_n(kept_, masked ? n : 0, static_cast<unsigned char>(0));
      for (Index h = 0; h < n_heads; ++h) {
        const Call& call = calls[static_cast<std::size_t>(h)];
        const ScoreRule<T> rule(options, d, call.head, by_pair);
        SoftmaxState<T>& state = states[static_cast<std::size_t>(h)];
        T* s = s_ + h * tile_keys_;
        if (rule.adjusts_all || options.mask.allowed.given())
          adjust(call, rule, options, range, pair_rule, mod, at, n, s);
        for (Index j = 0; masked && j < n; ++j) {
          if (!is_minus_infinity(s[j])) kept_[j] = static_cast<unsigned char>(kept_[j] | 1u << h);
        }
        correction[h] = advance(n, s, state);
      }
      values(shared.v, at, n, n_heads, correction, masked);
    }
    for (Index h = 0; h < n_heads; ++h) std::copy_n(out_ + h * v_padded_, d_v, states[static_cast<std::size_t>(h)].out);
  }

 private:
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod>;

  Index padded(Index n) const { return (n + tiles_.lanes - 1) / tiles_.lanes * tiles_.lanes; }

  // The row as a panel of one vector whose first lane is the query.
  void adjust(const Call& call, const ScoreRule<T>& rule, const AttentionOptions& options, const KeyRange& range,
              const PairRule& pair_rule, const ScoreMod& mod, Index at, Index n, T* s) {
    const PairTile<T> pairs(options.mask, call.q.rows, call.head, isa_);
    const Index lanes = tiles_.lanes;
    const PairCensus census = pairs.census({0, 1}, {at, n}, lanes, pair_room_);
    if (!census.some_kept) {
      std::fill(s, s + n, minus_infinity<T>);
      return;
    }
    T query_position[max_lanes] = {}, key_position[largest_tile];
    query_position[0] = static_cast<T>(range.diagonal);
    for (Index j = 0; j < n; ++j) {
      key_position[j] = static_cast<T>(at + j);
      for (Index i = 0; i < lanes; ++i) scratch_[j * lanes + i] = i == 0 ? s[j] : T(0);
    }
    T ignored[max_lanes] = {};
    pairs.adjust(rule, {0, 1}, {at, n}, census, lanes, 0, 1, query_position, key_position, pair_room_, scratch_,
                 ignored);
    for (Index j = 0; j < n; ++j) {
      s[j] = scratch_[j * lanes];
      if (is_minus_infinity(s[j]) && !pairs.keeps(0, at + j)) continue;
      if (!pair_rule(0, at + j)) {
        s[j] = minus_infinity<T>;
      } else if constexpr (has_functor) {
        s[j] = static_cast<T>(mod(s[j], Index(0), at + j));
      }
    }
  }

  // Scores to weights; returns what the sums so far are multiplied by.
  T advance(Index n, T* s, SoftmaxState<T>& state) {
    const T before = state.m[0], now = tiles_.row_top(n, s, before);
    const T base = is_minus_infinity(now) ? T(0) : now;
    const T correction = state.weight(before, base);
    state.m[0] = now;
    state.l[0] = state.l[0] * correction + tiles_.row_weigh(n, state.factor, base, s);
    return correction;
  }

  // With masks present, keys that no head keeps are skipped rather than multiplied: NaN in a masked row goes nowhere.
  // What some heads keep and others do not, each multiplies by itself.
  void values(const ConstView<typename Call::Key>& v, Index at, Index n, Index n_heads, const T* correction,
              bool masked) {
    operands_.load_values(v, at, n);
    T factor[max_heads];  // of what is there: applied once
    std::copy_n(correction, n_heads, factor);
    const auto correct_now = [&] {
      if (factor[0] != 1 || !std::equal(factor, factor + n_heads - 1, factor + 1))
        add_values(v, at, 0, 0, 0, n_heads, factor);
      std::fill_n(factor, n_heads, T(1));
    };
    const unsigned all = (1u << n_heads) - 1u;
    for (Index j = 0, end = 0; j < n; j = end) {
      const unsigned heads = masked ? kept_[j] : all;
      end = masked ? j : n;
      while (end < n && kept_[end] == heads) ++end;
      if (heads == all) {
        add_values(v, at, j, end, 0, n_heads, factor);
        std::fill_n(factor, n_heads, T(1));
        continue;
      }
      if (heads != 0) correct_now();
      for (Index h = 0; h < n_heads; ++h) {
        if ((heads >> h & 1u) != 0) add_values(v, at, j, end, h, 1, factor);
      }
    }
    correct_now();
  }

  // out of heads [h, h + n_heads) = factor * out + the weights of keys [from, end) of the tile times their values.
  void add_values(const ConstView<typename Call::Key>& v, Index at, Index from, Index end, Index h, Index n_heads,
                  const T* factor) {
    operands_.add_values(v, at, from, end - from, s_ + h * tile_keys_ + from, tile_keys_, n_heads, factor,
                         out_ + h * v_padded_, v_padded_);
  }

  static constexpr Index largest_tile = 1024;
  static constexpr Index max_lanes = 16;
  const TileKernels<T>& tiles_;
  Isa isa_;
  Index tile_keys_, d_padded_, v_padded_;
  Operands operands_;
  PairRoom<T> pair_room_;
  T *q_, *s_, *out_, *scratch_;
  unsigned char* kept_;  // of each key of the tile: a bit for each head that keeps it
};

}  // namespace heed::detail
