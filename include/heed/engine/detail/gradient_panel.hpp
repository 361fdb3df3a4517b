#pragma once
#include <algorithm>
#include <limits>
#include <span>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/key_tile.hpp"
#include "heed/engine/detail/score_tile.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// A tile of keys in a backward pass: rows of keys and values as they are multiplied, and the sums of their gradients,
/// rows padded to whole vectors.
template <class T, class S>
struct GradientTile {
  using Rows = KeyTile<T, S>;

  GradientTile(Scratch& scratch, Index n_keys, Index d, Index d_v, Isa isa)
      : k(scratch, n_keys, d, 0, isa), v(scratch, n_keys, d_v, 0, isa), kernels(tile_kernels<T>(isa)) {
    k_width = padded(d);
    v_width = padded(d_v);
    d_k = scratch.take<T>(n_keys * k_width);
    d_v_sums = scratch.take<T>(n_keys * v_width);
  }

  template <class Call>
  void load(const Call& call, const TokenSet& some, Index visits) {
    keys = some;
    const ConstView<S> none{call.k.data, call.k.rows, 0, call.k.row_stride, call.k.col_stride};
    k.load(call.k, none, some, visits);
    v.load(call.v, none, some, visits);
    finite = kernels.all_finite(k.k(0), k.k_stride(), some.size, call.k.cols) &&
             kernels.all_finite(v.k(0), v.k_stride(), some.size, call.v.cols);
    std::fill_n(d_k, some.size * k_width, T(0));
    std::fill_n(d_v_sums, some.size * v_width, T(0));
  }

  /// Adds the sums to the rows of their keys.
  template <class Call>
  void add_to(const Call& call, T scale) const {
    for (Index j = 0; j < keys.size; ++j) {
      for (Index c = 0; c < call.k.cols; ++c) call.d_k(keys[j], c) += scale * d_k[j * k_width + c];
      for (Index c = 0; c < call.v.cols; ++c) call.d_v(keys[j], c) += d_v_sums[j * v_width + c];
    }
  }

  Index padded(Index n) const { return (n + kernels.lanes - 1) / kernels.lanes * kernels.lanes; }

  Rows k, v;
  const TileKernels<T>& kernels;
  TokenSet keys;
  Index k_width = 0, v_width = 0;
  bool finite = true;
  T *d_k, *d_v_sums;
};

/// What the gradient panels of one thread share.
template <class T>
struct GradientRoom {
  GradientRoom(Scratch& scratch, Index keys, Index vectors, Index lanes, bool keeps_raw, bool keeps_before)
      : scores(scratch, keys, vectors, lanes) {
    const Index width = vectors * lanes;
    d = scratch.take<T>(keys * width);
    ones = scratch.take<T>(width);
    if (keeps_raw) scores.raw = scratch.take<T>(keys * width);
    if (keeps_before) scores.before = scratch.take<T>(keys * width);
  }
  ScoreRoom<T> scores;
  T* d;     // keys x width: gradients of weights, then of scores
  T* ones;  // width
};

/// One panel of queries of one head in a backward pass: a third consumer of score tiles. For every tile, with P the
/// recomputed weights,
///   d_weights = v d_out^T; d_scores = P (d_weights - mean); d_q += d_scores^T k; d_v += P d_out; d_k += d_scores q:
/// lanes run along queries for the first three, along features for the last two.
template <class Operands, class Call, class ScoreMod>
class GradientPanel {
 public:
  using T = typename Operands::Sum;
  using Tile = GradientTile<T, typename Call::Key>;

  GradientPanel(Scratch& scratch, const GradientRoom<T>& room, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        gradients_(gradient_kernels<T>(isa)),
        stored_(storage_kernels<T, KernelScalar<typename Call::Query>>(isa)),
        room_(room),
        scores_(scratch, room.scores, d, isa) {
    const Index width = tiles_.lanes * tiles_.vectors;
    q_width_ = (d + tiles_.lanes - 1) / tiles_.lanes * tiles_.lanes;
    v_width_ = (d_v + tiles_.lanes - 1) / tiles_.lanes * tiles_.lanes;
    q_rows_ = scratch.take<T>(width * q_width_);
    out_rows_ = scratch.take<T>(width * v_width_);
    d_out_ = scratch.take<T>(width * d_v);
    d_q_ = scratch.take<T>(width * d);
    base_ = scratch.take<T>(width);
    mean_ = scratch.take<T>(width);
  }

  /// Starts on `queries` of `call`, whose log-sum-exp is known.
  void begin(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
             const PairRule& rule, const ScoreMod& mod) {
    scores_.begin(call, queries, bounds, options, rule, mod);
    mod_ = &mod;
    const Index width = scores_.width(), n = queries.size;
    std::fill(room_.ones, room_.ones + width, T(1));
    std::fill_n(q_rows_, width * q_width_, T(0));
    std::fill_n(out_rows_, width * v_width_, T(0));
    const Index first = queries.list == nullptr ? queries.first : 0;
    const auto* q = kernel_pointer(call.q.data) + first * call.q.row_stride;
    const auto* d_out = kernel_pointer(call.d_out.data) + first * call.d_out.row_stride;
    stored_.gather(q, call.q.row_stride, call.q.col_stride, queries.list, n, call.q.cols, q_rows_, q_width_);
    stored_.gather(d_out, call.d_out.row_stride, call.d_out.col_stride, queries.list, n, call.v.cols, out_rows_,
                   v_width_);
    stored_.transpose(d_out, call.d_out.row_stride, call.d_out.col_stride, queries.list, n, nullptr, call.v.cols,
                      d_out_, width, T(1), true);
    finite_ =
        tiles_.all_finite(q_rows_, q_width_, n, call.q.cols) && tiles_.all_finite(out_rows_, v_width_, n, call.v.cols);
    std::fill_n(d_q_, width * call.q.cols, T(0));
    const double factor = static_cast<double>(scores_.softmax_factor());
    for (Index i = 0; i < width; ++i) {
      // A query without keys, or a lane without a query: every weight is 2^-inf = 0.
      const T lse = i < n ? call.known_lse[queries[i] * call.known_lse_stride] : minus_infinity<T>;
      base_[i] = is_minus_infinity(lse) ? std::numeric_limits<T>::infinity()
                                        : static_cast<T>(static_cast<double>(lse) * ScoreRule<T>::log2_e / factor);
      mean_[i] = i < n ? call.mean[queries[i]] : T(0);
    }
  }

  Index low() const { return scores_.low(); }
  Index high() const { return scores_.high(); }

  /// Adds what the tile's keys and the panel's queries are to each other's gradients. `scored`: the tile as scores read
  /// it.
  void add_keys(const typename Operands::Tile& scored, Tile& tile) {
    const std::span<const TilePart> parts = scores_.score(scored, tile.keys, nullptr);
    for (const TilePart& part : parts) add_part(tile, part);
  }

  /// Adds the sums of the panel to the rows of its queries.
  void add_to_queries(T scale) const {
    const Call& call = scores_.call();
    const TokenSet& queries = scores_.queries();
    const Index width = scores_.width();
    for (Index i = 0; i < queries.size; ++i) {
      for (Index c = 0; c < call.q.cols; ++c) call.d_q(queries[i], c) += scale * d_q_[c * width + i];
    }
  }

 private:
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod>;

  void add_part(Tile& tile, const TilePart& part) {
    const Call& call = scores_.call();
    const Index width = scores_.width(), lane = part.first * tiles_.lanes, n = part.count * tiles_.lanes;
    T *w = room_.scores.s + part.at * width, *d = room_.d + part.at * width;
    if (part.partial && !(finite_ && tile.finite)) return add_pairs(tile, part);
    std::fill(room_.scores.ignored, room_.scores.ignored + width, minus_infinity<T>);
    tiles_.scores(tile.v.k(part.at), tile.v.k_stride(), part.n_keys, d_out_, call.v.cols, width, part.first, part.count,
                  d, room_.scores.ignored, nullptr);
    gradients_.gradients(part.n_keys, width, part.first, part.count, scores_.softmax_factor(), base_, mean_, w, d);
    chain(tile, part, d);
    tiles_.values(tile.k.k(part.at), tile.k.k_stride(), tiles_.rows, part.n_keys, d, call.k.cols, width, part.first,
                  part.count, room_.ones, d_q_);
    gradients_.add_products(w + lane, width, part.n_keys, out_rows_ + lane * v_width_, v_width_, n, tile.v_width,
                            tile.d_v_sums + part.at * tile.v_width, tile.v_width);
    gradients_.add_products(d + lane, width, part.n_keys, q_rows_ + lane * q_width_, q_width_, n, tile.k_width,
                            tile.d_k + part.at * tile.k_width, tile.k_width);
  }

  // Through functor, bias and softcap: the scale comes last, where sums are added to rows.
  void chain(const Tile& tile, const TilePart& part, T* d) const {
    const Call& call = scores_.call();
    const TokenSet& queries = scores_.queries();
    const Index width = scores_.width(), first = part.first * tiles_.lanes,
                end = std::min(first + part.count * tiles_.lanes, queries.size);
    if constexpr (has_functor) {
      const T* before = room_.scores.before + part.at * width;
      for (Index j = 0; j < part.n_keys; ++j) {
        for (Index i = first; i < end; ++i) {
          T& slope = d[j * width + i];
          if (!is_zero(slope))
            slope *= static_cast<T>(mod_->derivative(before[j * width + i], queries[i], tile.keys[part.at + j]));
        }
      }
    }
    if (call.d_bias.data != nullptr) {
      for (Index j = 0; j < part.n_keys; ++j) {
        for (Index i = first; i < end; ++i) call.d_bias(queries[i], tile.keys[part.at + j]) += d[j * width + i];
      }
    }
    const ScoreRule<T>& rule = scores_.rule();
    if (rule.cap == 0) return;  // none, or one that no score comes near
    gradients_.bend(
        part.n_keys, width, part.first, part.count,
        static_cast<T>(2 * ScoreRule<T>::log2_e * static_cast<double>(rule.scale) / static_cast<double>(rule.cap)),
        room_.scores.raw + part.at * width, d);
  }

  // A part with masked pairs where some row is not finite: kept pairs one by one, so that nothing else meets a NaN.
  void add_pairs(Tile& tile, const TilePart& part) {
    const Call& call = scores_.call();
    const Index width = scores_.width(), d = call.k.cols, d_v = call.v.cols,
                end = std::min((part.first + part.count) * tiles_.lanes, scores_.queries().size);
    TilePart one = part;
    one.n_keys = 1;
    for (Index j = part.at; j < part.at + part.n_keys; ++j) {
      T *w = room_.scores.s + j * width, *slope = room_.d + j * width;
      const T *k = tile.k.k(j), *v = tile.v.k(j);
      for (Index i = part.first * tiles_.lanes; i < end; ++i) {
        slope[i] = 0;
        for (Index c = 0; c < d_v; ++c) slope[i] += v[c] * out_rows_[i * v_width_ + c];
      }
      std::fill(room_.scores.ignored, room_.scores.ignored + width, T(0));
      for (Index i = part.first * tiles_.lanes; i < end; ++i)
        room_.scores.ignored[i] = is_minus_infinity(w[i]) ? T(0) : T(1);  // kept
      gradients_.gradients(1, width, part.first, part.count, scores_.softmax_factor(), base_, mean_, w, slope);
      one.at = j;
      chain(tile, one, slope);
      for (Index i = part.first * tiles_.lanes; i < end; ++i) {
        if (is_zero(room_.scores.ignored[i])) continue;
        for (Index c = 0; c < d; ++c) {
          d_q_[c * width + i] += slope[i] * k[c];
          tile.d_k[j * tile.k_width + c] += slope[i] * q_rows_[i * q_width_ + c];
        }
        for (Index c = 0; c < d_v; ++c) tile.d_v_sums[j * tile.v_width + c] += w[i] * out_rows_[i * v_width_ + c];
      }
    }
  }

  const TileKernels<T>& tiles_;
  const GradientKernels<T>& gradients_;
  const StorageKernels<T, KernelScalar<typename Call::Query>>& stored_;
  GradientRoom<T> room_;
  ScoreTile<Operands, Call, ScoreMod> scores_;
  const ScoreMod* mod_ = nullptr;
  Index q_width_, v_width_;
  T *q_rows_, *out_rows_;  // width x padded d, d_v: rows of queries and of d_out
  T *d_out_, *d_q_;        // d_v x width, d x width
  T *base_, *mean_;        // width
  bool finite_ = true;     // rows of queries and d_out
};

}  // namespace heed::detail
