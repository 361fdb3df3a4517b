#include "heed/core/pair_view.hpp"

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "support/inputs.hpp"

namespace heed {
namespace {

TEST(PairView, IsNotGivenByDefault) {
  EXPECT_FALSE(BoolView().given());
  EXPECT_FALSE(BiasView().given());
}

TEST(PairView, OfAnEmptyMatrixIsGiven) {
  const Eigen::MatrixXf no_keys(3, 0);
  const BiasView view = no_keys;
  EXPECT_TRUE(view.given());
  EXPECT_EQ(view.rows(), 3);
  EXPECT_EQ(view.cols(), 0);
}

template <class S>
void expect_bias_view_reads() {
  const Matrix<S> m = test::random_matrix<S>(6, 9, 3);
  const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> by_columns = m;
  const BiasView rows = m, columns = by_columns, block = m.block(1, 2, 3, 4), transposed = by_columns.transpose();
  for (Index i = 0; i < 6; ++i) {
    for (Index j = 0; j < 9; ++j) {
      const double want = static_cast<double>(m(i, j));
      EXPECT_EQ(rows.at(i, j), want);
      EXPECT_EQ(columns.at(i, j), want);
      EXPECT_EQ(transposed.at(j, i), want);
    }
  }
  EXPECT_EQ(block.at(2, 3), static_cast<double>(m(3, 5)));
  EXPECT_EQ(block.rows(), 3);
  EXPECT_EQ(block.cols(), 4);
}

TEST(PairView, ReadsABiasOfAnyScalarAndStorage) {
  expect_bias_view_reads<float>();
  expect_bias_view_reads<double>();
  expect_bias_view_reads<Eigen::half>();
  expect_bias_view_reads<Eigen::bfloat16>();
}

TEST(PairView, ReadsBooleansAsZeroAndOne) {
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> allowed(2, 3);
  allowed << true, false, true, false, false, true;
  const BoolView view = allowed;
  EXPECT_EQ(view.at(0, 0), 1.0);
  EXPECT_EQ(view.at(0, 1), 0.0);
  EXPECT_EQ(view.at(1, 2), 1.0);
}

}  // namespace
}  // namespace heed
