#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/detail/bf16_gradient.hpp"
#include "heed/engine/detail/bf16_operands.hpp"
#include "heed/engine/detail/gradient_panel.hpp"
#include "heed/engine/detail/gradient_schedule.hpp"
#include "heed/engine/detail/tiling.hpp"
#include "heed/engine/detail/widened_gradient.hpp"
#include "heed/engine/detail/widened_operands.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// The streaming engine backwards: adds to the gradients of some heads what the pairs of one part give. Work is cut
/// into cells (see GradientSchedule); a task is a cell of the heads that share keys.
template <class Call, class ScoreMod>
class GradientEngine {
 public:
  using T = typename Call::Sum;

  GradientEngine(const PairsPart& part, std::span<const Call> calls, Index heads_per_kv,
                 const AttentionOptions& options, const ScoreMod& mod, Workspace& workspace, int threads)
      : part_(part),
        calls_(calls),
        heads_per_kv_(heads_per_kv),
        options_(options),
        mod_(mod),
        workspace_(workspace),
        threads_(threads),
        isa_(active_isa()),
        bounds_(options.mask, calls.front().q.rows, calls.front().k.rows),
        scale_(static_cast<T>(
            options.scale.value_or(1.0 / std::sqrt(static_cast<double>(std::max<Index>(1, calls.front().k.cols)))))) {}

  void run() {
    if constexpr (Bf16Operands<Call>::serves) {
      if (bf16_kernels(isa_) != nullptr) return run_cells<Bf16Operands<Call>, Bf16Gradient<Call>>();
    }
    run_cells<WidenedOperands<Call>, WidenedGradient<Call>>();
  }

 private:
  static constexpr Index share = 6;  ///< panels that visit a tile: what they hold stays in the second level cache

  // What one thread owns.
  template <class Operands, class Products>
  struct Worker {
    using Panel = GradientPanel<Operands, Products, Call, ScoreMod>;

    Worker(Scratch& scratch, Index keys, Index d, Index d_v, const AttentionOptions& options, Isa isa)
        : tile(scratch, keys, d, d_v, isa),
          room(scratch, keys, d, tile_kernels<T>(isa).vectors, tile_kernels<T>(isa).lanes, options.softcap.has_value(),
               !std::is_same_v<ScoreMod, NoScoreMod>),
          panels(scratch.make(share, [&](Scratch& own) { return Panel(own, room, d, d_v, isa); })) {}

    typename Products::Tile tile;
    GradientRoom<Products> room;
    Panel* panels;
  };

  template <class Operands, class Products>
  void run_cells() {
    using OneWorker = Worker<Operands, Products>;
    const Call& one = calls_.front();
    const TileKernels<T>& kernels = tile_kernels<T>(isa_);
    const Index width = kernels.lanes * kernels.vectors, tile = tile_size(part_.tiles);
    Workspace::Frame frame(workspace_);
    const GradientSchedule schedule(part_.tiles, one.q.rows, one.k.rows, width, largest_tile, workspace_, frame);
    // A bias that heads share gathers what all of them give: then they take turns in one task.
    const Index n_calls = static_cast<Index>(calls_.size());
    const bool in_turn = one.d_bias.data != nullptr && !options_.mask.bias.by_head(one.q.rows);
    const Index together = in_turn ? n_calls : heads_per_kv_, n_sets = n_calls / together;
    for (Index wave = 0; wave < schedule.n_waves; ++wave) {
      Workspace::Frame inside(workspace_);
      for_each_task(
          n_sets * schedule.n_cells_of(wave), threads_, inside,
          [&](Scratch& scratch) { return OneWorker(scratch, tile, one.k.cols, one.v.cols, options_, isa_); },
          [&](OneWorker& worker, Index task) {
            const GradientCell& cell = schedule.cell(wave, task / n_sets);
            for (Index h = 0; h < together; ++h)
              visit(worker, cell, calls_[static_cast<std::size_t>(task % n_sets * together + h)], width);
          });
    }
  }

  static TokenSet within(const TokenSet& tokens, Index low, Index high) {
    const Index from = tokens_below(tokens, low);
    return tokens.part(from, tokens_below(tokens, high) - from);
  }

  template <class AnyWorker>
  void visit(AnyWorker& worker, const GradientCell& cell, const Call& call, Index width) {
    for (Index g = cell.first_group; g < cell.end_group; ++g) {
      const TokenSet queries = within(part_.tiles.queries(g), cell.q_low, cell.q_high);
      for (Index at = 0; at < queries.size; at += share * width)
        visit_panels(worker, cell, g, call, queries.part(at, std::min(share * width, queries.size - at)), width);
    }
  }

  template <class AnyWorker>
  void visit_panels(AnyWorker& worker, const GradientCell& cell, Index group, const Call& call, const TokenSet& queries,
                    Index width) {
    // Ranges of consecutive queries do not decrease.
    const Index low = std::max(cell.k_low, bounds_.of(queries[0]).low),
                high = std::min(cell.k_high, bounds_.of(queries[queries.size - 1]).high);
    bool begun = false;
    const Index n = (queries.size + width - 1) / width;
    for (Index s = 0; s < part_.tiles.n_segments(group); ++s) {
      const TokenSet keys = within(part_.tiles.keys(group, s), low, high);
      for (Index at = 0; at < keys.size; at += largest_tile) {
        if (!begun) {
          for (Index p = 0; p < n; ++p)
            worker.panels[p].begin(call, queries.part(p * width, std::min(width, queries.size - p * width)), bounds_,
                                   options_, part_.rule, mod_);
        }
        begun = true;
        const TokenSet tile = keys.part(at, std::min(largest_tile, keys.size - at));
        worker.tile.load(call, tile, share);
        for (Index p = 0; p < n; ++p) {
          if (worker.panels[p].low() <= tile[tile.size - 1] && worker.panels[p].high() > tile[0])
            worker.panels[p].add_keys(worker.tile);
        }
        worker.tile.sums.add_to(call, scale_);
      }
    }
    for (Index p = 0; begun && p < n; ++p) worker.panels[p].add_to_queries(scale_);
  }

  const PairsPart& part_;
  std::span<const Call> calls_;
  Index heads_per_kv_;
  const AttentionOptions& options_;
  const ScoreMod& mod_;
  Workspace& workspace_;
  int threads_;
  Isa isa_;
  KeyBounds bounds_;
  T scale_;
};

}  // namespace heed::detail
