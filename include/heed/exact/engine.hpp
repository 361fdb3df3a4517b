#pragma once
#include <algorithm>
#include <array>
#include <new>
#include <optional>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/count.hpp"
#include "heed/exact/head_call.hpp"
#include "heed/exact/panel.hpp"
#include "heed/exact/rows.hpp"
#include "heed/exact/softmax_state.hpp"
#include "heed/exact/twin_operands.hpp"
#include "heed/exact/widened_operands.hpp"
#include "heed/exact/write_out.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// The streaming engine: softmax attention of all heads over the pairs of one pattern. Work is cut into panels of queries and,
/// where queries are few, chunks of keys merged in order; both depend on shapes alone, never on threads or on which heads
/// are computed together, so results are the same bits however the call is split.
template <class Call, KeyPattern Pattern, class ScoreMod>
class Engine {
 public:
  using T = typename Call::Sum;

  /// `calls` share all shapes; `heads_per_kv` consecutive calls share keys and values. All checks have passed.
  Engine(const Pattern& pattern, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
         const ScoreMod& mod, Workspace& workspace, int threads)
      : pattern_(pattern),
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
    if (n_q == 1 && pattern_.n_groups() == 1 && pattern_.n_segments(0) == 1 && pattern_.keys(0, 0).list == nullptr &&
        pattern_.keys(0, 0).size == n_k) {
      run_rows(n_k);
      return;
    }
    if constexpr (TwinOperands<Call>::serves) {
      if (twin_kernels(isa_) != nullptr) {
        run_panels<TwinOperands<Call>>();
        return;
      }
    }
    run_panels<WidenedOperands<Call>>();
  }

 private:
  using RowRun = Rows<T, Call, ScoreMod>;
  static constexpr Index row_chunk = 2048;
  static constexpr Index panel_chunk = 4096;
  static constexpr Index max_share = 8;

  static Index chunks_of(Index n, Index chunk) { return std::max<Index>(1, (n + chunk - 1) / chunk); }

  // One query a head. Task: heads that share keys x chunk of keys.
  void run_rows(Index n_k) {
    const Index n_calls = static_cast<Index>(calls_.size()), n_chunks = chunks_of(n_k, row_chunk);
    const bool apart = options_.mask.bias.rows() > 1 || options_.mask.allowed.rows() > 1;  // heads mask different keys
    const Index together = apart ? 1 : std::min(heads_per_kv_, RowRun::max_heads);
    const Index parts = (heads_per_kv_ + together - 1) / together, n_groups = n_calls / heads_per_kv_ * parts;
    Scratch measure;
    RowRun(measure, d_, d_v_, isa_);
    std::byte* memory = frame_.template take<std::byte>(measure.used() * static_cast<std::size_t>(threads_));
    SoftmaxState<T>* states = take_states(n_calls * n_chunks, 1);
    parallel_tasks(n_groups * n_chunks, threads_, [&](int thread) {
      Scratch scratch(memory + measure.used() * static_cast<std::size_t>(thread));
      return [this, rows = RowRun(scratch, d_, d_v_, isa_), n_chunks, n_k, together, parts,
              states](Index task) mutable {
        const Index group = task / n_chunks, chunk = task % n_chunks;
        const Index first = group / parts * heads_per_kv_ + group % parts * together;
        const Index n = std::min(together, group / parts * heads_per_kv_ + heads_per_kv_ - first);
        SoftmaxState<T> mine[RowRun::max_heads];
        for (Index h = 0; h < n; ++h) mine[h] = states[(first + h) * n_chunks + chunk];
        rows.run(calls_.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), chunk * row_chunk,
                 std::min(n_k, (chunk + 1) * row_chunk), bounds_, options_, mod_, {mine, static_cast<std::size_t>(n)});
        for (Index h = 0; h < n; ++h) states[(first + h) * n_chunks + chunk] = mine[h];
      };
    });
    for (Index c = 0; c < n_calls; ++c)
      finish(calls_[static_cast<std::size_t>(c)], {0, 1}, states + c * n_chunks, n_chunks);
  }

  // Task: head x a few panels of queries that share tiles of keys, last panels first (the longest under a causal mask), x chunk of
  // keys where there is one panel only.
  template <class Operands>
  void run_panels() {
    const Index n_calls = static_cast<Index>(calls_.size()), n_groups = pattern_.n_groups();
    const Index width = tile_kernels<T>(isa_).lanes * tile_kernels<T>(isa_).vectors;
    Index* first_panel = frame_.template take<Index>(static_cast<std::size_t>(n_groups + 1));
    first_panel[0] = 0;
    for (Index g = 0; g < n_groups; ++g)
      first_panel[g + 1] = first_panel[g] + (pattern_.queries(g).size + width - 1) / width;
    const Index n_panels = first_panel[n_groups];
    Index most_keys = 0, only = 0;  // the group of the only panel
    while (n_panels == 1 && first_panel[only + 1] == 0) ++only;
    for (Index s = 0; n_panels == 1 && s < pattern_.n_segments(only); ++s)
      most_keys = std::max(most_keys, pattern_.keys(only, s).size);
    const Index n_chunks = chunks_of(most_keys, panel_chunk);
    SoftmaxState<T>* states = n_chunks > 1 ? take_states(n_calls * n_chunks, width) : nullptr;

    // Sharing tiles changes no result, so it may depend on threads: several tasks for each.
    const Index share = std::clamp<Index>(n_calls * n_panels / (4 * threads_), 1, max_share);
    // A task stays in one group, so that the group's tiles are made as few times as can be.
    Index* first_task = frame_.template take<Index>(static_cast<std::size_t>(n_groups + 1));
    first_task[0] = 0;
    for (Index g = 0; g < n_groups; ++g)
      first_task[g + 1] = first_task[g] + (first_panel[g + 1] - first_panel[g] + share - 1) / share;
    const Index n_tasks = first_task[n_groups];
    Scratch measure;
    Worker<Operands>(measure, share, width, d_, d_v_, isa_);
    std::byte* memory = frame_.template take<std::byte>(measure.used() * static_cast<std::size_t>(threads_));
    parallel_tasks(n_calls * n_tasks * n_chunks, threads_, [&](int thread) {
      Scratch scratch(memory + measure.used() * static_cast<std::size_t>(thread));
      return [=, this, worker = Worker<Operands>(scratch, share, width, d_, d_v_, isa_)](Index task) mutable {
        const Index chunk = task % n_chunks, c = task / n_chunks / n_tasks;
        const Index t = n_tasks - 1 - task / n_chunks % n_tasks;
        const Index group = std::upper_bound(first_task, first_task + n_groups + 1, t) - first_task - 1;
        const Index last = first_panel[group + 1] - first_panel[group] - (first_task[group + 1] - 1 - t) * share;
        const Index first = std::max<Index>(0, last - share);
        visit(worker, calls_[static_cast<std::size_t>(c)], group, first, last - first, width, chunk, n_chunks,
              n_chunks > 1 ? &states[c * n_chunks + chunk] : nullptr);
      };
    });
    for (Index c = 0; n_chunks > 1 && c < n_calls; ++c) {
      finish(calls_[static_cast<std::size_t>(c)], pattern_.queries(only), states + c * n_chunks, n_chunks);
    }
  }

  // What one thread owns: a tile of keys and the panels that visit it.
  template <class Operands>
  struct Worker {
    Worker(Scratch& scratch, Index share, Index width, Index d, Index d_v, Isa isa)
        : tile(scratch, d, d_v, isa), shared(scratch, width) {
      for (Index p = 0; p < share; ++p) panels[static_cast<std::size_t>(p)].emplace(scratch, shared, d, d_v, isa);
    }
    typename Operands::Tile tile;
    PanelScratch<T> shared;
    std::array<std::optional<Panel<Operands, Call, ScoreMod>>, max_share> panels;
  };

  // Panels first .. first + n - 1 of one group, over one chunk of keys (`partial` takes its sums) or all of them.
  template <class Operands>
  void visit(Worker<Operands>& worker, const Call& call, Index group, Index first, Index n, Index width, Index chunk,
             Index n_chunks, SoftmaxState<T>* partial) {
    const TokenSet all = pattern_.queries(group);
    Index low = call.k.rows, high = 0;
    for (Index p = 0; p < n; ++p) {
      auto& panel = *worker.panels[static_cast<std::size_t>(p)];
      const Index from = (first + p) * width;
      panel.begin(call, all.part(from, std::min(width, all.size - from)), bounds_, options_, mod_);
      low = std::min(low, panel.low());
      high = std::max(high, panel.high());
    }
    for (Index s = 0; s < pattern_.n_segments(group); ++s) {
      const TokenSet keys = pattern_.keys(group, s);
      const Index begin = chunk * panel_chunk,
                  end = n_chunks > 1 ? std::min(keys.size, begin + panel_chunk) : keys.size;
      for (Index at = begin; at < end; at += KeyTile<T, T>::capacity) {
        TokenSet tile_keys = keys.part(at, std::min(KeyTile<T, T>::capacity, end - at));
        if (tile_keys[tile_keys.size - 1] < low || tile_keys[0] >= high) continue;
        if (tile_keys.list != nullptr)  // keys that nobody sees are not worth gathering
          tile_keys.size = std::lower_bound(tile_keys.list, tile_keys.list + tile_keys.size, high) - tile_keys.list;
        worker.tile.load(call.k, call.v, tile_keys, n > 1);
        for (Index p = 0; p < n; ++p) worker.panels[static_cast<std::size_t>(p)]->add_keys(worker.tile, tile_keys);
      }
    }
    for (Index p = 0; p < n; ++p) {
      const auto& panel = *worker.panels[static_cast<std::size_t>(p)];
      if (partial != nullptr) {
        partial->copy(panel.state());
      } else {
        write_out(call, panel.queries(), panel.state(), options_.sinks, isa_);
      }
    }
  }

  SoftmaxState<T>* take_states(Index count, Index width) {
    SoftmaxState<T>* states = frame_.template take<SoftmaxState<T>>(static_cast<std::size_t>(count));
    Scratch measure;
    SoftmaxState<T>(measure, width, d_v_);
    std::byte* memory = frame_.template take<std::byte>(measure.used() * static_cast<std::size_t>(count));
    for (Index s = 0; s < count; ++s) {
      Scratch scratch(memory + measure.used() * static_cast<std::size_t>(s));
      new (states + s) SoftmaxState<T>(scratch, width, d_v_);
    }
    return states;
  }

  // Merges the chunks of one head in order.
  void finish(const Call& call, const TokenSet& queries, SoftmaxState<T>* states, Index n_chunks) {
    for (Index chunk = 1; chunk < n_chunks; ++chunk) states[0].merge(states[chunk]);
    write_out(call, queries, states[0], options_.sinks, isa_);
  }

  const Pattern& pattern_;
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

/// Pairs in the tiles of a pattern, whatever masks say.
template <KeyPattern Pattern>
double tile_pairs(const Pattern& pattern) {
  double pairs = 0;
  for (Index g = 0; g < pattern.n_groups(); ++g) {
    Index n_keys = 0;
    for (Index s = 0; s < pattern.n_segments(g); ++s) n_keys += pattern.keys(g, s).size;
    pairs += static_cast<double>(pattern.queries(g).size) * static_cast<double>(n_keys);
  }
  return pairs;
}

/// Runs the engine on checked calls and counts its work. `rule` is for counting: which pairs `mod` leaves.
template <class Call, KeyPattern Pattern, class ScoreMod, class Rule = EveryPair>
void run_engine(const Pattern& pattern, std::span<const Call> calls, Index heads_per_kv,
                const AttentionOptions& options, const ScoreMod& mod, const Context& context, const Rule& rule = {}) {
  if (calls.empty()) return;
  std::optional<Workspace> own;
  Workspace& workspace = context.workspace != nullptr ? *context.workspace : own.emplace();
  const Call& one = calls.front();
  // A thread is worth waking for about ten microseconds of arithmetic: small calls run on fewer than they may.
  constexpr double least_work = 5e5;
  const double work =
      static_cast<double>(calls.size()) * tile_pairs(pattern) * static_cast<double>(one.k.cols + one.v.cols);
  const int threads =
      static_cast<int>(std::clamp(work / least_work, 1.0, static_cast<double>(thread_count(context.threads))));
  Engine<Call, Pattern, ScoreMod>(pattern, calls, heads_per_kv, options, mod, workspace, threads).run();
  if (context.flops != nullptr) {
    count_attention(*context.flops, pattern, options.mask, one.q.rows, one.k.rows, one.k.cols, one.v.cols, one.head,
                    static_cast<Index>(calls.size()), rule);
  }
}

}  // namespace heed::detail
