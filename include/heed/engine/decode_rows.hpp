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
#include "heed/engine/head_call.hpp"
#include "heed/engine/pair_tile.hpp"
#include "heed/engine/score_rule.hpp"
#include "heed/engine/softmax_state.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Streams keys past one query of each of several heads that share keys and values (decoding). Vector lanes run along
/// features, and a key or value row is read from memory once for up to four heads. Each head's arithmetic is the same alone
/// and in company.
template <class T, class Call, class ScoreMod>
class DecodeRows {
 public:
  static constexpr Index tile_keys = 1024;
  static constexpr Index max_heads = 4;

  DecodeRows(Scratch& frame, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        keys_(storage_kernels<T, KernelScalar<typename Call::Key>>(isa)),
        isa_(isa),
        d_padded_(padded(d)),
        v_padded_(padded(d_v)),
        pair_room_(frame, tile_keys, 1, tiles_.lanes) {
    q_ = frame.take<T>(static_cast<std::size_t>(max_heads * d_padded_));
    s_ = frame.take<T>(static_cast<std::size_t>(max_heads * tile_keys));
    out_ = frame.take<T>(static_cast<std::size_t>(max_heads * v_padded_));
    k_tile_ = frame.take<T>(static_cast<std::size_t>(tile_keys * d));
    v_tile_ = frame.take<T>(static_cast<std::size_t>(tile_keys * d_v));
    scratch_ = frame.take<T>(static_cast<std::size_t>(tile_keys * tiles_.lanes));
  }

  /// Adds keys [from, to) of query 0 of each of `calls` to `states` (width 1). The calls share k and v.
  void run(std::span<const Call> calls, Index from, Index to, const KeyBounds& bounds, const AttentionOptions& options,
           const ScoreMod& mod, std::span<SoftmaxState<T>> states) {
    const Call& shared = calls.front();
    const KeyRange range = bounds.of(0);
    const Index d = shared.k.cols, d_v = shared.v.cols, n_heads = static_cast<Index>(calls.size());
    std::fill(q_, q_ + n_heads * d_padded_, T(0));
    std::fill(out_, out_ + n_heads * v_padded_, T(0));
    for (Index h = 0; h < n_heads; ++h) {
      const Call& call = calls[static_cast<std::size_t>(h)];
      const ScoreRule<T> rule(options, d, call.head, has_functor);
      for (Index c = 0; c < d; ++c) q_[h * d_padded_ + c] = static_cast<T>(call.q(0, c)) * rule.query_factor;
      states[static_cast<std::size_t>(h)].clear();
      states[static_cast<std::size_t>(h)].factor = rule.softmax_factor;
    }
    to = std::min(to, range.high);
    for (Index at = std::max(from, range.low); at < to; at += tile_keys) {
      const Index n = std::min(tile_keys, to - at);
      scores(shared.k, at, n, n_heads);
      T correction[max_heads];
      for (Index h = 0; h < n_heads; ++h) {
        const Call& call = calls[static_cast<std::size_t>(h)];
        const ScoreRule<T> rule(options, d, call.head, has_functor);
        SoftmaxState<T>& state = states[static_cast<std::size_t>(h)];
        T* s = s_ + h * tile_keys;
        if (rule.adjusts_all || options.mask.allowed.given()) adjust(call, rule, options, range, mod, at, n, s);
        correction[h] = advance(n, s, state);
      }
      values(shared.v, at, n, n_heads, correction, options.mask.allowed.given() || options.mask.bias.given());
    }
    for (Index h = 0; h < n_heads; ++h) std::copy_n(out_ + h * v_padded_, d_v, states[static_cast<std::size_t>(h)].out);
  }

 private:
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod>;

  Index padded(Index n) const { return (n + tiles_.lanes - 1) / tiles_.lanes * tiles_.lanes; }

  void scores(const ConstView<typename Call::Key>& k, Index at, Index n, Index n_heads) {
    const auto* data = kernel_pointer(k.data) + at * k.row_stride;
    if (k.col_stride == 1) {
      keys_.row_scores(data, k.row_stride, n, q_, d_padded_, n_heads, k.cols, s_, tile_keys);
    } else {
      keys_.gather(data, k.row_stride, k.col_stride, nullptr, n, k.cols, k_tile_, k.cols);
      storage_kernels<T, T>(isa_).row_scores(k_tile_, k.cols, n, q_, d_padded_, n_heads, k.cols, s_, tile_keys);
    }
  }

  // The row as a panel of one vector whose first lane is the query.
  void adjust(const Call& call, const ScoreRule<T>& rule, const AttentionOptions& options, const KeyRange& range,
              const ScoreMod& mod, Index at, Index n, T* s) {
    const PairTile<T> pairs(options.mask, call.q.rows, call.head, isa_);
    const Index lanes = tiles_.lanes;
    const PairCensus census = pairs.census({0, 1}, {at, n}, lanes, pair_room_);
    if (!census.some_kept) {
      std::fill(s, s + n, minus_infinity<T>);
      return;
    }
    T query_position[max_lanes] = {}, key_position[tile_keys];
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
      if constexpr (has_functor) {
        if (!is_minus_infinity(s[j])) s[j] = static_cast<T>(mod(s[j], Index(0), at + j));
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

  // With masks present, keys that weigh 0 for every head are skipped rather than multiplied: NaN in a masked row goes nowhere.
  void values(const ConstView<typename Call::Key>& v, Index at, Index n, Index n_heads, const T* correction,
              bool masked) {
    if (v.col_stride != 1) {
      keys_.gather(kernel_pointer(v.data) + at * v.row_stride, v.row_stride, v.col_stride, nullptr, n, v.cols, v_tile_,
                   v.cols);
    }
    T factor[max_heads];
    std::copy_n(correction, n_heads, factor);
    for (Index j = 0, end = 0;; j = end) {
      while (masked && j < n && unused(j, n_heads)) ++j;
      end = masked ? j : n;
      while (masked && end < n && !unused(end, n_heads)) ++end;
      if (v.col_stride == 1) {
        keys_.row_values(kernel_pointer(v.data) + (at + j) * v.row_stride, v.row_stride, end - j, s_ + j, tile_keys,
                         n_heads, v.cols, factor, out_, v_padded_);
      } else {
        storage_kernels<T, T>(isa_).row_values(v_tile_ + j * v.cols, v.cols, end - j, s_ + j, tile_keys, n_heads,
                                               v.cols, factor, out_, v_padded_);
      }
      std::fill_n(factor, n_heads, T(1));
      if (end >= n) break;
    }
  }

  bool unused(Index j, Index n_heads) const {
    for (Index h = 0; h < n_heads; ++h) {
      if (!(s_[h * tile_keys + j] == 0)) return false;
    }
    return true;
  }

  static constexpr Index max_lanes = 16;
  const TileKernels<T>& tiles_;
  const StorageKernels<T, KernelScalar<typename Call::Key>>& keys_;
  Isa isa_;
  Index d_padded_, v_padded_;
  PairRoom<T> pair_room_;
  T *q_, *s_, *out_, *k_tile_, *v_tile_, *scratch_;
};

}  // namespace heed::detail
