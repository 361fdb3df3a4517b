#include "heed/core/per_head.hpp"

#include <array>
#include <span>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(PerHead, IsNotGivenByDefaultNorByAnEmptyList) {
  EXPECT_FALSE(PerHead().given());
  const std::vector<float> nothing;
  EXPECT_FALSE(PerHead(nothing).given());
}

TEST(PerHead, OneNumberServesEveryHead) {
  const PerHead slope = 0.5;
  EXPECT_TRUE(slope.given());
  EXPECT_EQ(slope.size(), PerHead::every_head);
  EXPECT_EQ(slope.of(0), 0.5);
  EXPECT_EQ(slope.of(17), 0.5);
  EXPECT_TRUE(PerHead(0).given()) << "zero is a value";
}

TEST(PerHead, AListNamesEachHead) {
  const std::vector<float> floats{1.0f, 2.0f, 3.0f};
  const std::vector<double> doubles{1.5, 2.5};
  const Eigen::VectorXf of_eigen = Eigen::Vector3f(4.0f, 5.0f, 6.0f);
  EXPECT_EQ(PerHead(floats).size(), 3);
  EXPECT_EQ(PerHead(floats).of(2), 3.0);
  EXPECT_EQ(PerHead(doubles).size(), 2);
  EXPECT_EQ(PerHead(doubles).of(1), 2.5);
  EXPECT_EQ(PerHead(of_eigen).of(1), 5.0);
}

TEST(PerHead, AListMayBeAnArrayASpanOrAnyVectorOfEigen) {
  const std::array<float, 2> array{1.0f, 2.0f};
  const double plain[] = {1.5, 2.5};
  const Eigen::Vector3d fixed(4.0, 5.0, 6.0);
  Eigen::Matrix<float, 2, 3, Eigen::RowMajor> matrix;
  matrix << 1, 2, 3, 4, 5, 6;
  EXPECT_EQ(PerHead(array).of(1), 2.0);
  EXPECT_EQ(PerHead(plain).of(1), 2.5);
  EXPECT_EQ(PerHead(std::span<const double>(plain).last(1)).of(0), 2.5);
  EXPECT_EQ(PerHead(fixed).of(2), 6.0);
  EXPECT_EQ(PerHead(matrix.row(1)).of(2), 6.0);
  EXPECT_EQ(PerHead(matrix.col(1)).of(1), 5.0) << "with a stride";
  EXPECT_EQ(PerHead(matrix.col(1)).size(), 2);
  EXPECT_EQ(PerHead(fixed.head(2)).size(), 2);
}

TEST(PerHead, SeesLaterChangesOfTheList) {
  std::vector<double> slopes{1.0, 2.0};
  const PerHead view = slopes;
  slopes[1] = 7.0;
  EXPECT_EQ(view.of(1), 7.0);
}

}  // namespace
}  // namespace heed
