#include "heed/core/pattern.hpp"

#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(TokenSet, IsARangeOrAListAndSoAreItsParts) {
  const TokenSet range{10, 5};
  EXPECT_EQ(range[0], 10);
  EXPECT_EQ(range[4], 14);
  EXPECT_EQ(range.part(2, 3)[0], 12);
  EXPECT_EQ(range.part(2, 3).size, 3);
  const Index tokens[] = {1, 4, 9, 16};
  const TokenSet list{0, 4, tokens};
  EXPECT_EQ(list[3], 16);
  EXPECT_EQ(list.part(1, 2)[0], 4);
  EXPECT_EQ(list.part(1, 2)[1], 9);
  EXPECT_EQ(list.part(4, 0).size, 0);
}

TEST(DensePattern, IsOneGroupThatSeesEverything) {
  const DensePattern pattern{3, 7};
  ASSERT_EQ(pattern.n_groups(), 1);
  EXPECT_EQ(pattern.queries(0).size, 3);
  ASSERT_EQ(pattern.n_segments(0), 1);
  EXPECT_EQ(pattern.keys(0, 0).size, 7);
  EXPECT_EQ(pattern.keys(0, 0)[6], 6);
}

}  // namespace
}  // namespace heed
