#include "heed/core/heads.hpp"

#include <string>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "support/inputs.hpp"

namespace heed {
namespace {

TEST(SplitHeads, GivesEachHeadItsColumnsInPlace) {
  const Matrix<float> packed = test::random_matrix<float>(5, 12, 1);
  const auto heads = split_heads(packed, 3);
  ASSERT_EQ(heads.size(), 3u);
  for (Index h = 0; h < 3; ++h) {
    const auto& head = heads[static_cast<std::size_t>(h)];
    ASSERT_EQ(head.rows(), 5);
    ASSERT_EQ(head.cols(), 4);
    for (Index i = 0; i < 5; ++i) {
      for (Index c = 0; c < 4; ++c) EXPECT_EQ(&head.coeffRef(i, c), &packed(i, h * 4 + c));
    }
  }
}

TEST(SplitHeads, WorksInEveryStorage) {
  const Eigen::MatrixXd by_columns = test::random_matrix<double>(8, 9, 2);
  EXPECT_EQ(&split_heads(by_columns, 3)[1].coeffRef(4, 2), &by_columns(4, 5));
  EXPECT_EQ(&split_heads(by_columns.block(1, 2, 5, 6), 2)[1].coeffRef(3, 1), &by_columns(4, 6));
  EXPECT_EQ(&split_heads(by_columns.transpose(), 4)[3].coeffRef(8, 1), &by_columns(7, 8))
      << "KataGo's layout: features by tokens";
  const Eigen::Map<const Eigen::MatrixXd, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> spread(by_columns.data(), 2,
                                                                                                   4, {8, 3});
  EXPECT_EQ(&split_heads(spread, 2)[1].coeffRef(1, 1), by_columns.data() + 3 * 8 + 1 * 3);
}

TEST(SplitHeads, OfAWritableMatrixWritesThrough) {
  Matrix<float> packed = Matrix<float>::Zero(5, 12);
  split_heads(packed, 3)[1].setConstant(2.0f);
  EXPECT_EQ(packed.leftCols(4).norm(), 0.0f);
  EXPECT_TRUE((packed.middleCols(4, 4).array() == 2.0f).all());
  EXPECT_EQ(packed.rightCols(4).norm(), 0.0f);
}

TEST(SplitHeads, ViewsAreTokenMatrices) {
  static_assert(TokenMatrix<HeadMap<float>>);
  static_assert(TokenMatrix<HeadMap<const float>>);
  const Matrix<float> no_tokens(0, 12);
  EXPECT_EQ(split_heads(no_tokens, 3)[2].rows(), 0);
}

TEST(SplitHeads, RefusesWhatDoesNotDivide) {
  const Matrix<float> packed = Matrix<float>::Zero(5, 12);
  const auto said = [&](Index n_heads) {
    try {
      split_heads(packed, n_heads);
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_NE(said(5).find("cols(packed) = 12"), std::string::npos) << said(5);
  EXPECT_NE(said(5).find("n_heads = 5"), std::string::npos) << said(5);
  EXPECT_NE(said(0).find("n_heads = 0"), std::string::npos) << said(0);
  EXPECT_THROW(split_heads(packed, 5), ShapeError);
  EXPECT_THROW(split_heads(packed, 0), OptionError);
  EXPECT_THROW(split_heads(packed, -3), OptionError);
}

}  // namespace
}  // namespace heed
