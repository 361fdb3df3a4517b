#pragma once
#include <algorithm>
#include <cstddef>
#include <limits>
#include <span>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/bf16_operands.hpp"
#include "heed/engine/detail/score_tile.hpp"
#include "heed/engine/detail/tiling.hpp"
#include "heed/engine/detail/widened_operands.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// One tile of keys against panel after panel of queries whose log-sum-exp is known: scores, weights, columns. What
/// one thread owns.
template <class Operands, class Call, class ScoreMod>
class ColumnPanel {
 public:
  using T = typename Operands::Sum;

  ColumnPanel(Scratch& scratch, Index keys, Index d, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        columns_(project_kernels<T>(isa)),
        tile_(scratch, keys, d, 0, isa),
        room_(scratch, keys, tiles_.vectors, tiles_.lanes),
        scores_(scratch, room_, d, isa) {
    base_ = scratch.take<T>(tiles_.lanes * tiles_.vectors);
    best_ = scratch.take<T>(keys * tiles_.lanes);
    squares_ = scratch.take<T>(keys * tiles_.lanes);
  }

  /// Starts on the keys of a tile.
  void begin(const Call& call, const TokenSet& keys) {
    keys_ = keys;
    tile_.load(call.k, call.v, keys, 1);
    std::fill(best_, best_ + keys.size * tiles_.lanes, T(0));
    std::fill(squares_, squares_ + keys.size * tiles_.lanes, T(0));
  }

  /// Adds the weights that `queries` of `call` give the keys; call.lse holds their log-sum-exp.
  void add(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
           const PairRule& rule, const ScoreMod& mod) {
    const Index width = tiles_.lanes * tiles_.vectors;
    for (Index at = 0; at < queries.size; at += width) {
      const TokenSet panel = queries.part(at, std::min(width, queries.size - at));
      // Ranges of consecutive queries do not decrease.
      if (bounds.of(panel[0]).low > keys_[keys_.size - 1] || bounds.of(panel[panel.size - 1]).high <= keys_[0])
        continue;
      scores_.begin(call, panel, bounds, options, rule, mod);
      add_panel(call);
    }
  }

  /// Adds what was gathered to the sums of one key head.
  void finish(const ColumnSums<T>& sums) const {
    for (Index j = 0; j < keys_.size; ++j) {
      T best = 0, square = 0;
      for (Index i = 0; i < tiles_.lanes; ++i) {
        best = std::max(best, best_[j * tiles_.lanes + i]);
        square += squares_[j * tiles_.lanes + i];
      }
      sums.largest[keys_[j]] = std::max(sums.largest[keys_[j]], best);
      sums.squares[keys_[j]] += square;
    }
  }

 private:
  void add_panel(const Call& call) {
    const std::span<const TilePart> parts = scores_.score(tile_, keys_, nullptr);
    if (parts.empty()) return;
    const TokenSet& queries = scores_.queries();
    const Index width = scores_.width();
    const double factor = static_cast<double>(scores_.softmax_factor());
    for (Index i = 0; i < width; ++i) {
      // A query without keys, or a lane without a query: every weight is 2^-inf = 0.
      const T lse = i < queries.size ? call.lse[queries[i] * call.lse_stride] : minus_infinity<T>;
      base_[i] = is_minus_infinity(lse) ? std::numeric_limits<T>::infinity()
                                        : static_cast<T>(static_cast<double>(lse) * ScoreRule<T>::log2_e / factor);
    }
    for (const TilePart& part : parts) {
      T* s = room_.s + part.at * width;
      const Index lane = part.first * tiles_.lanes;
      tiles_.weigh(part.n_keys, width, part.first, part.count, scores_.softmax_factor(), base_, s, room_.ignored);
      columns_.fold(part.n_keys, width, part.count, s + lane, best_ + part.at * tiles_.lanes,
                    squares_ + part.at * tiles_.lanes);
    }
  }

  const TileKernels<T>& tiles_;
  const ProjectKernels<T>& columns_;
  typename Operands::Tile tile_;
  ScoreRoom<T> room_;
  ScoreTile<Operands, Call, ScoreMod> scores_;
  T *base_, *best_, *squares_;
  TokenSet keys_;
};

/// Adds the column sums of `calls`, whose lse is known, over one part. Call c has the keys of key head (first_call +
/// c) / heads_per_kv. A task is a key head and a chunk of keys: sums are in the same order for any number of threads.
template <class Operands, class Call, class ScoreMod>
void add_column_weights(const PairsPart& part, std::span<const Call> calls, Index first_call, Index heads_per_kv,
                        const AttentionOptions& options, const ScoreMod& mod,
                        const ColumnSums<typename Call::Sum>& sums, Workspace& workspace, int threads) {
  using T = typename Call::Sum;
  using Panel = ColumnPanel<Operands, Call, ScoreMod>;
  if (calls.empty() || part.tiles.n_groups() == 0) return;
  const Index n_k = calls.front().k.rows, n_calls = static_cast<Index>(calls.size());
  const KeyBounds bounds(options.mask, calls.front().q.rows, n_k);
  const KeyTiling tiling(part.tiles, n_k);
  const Index first_kv = first_call / heads_per_kv, n_kv = (first_call + n_calls - 1) / heads_per_kv - first_kv + 1;
  Workspace::Frame frame(workspace);
  for_each_task(
      n_kv * tiling.n_chunks, threads, frame,
      [&](Scratch& scratch) { return Panel(scratch, tile_size(part.tiles), calls.front().k.cols, active_isa()); },
      [&](Panel& panel, Index task) {
        const Index kv = first_kv + task / tiling.n_chunks;
        const Index first = std::max(kv * heads_per_kv - first_call, Index(0)),
                    last = std::min((kv + 1) * heads_per_kv - first_call, n_calls);
        const ColumnSums<T> own{sums.largest + kv * n_k, sums.squares + kv * n_k};
        tiling.visit_tiles(task % tiling.n_chunks, [&](const TokenSet& queries, const TokenSet& keys) {
          panel.begin(calls[static_cast<std::size_t>(first)], keys);
          for (Index c = first; c < last; ++c)
            panel.add(calls[static_cast<std::size_t>(c)], queries, bounds, options, part.rule, mod);
          panel.finish(own);
        });
      });
}

/// The same with the operands that the forward pass used, so that scores are those behind its lse.
template <class Call, class ScoreMod>
void add_column_weights(const PairsPart& part, std::span<const Call> calls, Index first_call, Index heads_per_kv,
                        const AttentionOptions& options, const ScoreMod& mod,
                        const ColumnSums<typename Call::Sum>& sums, Workspace& workspace, int threads) {
  if constexpr (Bf16Operands<Call>::serves) {
    if (bf16_kernels(active_isa()) != nullptr) {
      add_column_weights<Bf16Operands<Call>>(part, calls, first_call, heads_per_kv, options, mod, sums, workspace,
                                             threads);
      return;
    }
  }
  add_column_weights<WidenedOperands<Call>>(part, calls, first_call, heads_per_kv, options, mod, sums, workspace,
                                            threads);
}

}  // namespace heed::detail
