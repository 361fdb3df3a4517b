#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pair_tile.hpp"
#include "heed/engine/score_rule.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Largest weight and sum of squared weights of each key, over the queries of all heads that share it: largest[kv * n_k + j],
/// squares[kv * n_k + j]. Both start at 0 and take what is added.
template <class T>
struct ColumnSums {
  T* largest;
  T* squares;
};

/// One tile of keys against panel after panel of queries whose log-sum-exp is known: scores, weights, columns. What one thread
/// owns.
template <class Call, class ScoreMod>
class ColumnTile {
 public:
  using T = typename Call::Sum;
  static constexpr Index capacity = 128;

  ColumnTile(Scratch& scratch, Index d, Isa isa)
      : tiles_(tile_kernels<T>(isa)),
        columns_(project_kernels<T>(isa)),
        isa_(isa),
        pair_room_(scratch, capacity, tiles_.vectors, tiles_.lanes) {
    const Index width = tiles_.lanes * tiles_.vectors;
    const auto panel = static_cast<std::size_t>(width), rows = static_cast<std::size_t>(capacity);
    s_ = scratch.take<T>(panel * rows);
    for (T** row : {&top_, &base_, &ignored_, &low_, &high_, &query_position_}) *row = scratch.take<T>(panel);
    key_position_ = scratch.take<T>(rows);
    q_ = scratch.take<T>(panel * static_cast<std::size_t>(d));
    k_tile_ = scratch.take<T>(rows * static_cast<std::size_t>(d));
    best_ = scratch.take<T>(rows * static_cast<std::size_t>(tiles_.lanes));
    squares_ = scratch.take<T>(rows * static_cast<std::size_t>(tiles_.lanes));
  }

  /// Starts on at most `capacity` keys.
  void begin(const ConstView<typename Call::Key>& k, const TokenSet& keys) {
    keys_ = keys;
    const auto* data = kernel_pointer(k.data) + (keys.list == nullptr ? keys.first * k.row_stride : 0);
    if (std::is_same_v<typename Call::Key, T> && keys.list == nullptr && k.col_stride == 1) {
      k_ = reinterpret_cast<const T*>(data);
      k_stride_ = k.row_stride;
    } else {
      storage_kernels<T, KernelScalar<typename Call::Key>>(isa_).gather(data, k.row_stride, k.col_stride, keys.list,
                                                                        keys.size, k.cols, k_tile_, k.cols);
      k_ = k_tile_;
      k_stride_ = k.cols;
    }
    for (Index j = 0; j < keys.size; ++j) key_position_[j] = static_cast<T>(keys[j]);
    std::fill(best_, best_ + keys.size * tiles_.lanes, T(0));
    std::fill(squares_, squares_ + keys.size * tiles_.lanes, T(0));
  }

  /// Adds the weights that `queries` of `call` give the keys; call.lse holds their log-sum-exp.
  void add(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const AttentionOptions& options,
           const ScoreMod& mod) {
    const ScoreRule<T> rule(options, call.k.cols, call.head, has_functor);
    const PairTile<T> pairs(options.mask, call.q.rows, call.head, isa_);
    const Index width = tiles_.lanes * tiles_.vectors;
    const bool alike = bounds.unlimited() && rule.slope == 0;
    for (Index at = 0; at < queries.size; at += width) {
      add_panel(call, queries.part(at, std::min(width, queries.size - at)), bounds, rule, pairs, alike, mod);
    }
  }

  /// Adds what was gathered to the sums of one key head, which start at `sums`.
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
  static constexpr bool has_functor = !std::is_same_v<ScoreMod, NoScoreMod>;

  Index offset_of(Index key) const {
    if (keys_.list == nullptr) return std::clamp(key - keys_.first, Index(0), keys_.size);
    return std::lower_bound(keys_.list, keys_.list + keys_.size, key) - keys_.list;
  }

  // Bounds of the panel's queries relative to the tile; returns whether some pair is kept, and whether all are.
  struct Reach {
    bool some = false, all = true;
  };
  Reach reach(const TokenSet& queries, Index panel, const KeyBounds& bounds, bool alike) {
    Reach reach;
    KeyRange range = bounds.of(queries[0]);
    for (Index i = 0; i < panel; ++i) {
      if (!alike) range = bounds.of(queries[std::min(i, queries.size - 1)]);
      const Index low = offset_of(range.low), high = offset_of(range.high);
      low_[i] = static_cast<T>(low);
      high_[i] = static_cast<T>(high);
      query_position_[i] = static_cast<T>(range.diagonal);
      reach.some = reach.some || low < high;
      reach.all = reach.all && low == 0 && high == keys_.size;
    }
    return reach;
  }

  void add_panel(const Call& call, const TokenSet& queries, const KeyBounds& bounds, const ScoreRule<T>& rule,
                 const PairTile<T>& pairs, bool alike, const ScoreMod& mod) {
    const Index vectors = (queries.size + tiles_.lanes - 1) / tiles_.lanes, panel = vectors * tiles_.lanes;
    const Reach seen = reach(queries, panel, bounds, alike);
    if (!seen.some) return;
    const PairCensus census = pairs.census(queries, keys_, panel, pair_room_);
    if (!census.some_kept) return;
    for (Index i = 0; i < panel; ++i) {
      // A query without keys, or a lane without a query: every weight is 2^-inf = 0.
      const T lse = i < queries.size ? call.lse[queries[i] * call.lse_stride] : minus_infinity<T>;
      base_[i] = is_minus_infinity(lse) ? std::numeric_limits<T>::infinity()
                                        : static_cast<T>(static_cast<double>(lse) * ScoreRule<T>::log2_e /
                                                         static_cast<double>(rule.softmax_factor));
    }
    const auto* from = kernel_pointer(call.q.data) + (queries.list == nullptr ? queries.first * call.q.row_stride : 0);
    storage_kernels<T, KernelScalar<typename Call::Query>>(isa_).transpose(
        from, call.q.row_stride, call.q.col_stride, queries.list, queries.size, nullptr, call.q.cols, q_, panel,
        rule.query_factor, true);
    std::fill(top_, top_ + panel, T(0));
    tiles_.scores(k_, k_stride_, keys_.size, q_, call.q.cols, panel, 0, vectors, s_, top_, nullptr);
    if (rule.adjusts_all || census.some_masked) {
      pairs.adjust(rule, queries, keys_, census, panel, 0, vectors, query_position_, key_position_, pair_room_, s_,
                   top_);
    }
    if constexpr (has_functor) {
      for (Index j = 0; j < keys_.size; ++j) {
        for (Index i = 0; i < queries.size; ++i) {
          T& score = s_[j * panel + i];
          if (!is_minus_infinity(score)) score = static_cast<T>(mod(score, queries[i], keys_[j]));
        }
      }
    }
    if (!seen.all) tiles_.bound(keys_.size, panel, 0, vectors, low_, high_, s_, top_);
    std::fill(ignored_, ignored_ + panel, T(0));
    tiles_.weigh(keys_.size, panel, 0, vectors, rule.softmax_factor, base_, s_, ignored_);
    columns_.fold(keys_.size, panel, s_, best_, squares_);
  }

  const TileKernels<T>& tiles_;
  const ProjectKernels<T>& columns_;
  Isa isa_;
  PairRoom<T> pair_room_;
  T* s_;                                                        // capacity x width
  T *top_, *base_, *ignored_, *low_, *high_, *query_position_;  // width
  T *key_position_, *q_, *k_tile_, *best_, *squares_;
  const T* k_ = nullptr;
  Index k_stride_ = 0;
  TokenSet keys_;
};

/// Adds the column sums of `calls`, whose lse is known and whose keys are those of key head `kv_of(c)`. A task is a key head and
/// either a range of keys or, where the pattern lists tokens, all of them: sums are in the same order for any number of threads.
template <class Call, KeyPattern Pattern, class ScoreMod, class KvOf>
void add_column_weights(const Pattern& pattern, std::span<const Call> calls, const AttentionOptions& options,
                        const ScoreMod& mod, const KvOf& kv_of, const ColumnSums<typename Call::Sum>& sums,
                        Workspace& workspace, int threads) {
  using T = typename Call::Sum;
  using Tile = ColumnTile<Call, ScoreMod>;
  if (calls.empty() || pattern.n_groups() == 0) return;
  const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows, n_calls = static_cast<Index>(calls.size());
  const KeyBounds bounds(options.mask, n_q, n_k);
  const bool listed = pattern.n_segments(0) > 0 && pattern.keys(0, 0).list != nullptr;
  const Index chunk = listed ? std::max<Index>(n_k, 1) : 4 * Tile::capacity;
  const Index n_chunks = (n_k + chunk - 1) / chunk, first_kv = kv_of(0), n_kv = kv_of(n_calls - 1) - first_kv + 1;
  Workspace::Frame frame(workspace);
  const Isa isa = active_isa();
  Scratch measure;
  Tile(measure, calls.front().k.cols, isa);
  std::byte* memory = frame.take<std::byte>(measure.used() * static_cast<std::size_t>(threads));
  parallel_tasks(n_kv * n_chunks, threads, [&](int thread) {
    Scratch scratch(memory + measure.used() * static_cast<std::size_t>(thread));
    return [&, tile = Tile(scratch, calls.front().k.cols, isa)](Index task) mutable {
      const Index kv = first_kv + task / n_chunks, from = task % n_chunks * chunk, to = std::min(n_k, from + chunk);
      Index first = 0, last = n_calls;
      while (kv_of(first) < kv) ++first;
      while (kv_of(last - 1) > kv) --last;
      const ColumnSums<T> own{sums.largest + kv * n_k, sums.squares + kv * n_k};
      for (Index g = 0; g < pattern.n_groups(); ++g) {
        const TokenSet queries = pattern.queries(g);
        for (Index s = 0; s < pattern.n_segments(g) && queries.size > 0; ++s) {
          const TokenSet all = pattern.keys(g, s);
          Index begin = 0, end = all.size;
          while (begin < end && all[begin] < from)
            begin = all.list == nullptr ? std::min(end, from - all.first) : begin + 1;
          while (begin < end && all[end - 1] >= to)
            end = all.list == nullptr ? std::max(begin, to - all.first) : end - 1;
          for (Index at = begin; at < end; at += Tile::capacity) {
            tile.begin(calls[static_cast<std::size_t>(first)].k, all.part(at, std::min(Tile::capacity, end - at)));
            for (Index c = first; c < last; ++c)
              tile.add(calls[static_cast<std::size_t>(c)], queries, bounds, options, mod);
            tile.finish(own);
          }
        }
      }
    };
  });
}

}  // namespace heed::detail
