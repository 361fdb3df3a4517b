#pragma once
#include <algorithm>
#include <new>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/detail/bf16_operands.hpp"
#include "heed/engine/detail/decode_rows.hpp"
#include "heed/engine/detail/int8_panel_operands.hpp"
#include "heed/engine/detail/int8_tile.hpp"
#include "heed/engine/detail/softmax_panel.hpp"
#include "heed/engine/detail/softmax_state.hpp"
#include "heed/engine/detail/tiling.hpp"
#include "heed/engine/detail/widened_operands.hpp"
#include "heed/engine/detail/write_out.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/softmax_sums.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// The streaming engine: softmax attention of some heads over the pairs of one part. Work is cut into panels of
/// queries and, where queries are few, chunks of keys merged in order; both depend on shapes alone, never on threads
/// or on which heads are computed together, so results are the same bits however the call is split.
template <class Call, class ScoreMod>
class SoftmaxEngine {
 public:
  using T = typename Call::Sum;

  /// `calls` share all shapes; `heads_per_kv` consecutive calls share keys and values. All checks have passed.
  SoftmaxEngine(const PairsPart& part, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                const ScoreMod& mod, Workspace& workspace, int threads)
      : tiles_(part.tiles),
        rule_(part.rule),
        calls_(calls),
        heads_per_kv_(heads_per_kv),
        options_(options),
        mod_(mod),
        frame_(workspace),
        threads_(threads),
        isa_(active_isa()),
        bounds_(options.mask, calls.front().q.rows, calls.front().k.rows),
        d_(calls.front().k.cols),
        d_v_(calls.front().v.cols) {}

  void run() {
    const Index n_q = calls_.front().q.rows, n_k = calls_.front().k.rows;
    if (n_q == 0) return;
    // Scores alone are asked for by the backward pass, whose own are those of panels.
    const bool scores_alone = d_v_ == 0 && calls_.front().split_lse != nullptr;
    if (n_q == 1 && !scores_alone && tiles_.n_groups() == 1 && tiles_.n_segments(0) == 1 &&
        tiles_.keys(0, 0).list == nullptr && tiles_.keys(0, 0).size == n_k) {
      run_rows(n_k);
      return;
    }
    if constexpr (Int8PanelOperands<Call>::serves) {
      if (int8_panel_kernels(isa_) != nullptr && d_ <= Int8PanelOperands<Call>::most_columns) {
        run_panels<Int8PanelOperands<Call>>();
        return;
      }
    }
    if constexpr (Bf16Operands<Call>::serves) {
      if (bf16_kernels(isa_) != nullptr) {
        run_panels<Bf16Operands<Call>>();
        return;
      }
    }
    run_panels<WidenedOperands<Call>>();
  }

 private:
  // One query a head. Task: heads that share keys x chunk of keys.
  void run_rows(Index n_k) {
    using RowRun = DecodeRows<T, Call, ScoreMod>;
    constexpr Index edge = RowRun::Operands::first_edge;
    const Index n_calls = static_cast<Index>(calls_.size()), n_chunks = chunks_of(n_k - edge, row_chunk_keys);
    const bool apart = options_.mask.bias.by_head(1) || options_.mask.allowed.by_head(1);  // heads mask different keys
    const Index together = apart ? 1 : std::min(heads_per_kv_, RowRun::max_heads);
    const Index parts = (heads_per_kv_ + together - 1) / together, n_groups = n_calls / heads_per_kv_ * parts;
    SoftmaxState<T>* states = take_states(n_calls * n_chunks, 1);
    for_each_task(
        n_groups * n_chunks, threads_, frame_,
        [&](Scratch& scratch) { return RowRun(scratch, std::min(n_k, row_chunk_keys + edge), d_, d_v_, isa_); },
        [&](RowRun& rows, Index task) {
          const Index group = task / n_chunks, chunk = task % n_chunks;
          const Index first = group / parts * heads_per_kv_ + group % parts * together;
          const Index n = std::min(together, group / parts * heads_per_kv_ + heads_per_kv_ - first);
          SoftmaxState<T> mine[RowRun::max_heads];
          for (Index h = 0; h < n; ++h) mine[h] = states[(first + h) * n_chunks + chunk];
          rows.run(calls_.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)),
                   chunk == 0 ? 0 : chunk * row_chunk_keys + edge, std::min(n_k, (chunk + 1) * row_chunk_keys + edge),
                   bounds_, options_, rule_, mod_, {mine, static_cast<std::size_t>(n)});
          for (Index h = 0; h < n; ++h) states[(first + h) * n_chunks + chunk] = mine[h];
        });
    for (Index c = 0; c < n_calls; ++c)
      finish(calls_[static_cast<std::size_t>(c)], {0, 1}, states + c * n_chunks, n_chunks);
  }

  // What one thread owns: a tile of keys and the panels that visit it.
  template <class Operands>
  struct Worker {
    using Panel = SoftmaxPanel<Operands, Call, ScoreMod>;
    Worker(Scratch& scratch, Index share, Index keys, Index d, Index d_v, Isa isa)
        : tile(scratch, keys, d, d_v, isa),
          room(scratch, keys, tile_kernels<T>(isa).vectors, tile_kernels<T>(isa).lanes),
          panels(scratch.make(share, [&](Scratch& own) { return Panel(own, room, d, d_v, isa); })) {}
    typename Operands::Tile tile;
    SoftmaxRoom<T> room;
    Panel* panels;
  };

  // Task: head x a few panels of queries that share tiles of keys x chunk of keys; see Tiling.
  template <class Operands>
  void run_panels() {
    const Index n_calls = static_cast<Index>(calls_.size());
    const TileKernels<T>& kernels = tile_kernels<T>(isa_);
    const Index width = kernels.lanes * kernels.vectors, panel_bytes = width * (d_ + d_v_) * Index(sizeof(T));
    const Tiling tiling(tiles_, width, panel_bytes, n_calls, threads_, frame_);
    SoftmaxState<T>* states = tiling.n_chunks > 1 ? take_states(n_calls * tiling.n_chunks, width) : nullptr;
    const Index n_tasks = n_calls * tiling.n_tasks * tiling.n_chunks, keys = tile_size(tiles_);
    for_each_task(
        n_tasks, threads_, frame_,
        [&](Scratch& scratch) { return Worker<Operands>(scratch, tiling.share, keys, d_, d_v_, isa_); },
        [&](Worker<Operands>& worker, Index task) {
          const Index later = task + threads_;  // likely this thread's next: a guess, and only caches are touched on it
          visit(worker, tiling, tiling.visit_of(task), later < n_tasks ? tiling.visit_of(later) : Visit{}, states);
        });
    for (Index c = 0; tiling.n_chunks > 1 && c < n_calls; ++c) {
      finish(calls_[static_cast<std::size_t>(c)], tiles_.queries(tiling.only_group), states + c * tiling.n_chunks,
             tiling.n_chunks);
    }
  }

  // Each panel computes on one tile while its part of what comes next is on the way: the next tile, or behind the
  // last one the next visit's queries and first tile and the rows this one will write.
  template <class Operands>
  void visit(Worker<Operands>& worker, const Tiling& tiling, const Visit& now, const Visit& next,
             SoftmaxState<T>* partials) {
    const Call& call = calls_[static_cast<std::size_t>(now.call)];
    Index low = call.k.rows, high = 0;
    for (Index p = 0; p < now.n; ++p) {
      worker.panels[p].begin(call, tiling.queries(now, p, 1), bounds_, options_, rule_, mod_);
      low = std::min(low, worker.panels[p].low());
      high = std::max(high, worker.panels[p].high());
    }
    KeyPlace place;
    for (TokenSet keys = tiling.next_tile(now, low, high, Operands::rounds_tiles, place); keys.size > 0;) {
      const TokenSet following = tiling.next_tile(now, low, high, Operands::rounds_tiles, place);
      worker.tile.load(call.k, call.v, keys, now.n);
      for (Index p = 0; p < now.n; ++p) {
        Ahead ahead;
        if (following.size > 0) {
          fetch(ahead, call.k, following, p, now.n);
          fetch(ahead, call.v, following, p, now.n);
        } else {
          fetch(ahead, call.out, tiling.queries(now, p, 1), 0, 1);
          if (next.n > 0) fetch_visit(ahead, tiling, next, p, now.n);
        }
        const bool last = p + 1 == now.n;  // what the mask says is read panel by panel
        if (!last || following.size > 0) worker.panels[last ? 0 : p + 1].fetch_pairs(last ? following : keys, ahead);
        worker.panels[p].add_keys(worker.tile, keys, ahead);
      }
      keys = following;
    }
    for (Index p = 0; p < now.n; ++p) {
      auto& panel = worker.panels[p];
      if (partials != nullptr) {
        partials[now.call * tiling.n_chunks + now.chunk].copy(panel.state());
      } else if (call.sums != nullptr) {
        call.sums->store(0, panel.queries(), panel.state());
      } else {
        write_out(call, panel.queries(), panel.state(), options_.sinks, isa_);
      }
    }
  }

  // Adds part `part` of `parts` of what a visit reads first.
  void fetch_visit(Ahead& ahead, const Tiling& tiling, const Visit& visit, Index part, Index parts) const {
    const Call& call = calls_[static_cast<std::size_t>(visit.call)];
    const TokenSet queries = tiling.queries(visit, 0, visit.n);
    fetch(ahead, call.q, queries, part, parts);
    KeyPlace place;
    const TokenSet keys = tiling.next_tile(visit, bounds_.of(queries[0]).low, call.k.rows, true, place);
    fetch(ahead, call.k, keys, part, parts);
    fetch(ahead, call.v, keys, part, parts);
  }

  // Adds part `part` of `parts` of the `rows` of a matrix, where a list scatters them: for rows in order the
  // processor looks ahead itself, and asking for them cost 2 to 8% at n = 128.
  static void fetch(Ahead&, const ConstView<Int8>&, const TokenSet&, Index, Index) {}
  template <class Matrix>
  static void fetch(Ahead& ahead, const Matrix& matrix, const TokenSet& rows, Index part, Index parts) {
    if (rows.list == nullptr || matrix.col_stride != 1) return;
    constexpr Index size = sizeof(*matrix.data);
    const TokenSet mine =
        rows.part(rows.size * part / parts, rows.size * (part + 1) / parts - rows.size * part / parts);
    if (mine.size == 0) return;
    ahead.rows[ahead.n++] = {reinterpret_cast<const char*>(matrix.data),
                             matrix.row_stride * size,
                             matrix.cols * size,
                             mine.list,
                             mine.size,
                             !std::is_const_v<std::remove_pointer_t<decltype(matrix.data)>>};
  }

  SoftmaxState<T>* take_states(Index count, Index width) {
    SoftmaxState<T>* states = frame_.template take<SoftmaxState<T>>(count);
    Scratch measure;
    SoftmaxState<T>(measure, width, d_v_);
    std::byte* memory = frame_.template take<std::byte>(static_cast<Index>(measure.used()) * count);
    for (Index s = 0; s < count; ++s) {
      Scratch scratch(memory + measure.used() * static_cast<std::size_t>(s));
      new (states + s) SoftmaxState<T>(scratch, width, d_v_);
    }
    return states;
  }

  // Merges the chunks of one head in order, or leaves that to who asked for them.
  void finish(const Call& call, const TokenSet& queries, SoftmaxState<T>* states, Index n_chunks) {
    for (Index chunk = 0; call.sums != nullptr && chunk < n_chunks; ++chunk)
      call.sums->store(chunk, queries, states[chunk]);
    if (call.sums != nullptr) return;
    for (Index chunk = 1; chunk < n_chunks; ++chunk) states[0].merge(states[chunk]);
    write_out(call, queries, states[0], options_.sinks, isa_);
  }

  const TileList& tiles_;
  const PairRule& rule_;
  std::span<const Call> calls_;
  Index heads_per_kv_;
  const AttentionOptions& options_;
  const ScoreMod& mod_;
  Workspace::Frame frame_;
  int threads_;
  Isa isa_;
  KeyBounds bounds_;
  Index d_, d_v_;
};

/// Pairs in tiles, whatever masks say.
inline double tile_pairs(const TileList& tiles) {
  double pairs = 0;
  for (Index g = 0; g < tiles.n_groups(); ++g) {
    Index n_keys = 0;
    for (Index s = 0; s < tiles.n_segments(g); ++s) n_keys += tiles.keys(g, s).size;
    pairs += static_cast<double>(tiles.queries(g).size) * static_cast<double>(n_keys);
  }
  return pairs;
}

/// Runs the engine on checked calls over one part, and counts its pairs. The context brings a workspace.
template <class Call, class ScoreMod>
void run_part(const PairsPart& part, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& given,
              const ScoreMod& mod, const Context& context) {
  if (calls.empty()) return;
  const Call& one = calls.front();
  const AttentionOptions options = options_of(part, given);
  constexpr double least_work = 5e5;  // ten microseconds of arithmetic: small calls run on fewer threads than they may
  const double work =
      static_cast<double>(calls.size()) * tile_pairs(part.tiles) * static_cast<double>(one.k.cols + one.v.cols);
  const int threads = threads_for(work, least_work, thread_count(context.threads));
  SoftmaxEngine<Call, ScoreMod>(part, calls, heads_per_kv, options, mod, *context.workspace, threads).run();
  if (context.flops != nullptr) {
    count_attention(*context.flops,
                    kept_pairs(part.tiles, part.rule, options.mask, one.q.rows, one.k.rows, one.head,
                               static_cast<Index>(calls.size())),
                    one.k.cols, one.v.cols);
  }
}

}  // namespace heed::detail
