#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/key_tile.hpp"
#include "heed/engine/detail/score_tile.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Which sums are wanted, and how they are weighted.
struct MembershipWants {
  bool bounded = true;
  bool queries = true, keys = true;
};

/// What the membership panels of one thread share.
template <class T>
struct MembershipRoom {
  MembershipRoom(Scratch& scratch, Index keys, Index vectors, Index lanes) : scores(scratch, keys, vectors, lanes) {
    const Index width = vectors * lanes;
    for (T** tile : {&d, &w_shifted, &d_shifted}) *tile = scratch.take<T>(keys * width);
    columns = scratch.take<T>(keys * lanes);
    for (T** row : {&shifted, &correction}) *row = scratch.take<T>(width);
  }
  ScoreRoom<T> scores;
  T* d;                      // keys x width: gradients of weights, then terms
  T *w_shifted, *d_shifted;  // keys x width: the same from a larger base
  T* columns;                // keys x lanes: sums of each key
  T *shifted, *correction;   // width
};

/// One panel of queries of one head against tiles of keys that may join what they see, a consumer of score tiles. With
/// e_ij = e^(score), Z_i = e^(lse_i), mean_i as the call has it and t_ij = (e_ij / Z_i) (d_out_i . v_j - mean_i):
///   of query i:  sum_j t_ij, or bounded sum_j t_ij / (1 + sum_j e_ij / Z_i);
///   of key j:    sum_i t_ij, or bounded sum_i t_ij / (1 + e_ij / Z_i).
/// Weights beyond 2^limit of a query's Z stand as 2^limit in unbounded sums; bounded ones are exact whatever the
/// scores: those of queries are kept as a running softmax which begins with Z_i.
template <class Operands, class Call>
class MembershipPanel {
 public:
  using T = typename Operands::Sum;
  using Rows = KeyTile<T, typename Call::Key>;

  MembershipPanel(Scratch& scratch, const MembershipRoom<T>& room, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        gradients_(gradient_kernels<T>(isa)),
        stored_(storage_kernels<T, KernelScalar<typename Call::Query>>(isa)),
        room_(room),
        scores_(scratch, room.scores, d, isa) {
    const Index width = tiles_.lanes * tiles_.vectors;
    d_out_ = scratch.take<T>(width * d_v);
    for (T** row : {&base_, &shift_, &mean_, &m_, &l_, &sum_}) *row = scratch.take<T>(width);
  }

  /// Starts on `queries` of `call`, whose log-sum-exp is known.
  void begin(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
             const PairRule& rule, const MembershipWants& wants) {
    scores_.begin(call, queries, bounds, options, rule, none_);
    wants_ = wants;
    const Index width = scores_.width(), n = queries.size, first = queries.list == nullptr ? queries.first : 0;
    const auto* d_out = kernel_pointer(call.d_out.data) + first * call.d_out.row_stride;
    stored_.transpose(d_out, call.d_out.row_stride, call.d_out.col_stride, queries.list, n, nullptr, call.v.cols,
                      d_out_, width, T(1), true);
    const T factor = scores_.softmax_factor();
    for (Index i = 0; i < width; ++i) {
      const WeightBase<T> base = i < n ? weight_base(call, queries[i], factor) : weightless<T>;
      base_[i] = base.base;
      shift_[i] = base.shift;
      mean_[i] = i < n ? call.mean[queries[i]] : T(0);
      m_[i] = base_[i];
      l_[i] = 1;
      sum_[i] = 0;
    }
  }

  Index low() const { return scores_.low(); }
  Index high() const { return scores_.high(); }

  /// Adds the tile's keys: `scored` as scores read them, `values` their value rows. Sums of keys go to the room.
  void add_keys(const typename Operands::Tile& scored, const Rows& values, const TokenSet& keys) {
    const std::span<const TilePart> parts = scores_.score(scored, keys, nullptr);
    if (parts.empty()) return;
    const Index width = scores_.width();
    bool moved = false;  // the running maximum is above some query's lse
    if (wants_.bounded && wants_.queries) {
      tiles_.advance(width, scores_.softmax_factor(), room_.scores.top, m_, l_, room_.shifted, room_.correction);
      for (Index i = 0; i < width; ++i) moved = moved || m_[i] > base_[i];
      for (Index i = 0; moved && i < width; ++i) sum_[i] *= room_.correction[i];
    }
    for (const TilePart& part : parts) add_part(values, part, moved);
  }

  /// Writes the sums of the panel's queries to `to`.
  void write(T* to) const {
    const TokenSet& queries = scores_.queries();
    for (Index i = 0; i < queries.size; ++i)
      to[queries[i]] = is_minus_infinity(-base_[i]) ? T(0) : wants_.bounded ? sum_[i] / l_[i] : sum_[i];
  }

 private:
  static constexpr double limit = std::numeric_limits<T>::max_exponent * 0.75;

  void add_part(const Rows& values, const TilePart& part, bool moved) {
    const Index width = scores_.width(), lanes = tiles_.lanes, first = part.first * lanes,
                end = first + part.count * lanes, d_v = scores_.call().v.cols;
    const T factor = scores_.softmax_factor();
    T *w = room_.scores.s + part.at * width, *d = room_.d + part.at * width;
    std::fill(room_.scores.ignored, room_.scores.ignored + width, minus_infinity<T>);
    tiles_.scores(values.k(part.at), values.k_stride(), part.n_keys, d_out_, d_v, width, part.first, part.count, d,
                  room_.scores.ignored, nullptr);
    if (moved) {
      std::copy_n(w, part.n_keys * width, room_.w_shifted);
      std::copy_n(d, part.n_keys * width, room_.d_shifted);
      gradients_.gradients(part.n_keys, width, part.first, part.count, factor, T(limit), room_.shifted, shift_, mean_,
                           room_.w_shifted, room_.d_shifted);
      add_to_queries(part.n_keys, first, end, room_.w_shifted, room_.d_shifted);
    }
    if (moved && !wants_.keys) return;
    gradients_.gradients(part.n_keys, width, part.first, part.count, factor, T(limit), base_, shift_, mean_, w, d);
    if (!moved && wants_.queries) add_to_queries(part.n_keys, first, end, w, d);
    for (Index j = 0; wants_.keys && j < part.n_keys; ++j) {
      T* column = room_.columns + (part.at + j) * lanes;
      for (Index u = first; u < end; u += lanes) {
        if (wants_.bounded) {
          add_shares(d + j * width + u, w + j * width + u, lanes, column);
        } else {
          add_row(d + j * width + u, lanes, column);
        }
      }
    }
  }

  void add_to_queries(Index n_keys, Index first, Index end, const T* w, const T* d) {
    const Index width = scores_.width();
    for (Index j = 0; j < n_keys; ++j) {
      add_row(d + j * width + first, end - first, sum_ + first);
      if (wants_.bounded) add_row(w + j * width + first, end - first, l_ + first);
    }
  }

  // Vectors are whole numbers of blocks, and a block is a register of any machine: with these bounds compilers use
  // one, whatever the user's flags.
  static constexpr Index block = 16 / sizeof(T);

  // to += from.
  static void add_row(const T* __restrict from, Index n, T* __restrict to) {
    for (Index i = 0; i < n; i += block) {
      for (Index x = 0; x < block; ++x) to[i + x] += from[i + x];
    }
  }
  // to += term / (1 + weight).
  static void add_shares(const T* __restrict term, const T* __restrict weight, Index n, T* __restrict to) {
    for (Index i = 0; i < n; i += block) {
      for (Index x = 0; x < block; ++x) to[i + x] += term[i + x] / (1 + weight[i + x]);
    }
  }

  const TileKernels<T>& tiles_;
  const GradientKernels<T>& gradients_;
  const StorageKernels<T, KernelScalar<typename Call::Query>>& stored_;
  MembershipRoom<T> room_;
  ScoreTile<Operands, Call, NoScoreMod> scores_;
  NoScoreMod none_;
  MembershipWants wants_;
  T* d_out_;                                   // d_v x width
  T *base_, *shift_, *mean_, *m_, *l_, *sum_;  // width
};

}  // namespace heed::detail
