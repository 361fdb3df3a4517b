#include "heed/trees/leaf_pattern.hpp"

#include <gtest/gtest.h>

#include "heed/approx/tf_attention.hpp"
#include "heed/exact/attend_over.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

TEST(LeafPattern, HoldsThePairsOfItsDefinition) {
  const auto in = random_inputs<float>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  const OptionStore store(65, 113);
  for (const Index height : {0, 1, 3, 6}) {
    const DecisionTree<float> tree = random_tree<float>(height, 9);
    for (const OptionKind& kind : option_kinds(store)) {
      SCOPED_TRACE(kind.name);
      const Mask mask = options_of(store, kind).mask;
      const PairMatrix want = pairs_of_tree(tree, in, {.mask = mask});
      const LeafPattern pattern(tree, in.q, in.k, mask);
      PairMatrix got = PairMatrix::Constant(65, 113, false);
      std::vector<int> stands(65, 0);
      for (Index g = 0; g < pattern.n_groups(); ++g) {
        for (Index t = 0; t < pattern.queries(g).size; ++t) {
          const Index i = pattern.queries(g)[t];
          ++stands[static_cast<std::size_t>(i)];
          for (Index s = 0; s < pattern.n_segments(g); ++s) {
            const TokenSet keys = pattern.keys(g, s);
            for (Index u = 0; u < keys.size; ++u) {
              EXPECT_FALSE(got(i, keys[u]));
              EXPECT_TRUE(u == 0 || keys[u - 1] < keys[u]);
              got(i, keys[u]) = true;
            }
          }
        }
      }
      for (Index i = 0; i < 65; ++i) {
        EXPECT_EQ(stands[static_cast<std::size_t>(i)], 1);
        for (Index j = 0; j < 113; ++j) {
          const bool kept = heed::detail::reference_pair(mask, i, j, 65, 113, 0).kept;
          EXPECT_EQ(got(i, j) && kept, want(i, j) && kept) << i << ", " << j;
          EXPECT_EQ(pattern.sees(i, j), got(i, j)) << i << ", " << j;
        }
      }
    }
  }
}

TEST(LeafPattern, GivesTfAttentionThroughAttendOver) {
  const auto in = random_inputs<float>({.n_q = 65, .n_k = 113, .d = 9, .d_v = 7});
  const DecisionTree<float> tree = random_tree<float>(3, 9);
  const AttentionOptions options{.mask = {.causal = Causal::top_left}};
  const auto want = attend(in.q, in.k, in.v, options, TfAttention<float>{tree});
  const LeafPattern pattern(tree, in.q, in.k, options.mask);
  EXPECT_GT(pattern.n_fallen(), 0);
  const auto got = attend_over(pattern, in.q, in.k, in.v, options);
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
  EXPECT_THROW(LeafPattern(tree, in.q.leftCols(8), in.k.leftCols(8)), ShapeError);
}

}  // namespace
}  // namespace heed::test
