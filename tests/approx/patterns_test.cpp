#include <set>
#include <vector>

#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/exact/attend_over.hpp"
#include "support/conformance.hpp"
#include "support/places.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

constexpr auto window = [](const auto&) { return WindowAttention(12, 4); };
constexpr auto whole_window = [](const auto&) { return WindowAttention(100000, 100000); };
constexpr auto in_window = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_where(in.q.rows(), in.k.rows(), options.mask,
                     [](const Place& p) { return p.key >= p.diagonal - 12 && p.key <= p.diagonal + 4; });
};
INSTANTIATE_METHOD_SUITE(WindowAttention,
                         {.make = window, .exact_when = whole_window, .keeps = in_window, .positional = true});

constexpr BigBirdOptions no_chance{.block = 8, .n_near = 1, .n_global = 2, .n_random = 0};
constexpr auto bigbird = [](const auto&) { return BigBirdAttention(no_chance); };
constexpr auto all_blocks = [](const auto&) { return BigBirdAttention({.block = 8, .n_random = 100000}); };
constexpr auto near_or_global = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_where(in.q.rows(), in.k.rows(), options.mask, [](const Place& p) {
    const Index mine = p.diagonal >= 0 ? p.diagonal / 8 : -((7 - p.diagonal) / 8), block = p.key / 8;
    return mine < 2 || block < 2 || std::abs(mine - block) <= 1;
  });
};
INSTANTIATE_METHOD_SUITE(BigBirdAttention,
                         {.make = bigbird, .exact_when = all_blocks, .keeps = near_or_global, .positional = true});

TEST(BigBirdAttention, DrawsItsBlocksAnewForEachSeedAndBlockAndNeverTwice) {
  std::set<std::vector<Index>> choices;
  const Mask mask;
  Workspace workspace;
  for (const std::uint64_t seed : {1, 2}) {
    Workspace::Frame frame(workspace);
    const auto tiles = heed::detail::bigbird_tiles({.block = 4, .n_random = 5, .seed = seed}, mask, 400, 400, frame);
    EXPECT_EQ(tiles.n_groups(), 100);
    for (Index g = 0; g < 100; ++g) {
      std::vector<Index> blocks;
      for (Index s = 0; s < tiles.n_segments(g); ++s) {
        const TokenSet keys = tiles.keys(g, s);
        for (Index b = keys.first / 4; b < (keys.first + keys.size) / 4; ++b) blocks.push_back(b);
      }
      EXPECT_TRUE(std::set<Index>(blocks.begin(), blocks.end()).size() == blocks.size());
      if (g >= 4 && g < 99) {
        EXPECT_EQ(blocks.size(), 2u + 3u + 5u) << "block " << g;
      }
      if (g < 2) {
        EXPECT_EQ(blocks.size(), 100u);
      }
      choices.insert(blocks);
    }
  }
  EXPECT_GT(choices.size(), 190u);
}

TEST(BigBirdAttention, DrawsFromThePastWhereItIsCausal) {
  Mask mask;
  mask.causal = Causal::square;
  Workspace workspace;
  Workspace::Frame frame(workspace);
  const auto tiles = heed::detail::bigbird_tiles({.block = 4, .n_random = 5}, mask, 400, 400, frame);
  for (Index g = 0; g < tiles.n_groups(); ++g) {
    const TokenSet last = tiles.keys(g, tiles.n_segments(g) - 1);
    EXPECT_LE(last.first + last.size, 4 * (g + 1)) << "keys after the block are masked anyway";
  }
  for (Index g = 12; g < 100; ++g) {
    Index n_keys = 0;
    for (Index s = 0; s < tiles.n_segments(g); ++s) n_keys += tiles.keys(g, s).size;
    EXPECT_EQ(n_keys, 4 * (2 + 2 + 5));
  }
}

TEST(BigBirdAttention, RefusesWhatIsNoNumberOfBlocks) {
  EXPECT_THROW(BigBirdAttention({.block = 0}), OptionError);
  EXPECT_THROW(BigBirdAttention({.n_near = -1}), OptionError);
  EXPECT_THROW(BigBirdAttention({.n_global = -1}), OptionError);
  EXPECT_THROW(BigBirdAttention({.n_random = -1}), OptionError);
  EXPECT_THROW(WindowAttention(-1), OptionError);
  EXPECT_THROW(WindowAttention(1, -1), OptionError);
}

/// Queries i with i % n_classes = c see the keys with j % (c + 2) = 0, by lists.
struct ClassPattern {
  Index n_classes;
  std::vector<std::vector<Index>> query_lists, key_lists;

  ClassPattern(Index classes, Index n_q, Index n_k) : n_classes(classes) {
    for (Index c = 0; c < classes; ++c) {
      query_lists.emplace_back();
      key_lists.emplace_back();
      for (Index i = c; i < n_q; i += classes) query_lists.back().push_back(i);
      for (Index j = 0; j < n_k; j += c + 2) key_lists.back().push_back(j);
    }
  }
  static TokenSet set_of(const std::vector<Index>& list) { return {0, static_cast<Index>(list.size()), list.data()}; }
  Index n_groups() const { return n_classes; }
  TokenSet queries(Index g) const { return set_of(query_lists[static_cast<std::size_t>(g)]); }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index g, Index) const { return set_of(key_lists[static_cast<std::size_t>(g)]); }
  static bool has(Index classes, Index i, Index j) { return j % (i % classes + 2) == 0; }
};

/// Tiles that cover more than the pattern: keys before the query that are a multiple of 5 away.
struct FifthPattern {
  static constexpr bool refines = true;
  Index n_q, n_k;
  Index n_groups() const { return 1; }
  TokenSet queries(Index) const { return {0, n_q}; }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index, Index) const { return {0, n_k}; }
  bool sees(Index i, Index j) const { return j <= i && (i - j) % 5 == 0; }
};

constexpr auto union_of_three = [](const auto&) {
  return PatternAttention{[](Index n_q, Index n_k) {
    return PatternUnion{PatternUnion{ClassPattern(3, n_q, n_k), FifthPattern{n_q, n_k}}, ClassPattern(4, n_q, n_k)};
  }};
};
constexpr auto in_one_of_three = []<class S>(const Inputs<S>& in, const AttentionOptions&) {
  PairMatrix pairs(in.q.rows(), in.k.rows());
  for (Index i = 0; i < pairs.rows(); ++i) {
    for (Index j = 0; j < pairs.cols(); ++j) {
      pairs(i, j) = ClassPattern::has(3, i, j) || (j <= i && (i - j) % 5 == 0) || ClassPattern::has(4, i, j);
    }
  }
  return pairs;
};
constexpr auto dense_twice = [](const auto&) {
  return PatternAttention{[](Index n_q, Index n_k) {
    return PatternUnion{DensePattern{n_q, n_k}, DensePattern{n_q, n_k}};
  }};
};
INSTANTIATE_METHOD_SUITE(PatternUnion, {.make = union_of_three,
                                        .exact_when = dense_twice,
                                        .keeps = in_one_of_three,
                                        .positional = true,
                                        .reuses_workspace = false});  // the patterns hold vectors

TEST(PatternUnion, RunsThroughAttendOver) {
  const auto in = random_inputs<double>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  const PatternUnion both{ClassPattern(3, 65, 113), FifthPattern{65, 113}};
  PairMatrix allowed(65, 113);
  for (Index i = 0; i < 65; ++i) {
    for (Index j = 0; j < 113; ++j) allowed(i, j) = ClassPattern::has(3, i, j) || (j <= i && (i - j) % 5 == 0);
  }
  FlopCounter flops;
  const auto got = attend_over(both, in.q, in.k, in.v, {}, {.flops = &flops});
  const auto want = reference_attention(in.q, in.k, in.v, {.mask = {.allowed = allowed}});
  EXPECT_MATRIX_NEAR(got.out, want.out, 1e-14);
  EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-14);
  EXPECT_EQ(flops.exponentials(), static_cast<double>(allowed.count()));
  EXPECT_THROW(attend_over(PatternUnion{DensePattern{65, 113}, DensePattern{65, 114}}, in.q, in.k, in.v), OptionError);
}

}  // namespace
}  // namespace heed::test
