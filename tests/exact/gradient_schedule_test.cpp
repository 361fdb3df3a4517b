#include "heed/engine/detail/gradient_schedule.hpp"

#include <array>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/workspace.hpp"

namespace heed::test::gradient_schedule {
namespace {

using heed::detail::GradientCell;
using heed::detail::GradientSchedule;
using heed::detail::TileList;

/// Every pair of `tiles` is in one cell, and cells of one wave touch neither a query nor a key in common: threads may
/// take them at once.
void expect_each_pair_once(const TileList& tiles, Index n_q, Index n_k) {
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const GradientSchedule schedule(tiles, n_q, n_k, 64, 128, workspace, frame);
  Eigen::MatrixXi pairs = Eigen::MatrixXi::Zero(n_q, n_k), want = pairs;
  for (Index wave = 0; wave < schedule.n_waves; ++wave) {
    std::vector<Index> cell_of_query(static_cast<std::size_t>(n_q), -1), cell_of_key(static_cast<std::size_t>(n_k), -1);
    const auto take = [&](std::vector<Index>& cells, Index token, Index cell, const char* what) {
      Index& owner = cells[static_cast<std::size_t>(token)];
      EXPECT_TRUE(owner == -1 || owner == cell) << what << " " << token << " is in two cells of wave " << wave;
      owner = cell;
    };
    for (Index c = 0; c < schedule.n_cells_of(wave); ++c) {
      const GradientCell& cell = schedule.cell(wave, c);
      EXPECT_EQ(cell.wave, wave);
      const auto within = [](Index token, Index low, Index high) { return token >= low && token < high; };
      for (Index g = cell.first_group; g < cell.end_group; ++g) {
        const TokenSet queries = tiles.queries(g);
        for (Index t = 0; t < queries.size; ++t) {
          if (!within(queries[t], cell.q_low, cell.q_high)) continue;
          take(cell_of_query, queries[t], c, "query");
          for (Index s = 0; s < tiles.n_segments(g); ++s) {
            const TokenSet keys = tiles.keys(g, s);
            for (Index u = 0; u < keys.size; ++u) {
              if (!within(keys[u], cell.k_low, cell.k_high)) continue;
              if (t == 0 || queries[t] == cell.q_low) take(cell_of_key, keys[u], c, "key");
              ++pairs(queries[t], keys[u]);
            }
          }
        }
      }
    }
  }
  for (Index g = 0; g < tiles.n_groups(); ++g) {
    for (Index t = 0; t < tiles.queries(g).size; ++t) {
      for (Index s = 0; s < tiles.n_segments(g); ++s) {
        for (Index u = 0; u < tiles.keys(g, s).size; ++u) ++want(tiles.queries(g)[t], tiles.keys(g, s)[u]);
      }
    }
  }
  EXPECT_EQ(pairs, want);
}

TEST(GradientSchedule, RangesHaveEachPairOnce) {
  for (const auto& [n_q, n_k] :
       {std::array<Index, 2>{1, 1}, {63, 1500}, {1500, 63}, {1023, 1025}, {1025, 1023}, {2113, 1061}}) {
    SCOPED_TRACE(testing::Message() << n_q << " x " << n_k);
    const TokenSet queries[] = {{0, n_q / 3}, {n_q / 3, n_q - n_q / 3}}, keys[] = {{0, n_k}, {0, n_k / 2}};
    const Index first_segment[] = {0, 1, 2};
    expect_each_pair_once({1, queries + 1, first_segment, keys}, n_q, n_k);
    expect_each_pair_once({2, queries, first_segment, keys}, n_q, n_k);
  }
}

TEST(GradientSchedule, ListsThatShareAKeyComeInLaterWaves) {
  // Groups 0 and 2 share key 3, groups 1 and 2 share key 7, group 3 shares none, group 4 has no queries.
  const Index keys_of[] = {0, 3, 9, 5, 7, 3, 7, 8, 1, 2, 3};
  const TokenSet queries[] = {{0, 2}, {2, 3}, {5, 1}, {6, 4}, {10, 0}};
  const TokenSet keys[] = {{0, 2, keys_of},     {0, 1, keys_of + 2}, {0, 2, keys_of + 3},
                           {0, 3, keys_of + 5}, {0, 2, keys_of + 8}, {0, 1, keys_of + 10}};
  const Index first_segment[] = {0, 2, 3, 4, 5, 6};
  expect_each_pair_once({5, queries, first_segment, keys}, 10, 10);
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const GradientSchedule schedule({5, queries, first_segment, keys}, 10, 10, 64, 128, workspace, frame);
  EXPECT_EQ(schedule.n_waves, 2);  // no more than there must be
  EXPECT_EQ(schedule.n_cells_of(0), 3);
  EXPECT_EQ(schedule.n_cells_of(1), 1);
}

}  // namespace
}  // namespace heed::test::gradient_schedule
