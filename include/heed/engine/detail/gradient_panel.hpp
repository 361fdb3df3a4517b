#pragma once
#include <algorithm>
#include <limits>
#include <numeric>
#include <span>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/gradient_sums.hpp"
#include "heed/engine/detail/score_tile.hpp"
#include "heed/engine/detail/tile_part.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// What the gradient panels of one thread share.
template <class Products>
struct GradientRoom {
  using T = typename Products::Sum;

  GradientRoom(Scratch& scratch, Index keys, Index d, Index vectors, Index lanes, bool keeps_raw, bool keeps_before)
      : scores(scratch, keys, vectors, lanes), products(scratch, keys, vectors * lanes) {
    const Index width = vectors * lanes;
    slopes = scratch.take<T>(keys * width);
    rows = scratch.take<T>(width * d);
    if (keeps_raw) scores.raw = scratch.take<T>(keys * width);
    if (keeps_before) scores.before = scratch.take<T>(keys * width);
  }
  ScoreRoom<T> scores;
  typename Products::Room products;
  T* slopes;  // keys x width: gradients of weights, then of scores
  T* rows;    // width x d: rows of d_q
};

/// One panel of queries of one head in a backward pass: a third consumer of score tiles. For every tile, with P the
/// recomputed weights,
///   d_weights = v d_out^T; d_scores = P (d_weights - mean); d_q += d_scores^T k; d_v += P d_out; d_k += d_scores q:
/// lanes run along queries for the first three, along features for the last two. `Operands` are how scores read
/// queries and keys, `Products` (WidenedGradient, Bf16Gradient) how all else is multiplied.
template <class Operands, class Products, class Call, class ScoreMod>
class GradientPanel {
 public:
  using T = typename Operands::Sum;
  using Tile = typename Products::Tile;

  GradientPanel(Scratch& scratch, const GradientRoom<Products>& room, Index d, Index d_v, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        gradients_(gradient_kernels<T>(isa)),
        rows_(storage_kernels<T, T>(isa)),
        room_(room),
        scores_(scratch, room.scores, d, isa),
        products_(scratch, room.products, tiles_.lanes * tiles_.vectors, d, d_v, isa) {
    const Index width = tiles_.lanes * tiles_.vectors;
    d_q_ = scratch.take<T>(width * d);
    for (T** row : {&base_, &shift_, &mean_}) *row = scratch.take<T>(width);
  }

  /// Starts on `queries` of `call`, whose log-sum-exp is known.
  void begin(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
             const PairRule& rule, const ScoreMod& mod) {
    scores_.begin(call, queries, bounds, options, rule, mod);
    mod_ = &mod;
    const Index width = scores_.width(), n = queries.size;
    products_.begin(call, queries, width);
    std::fill_n(d_q_, width * call.q.cols, T(0));
    for (Index i = 0; i < width; ++i) {
      const WeightBase<T> base = i < n ? weight_base(call, queries[i], scores_.softmax_factor()) : weightless<T>;
      base_[i] = base.base;
      shift_[i] = base.shift;
      mean_[i] = i < n ? call.mean[queries[i]] : T(0);
    }
  }

  Index low() const { return scores_.low(); }
  Index high() const { return scores_.high(); }

  /// Adds what the tile's keys and the panel's queries are to each other's gradients.
  void add_keys(Tile& tile) {
    const std::span<const TilePart> parts = scores_.score(tile.scored(), tile.sums.keys, nullptr);
    for (const TilePart& part : parts) add_part(tile, part);
  }

  /// Adds the sums of the panel to the rows of its queries.
  void add_to_queries(T scale) const {
    const Call& call = scores_.call();
    const TokenSet& queries = scores_.queries();
    rows_.write_rows(d_q_, scores_.width(), room_.products.ones, queries.size, call.q.cols, room_.rows, call.q.cols, 1,
                     nullptr);
    add_rows_to(call.d_q, queries, room_.rows, call.q.cols, scale, gradients_);
  }

 private:
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod>;

  void add_part(Tile& tile, const TilePart& part) {
    const Index width = scores_.width();
    T *w = room_.scores.s + part.at * width, *d = room_.slopes + part.at * width;
    if (part.partial && !(products_.finite() && tile.finite)) return add_pairs(tile, part);
    std::fill(room_.scores.ignored, room_.scores.ignored + width, minus_infinity<T>);
    products_.weight_gradients(tile, part, width, d, room_.scores.ignored);
    gradients_.gradients(part.n_keys, width, part.first, part.count, scores_.softmax_factor(), T(0), base_, shift_,
                         mean_, w, d);
    chain(tile, part, d);
    products_.add(tile, part, width, w, d, d_q_);
  }

  // Through functor, bias and softcap: the scale comes last, where sums are added to rows.
  void chain(const Tile& tile, const TilePart& part, T* d) const {
    const Call& call = scores_.call();
    const TokenSet &queries = scores_.queries(), &keys = tile.sums.keys;
    const Index width = scores_.width(), first = part.first * tiles_.lanes,
                end = std::min(first + part.count * tiles_.lanes, queries.size);
    if constexpr (has_functor) {
      const T* before = room_.scores.before + part.at * width;
      for (Index j = 0; j < part.n_keys; ++j) {
        for (Index i = first; i < end; ++i) {
          T& slope = d[j * width + i];
          if (!is_zero(slope))
            slope *= static_cast<T>(mod_->derivative(before[j * width + i], queries[i], keys[part.at + j]));
        }
      }
    }
    if (call.d_bias.data != nullptr) {
      const bool one_row = call.d_bias.row_stride == 0;  // for all queries: those of the panel are summed first
      for (Index j = 0; j < part.n_keys; ++j) {
        const T* slopes = d + j * width;
        const Index key = keys[part.at + j];
        if (one_row) call.d_bias(0, key) += std::accumulate(slopes + first, slopes + end, T(0));
        for (Index i = first; i < end && !one_row; ++i) call.d_bias(queries[i], key) += slopes[i];
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
    GradientSums<T>& sums = tile.sums;
    const Index width = scores_.width(), d = call.k.cols, d_v = call.v.cols, first = part.first * tiles_.lanes,
                end = std::min(first + part.count * tiles_.lanes, scores_.queries().size);
    TilePart one = part;
    one.n_keys = 1;
    for (Index j = part.at; j < part.at + part.n_keys; ++j) {
      T *w = room_.scores.s + j * width, *slope = room_.slopes + j * width;
      for (Index i = first; i < end; ++i) {
        slope[i] = 0;
        for (Index c = 0; c < d_v; ++c) slope[i] += tile.value(j, c) * products_.out(i, c);
      }
      std::fill(room_.scores.ignored, room_.scores.ignored + width, T(0));
      for (Index i = first; i < end; ++i) room_.scores.ignored[i] = is_minus_infinity(w[i]) ? T(0) : T(1);  // kept
      gradients_.gradients(1, width, part.first, part.count, scores_.softmax_factor(), T(0), base_, shift_, mean_, w,
                           slope);
      one.at = j;
      chain(tile, one, slope);
      for (Index i = first; i < end; ++i) {
        if (is_zero(room_.scores.ignored[i])) continue;
        for (Index c = 0; c < d; ++c) {
          d_q_[c * width + i] += slope[i] * tile.key(j, c);
          sums.d_k[j * sums.k_width + c] += slope[i] * products_.query(i, c);
        }
        for (Index c = 0; c < d_v; ++c) sums.d_v_rows[j * sums.v_width + c] += w[i] * products_.out(i, c);
      }
    }
  }

  const TileKernels<T>& tiles_;
  const GradientKernels<T>& gradients_;
  const StorageKernels<T, T>& rows_;
  GradientRoom<Products> room_;
  ScoreTile<Operands, Call, ScoreMod> scores_;
  Products products_;
  const ScoreMod* mod_ = nullptr;
  T* d_q_;                    // d x width
  T *base_, *shift_, *mean_;  // width
};

}  // namespace heed::detail
