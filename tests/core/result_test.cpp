#include "heed/core/result.hpp"

#include <span>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(LseSpan, IsNotWantedByDefault) {
  EXPECT_FALSE(LseSpan<float>().wanted());
  EXPECT_FALSE(LseSpan<float>(nullptr).wanted());
  std::vector<float> empty_with_memory;
  empty_with_memory.reserve(8);
  Vector<float> numbers(6);
  EXPECT_FALSE(LseSpan<float>(empty_with_memory).wanted());
  EXPECT_EQ(LseSpan<float>(empty_with_memory).data(), nullptr);
  EXPECT_FALSE(LseSpan<float>(numbers.head(0)).wanted());
}

TEST(LseSpan, SeesSpansVectorsAndEigenVectorsInPlace) {
  std::vector<float> numbers(6);
  Eigen::VectorXf vector(6);
  Vector<float> ours(6);
  Matrix<float> matrix(6, 4);
  EXPECT_EQ(LseSpan<float>(numbers).data(), numbers.data());
  EXPECT_EQ(LseSpan<float>(std::span<float>(numbers)).size(), 6);
  EXPECT_EQ(LseSpan<float>(vector).data(), vector.data());
  EXPECT_EQ(LseSpan<float>(ours).size(), 6);
  const LseSpan<float> column(matrix.col(2));
  EXPECT_EQ(column.data(), matrix.data() + 2);
  EXPECT_EQ(column.size(), 6);
  EXPECT_EQ(column.stride(), 4);
  const LseSpan<float> row(matrix.row(2));
  EXPECT_EQ(row.size(), 4);
  EXPECT_EQ(row.stride(), 1);
}

}  // namespace
}  // namespace heed
