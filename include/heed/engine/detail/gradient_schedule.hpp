#pragma once
#include <algorithm>
#include <limits>

#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Some pairs of a backward pass: those of groups [first_group, end_group) whose queries and keys lie in ranges of
/// positions.
struct GradientCell {
  Index wave = 0;  ///< cells of one wave share neither queries nor keys
  Index first_group = 0, end_group = 0;
  Index q_low = 0, q_high = 0, k_low = 0, k_high = 0;
};

/// Cuts the pairs of a pattern into cells and these into waves, so that threads may share one head and yet every sum is
/// made in one order: cells of a wave touch different queries and different keys, and waves come one after the other.
/// Shapes alone decide.
///
/// Ranges of tokens: queries and keys are cut into as many blocks, and wave s has block a of queries with block a + s
/// of keys, around. Lists of tokens: a cell is a group; a group that shares a key with an earlier one comes in a later
/// wave.
class GradientSchedule {
 public:
  Index n_cells = 0, n_waves = 0;

  /// `width`: queries of a panel; `tile`: keys of a tile.
  GradientSchedule(const TileList& tiles, Index n_q, Index n_k, Index width, Index tile, Workspace& workspace,
                   Workspace::Frame& frame) {
    if (has_lists(tiles)) {
      cut_groups(tiles, n_k, workspace, frame);
    } else {
      cut_ranges(tiles.n_groups(), n_q, n_k, width, tile, frame);
    }
    sort_by_wave(frame);
  }

  Index n_cells_of(Index wave) const { return first_of_wave_[wave + 1] - first_of_wave_[wave]; }
  const GradientCell& cell(Index wave, Index number) const { return cells_[first_of_wave_[wave] + number]; }

 private:
  static constexpr Index most_blocks = 16;
  static constexpr Index least_block = 512;  ///< queries or keys of a block, about

  static bool has_lists(const TileList& tiles) {
    for (Index g = 0; g < tiles.n_groups(); ++g) {
      if (tiles.queries(g).list != nullptr) return true;
      for (Index s = 0; s < tiles.n_segments(g); ++s) {
        if (tiles.keys(g, s).list != nullptr) return true;
      }
    }
    return false;
  }

  void cut_ranges(Index n_groups, Index n_q, Index n_k, Index width, Index tile, Workspace::Frame& frame) {
    const Index n_blocks = std::clamp<Index>(std::min(n_q, n_k) / least_block, 1, most_blocks);
    const auto size = [n_blocks](Index n, Index unit) { return (n + n_blocks * unit - 1) / (n_blocks * unit) * unit; };
    const Index queries = size(n_q, width), keys = size(n_k, tile);
    cells_ = frame.take<GradientCell>(n_blocks * n_blocks);
    for (Index step = 0; step < n_blocks; ++step) {
      for (Index a = 0; a < n_blocks; ++a) {
        const Index b = (a + step) % n_blocks;
        const GradientCell cell{step,
                                0,
                                n_groups,
                                std::min(n_q, a * queries),
                                std::min(n_q, (a + 1) * queries),
                                std::min(n_k, b * keys),
                                std::min(n_k, (b + 1) * keys)};
        if (cell.q_low < cell.q_high && cell.k_low < cell.k_high) cells_[n_cells++] = cell;
      }
    }
    n_waves = n_blocks;
  }

  void cut_groups(const TileList& tiles, Index n_k, Workspace& workspace, Workspace::Frame& frame) {
    cells_ = frame.take<GradientCell>(tiles.n_groups());
    Workspace::Frame inside(workspace);
    Index* waves_of_key = inside.take<Index>(n_k);
    std::fill_n(waves_of_key, n_k, Index(0));
    for (Index g = 0; g < tiles.n_groups(); ++g) {
      Index wave = 0;
      const auto visit_keys = [&](const auto& visit) {
        for (Index s = 0; s < tiles.n_segments(g); ++s) {
          const TokenSet keys = tiles.keys(g, s);
          for (Index t = 0; t < keys.size; ++t) visit(waves_of_key[keys[t]]);
        }
      };
      visit_keys([&](Index& waves) { wave = std::max(wave, waves); });
      visit_keys([&](Index& waves) { waves = wave + 1; });
      if (tiles.queries(g).size == 0) continue;
      constexpr Index all = std::numeric_limits<Index>::max();
      cells_[n_cells++] = {wave, g, g + 1, 0, all, 0, all};
      n_waves = std::max(n_waves, wave + 1);
    }
  }

  // A counting sort: within a wave cells keep their order.
  void sort_by_wave(Workspace::Frame& frame) {
    GradientCell* sorted = frame.take<GradientCell>(n_cells);
    first_of_wave_ = frame.take<Index>(n_waves + 2);
    std::fill_n(first_of_wave_, n_waves + 2, Index(0));
    for (Index c = 0; c < n_cells; ++c) ++first_of_wave_[cells_[c].wave + 2];
    for (Index wave = 2; wave <= n_waves + 1; ++wave) first_of_wave_[wave] += first_of_wave_[wave - 1];
    for (Index c = 0; c < n_cells; ++c) sorted[first_of_wave_[cells_[c].wave + 1]++] = cells_[c];
    cells_ = sorted;
  }

  GradientCell* cells_ = nullptr;
  Index* first_of_wave_ = nullptr;
};

}  // namespace heed::detail
