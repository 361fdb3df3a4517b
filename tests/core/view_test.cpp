#include "heed/core/view.hpp"

#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

namespace heed {
namespace {

template <class M>
void expect_view_sees(const M& m) {
  const auto view = view_of(m);
  ASSERT_EQ(view.rows, m.rows());
  ASSERT_EQ(view.cols, m.cols());
  for (Index i = 0; i < m.rows(); ++i) {
    for (Index j = 0; j < m.cols(); ++j) EXPECT_EQ(&view(i, j), &m.coeffRef(i, j)) << "(" << i << ", " << j << ")";
  }
}

using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using AnyStride = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;

TEST(View, SeesEveryStorageInPlace) {
  const Eigen::MatrixXf by_columns = Eigen::MatrixXf::Random(7, 5);
  const RowMatrix by_rows = RowMatrix::Random(7, 5);
  expect_view_sees(by_columns);
  expect_view_sees(by_rows);
  expect_view_sees(by_columns.block(1, 2, 4, 3));
  expect_view_sees(by_rows.block(1, 2, 4, 3));
  expect_view_sees(by_rows.middleCols(2, 2));
  expect_view_sees(by_rows.row(3));
  expect_view_sees(by_rows.col(3));
  expect_view_sees(by_columns.row(3));
  expect_view_sees(Eigen::Vector4f(1, 2, 3, 4));
}

TEST(View, SeesATransposeAsTheOtherOrder) {
  const RowMatrix m = RowMatrix::Random(7, 5);
  const auto view = view_of(m.transpose());
  EXPECT_EQ(view.rows, 5);
  EXPECT_EQ(view.cols, 7);
  EXPECT_EQ(&view(2, 6), &m(6, 2));
  EXPECT_EQ(view.row_stride, 1);
  EXPECT_EQ(view.col_stride, 5);
}

TEST(View, SeesMapsWithInnerAndOuterStrides) {
  std::vector<float> buffer(200);
  const Eigen::Map<const Eigen::MatrixXf, 0, AnyStride> by_columns(buffer.data() + 3, 4, 6, AnyStride(20, 3));
  const auto columns_view = view_of(by_columns);
  EXPECT_EQ(&columns_view(2, 5), &buffer[3 + 5 * 20 + 2 * 3]);
  const Eigen::Map<const RowMatrix, 0, AnyStride> by_rows(buffer.data() + 3, 4, 6, AnyStride(20, 3));
  const auto rows_view = view_of(by_rows);
  EXPECT_EQ(&rows_view(2, 5), &buffer[3 + 2 * 20 + 5 * 3]);
  const Eigen::Map<const RowMatrix, 0, Eigen::OuterStride<>> outer(buffer.data(), 4, 6, Eigen::OuterStride<>(11));
  EXPECT_EQ(&view_of(outer)(3, 1), &buffer[34]);
}

TEST(View, OfAViewIsTheSameView) {
  const Eigen::MatrixXf m = Eigen::MatrixXf::Random(7, 5);
  const ConstView<float> once = view_of(m);
  const ConstView<float> twice = view_of(once);
  EXPECT_EQ(&twice(6, 4), &m(6, 4));
}

TEST(View, OfAnOutputWritesThrough) {
  Eigen::MatrixXf m = Eigen::MatrixXf::Zero(7, 5);
  output_view_of(m)(2, 3) = 1.0f;
  output_view_of(m.block(1, 1, 3, 3))(0, 0) = 2.0f;
  output_view_of(m.transpose())(4, 6) = 3.0f;
  EXPECT_EQ(m(2, 3), 1.0f);
  EXPECT_EQ(m(1, 1), 2.0f);
  EXPECT_EQ(m(6, 4), 3.0f);
}

TEST(View, ColumnsOfAViewStartWhereTheySay) {
  const RowMatrix m = RowMatrix::Random(7, 5);
  const auto part = view_of(m).columns(2, 3);
  EXPECT_EQ(part.cols, 3);
  EXPECT_EQ(&part(4, 1), &m(4, 3));
}

TEST(TokenMatrix, TakesWhatLiesInMemoryAndNothingElse) {
  using M = Eigen::MatrixXf;
  using Sum = decltype(std::declval<M&>() + std::declval<M&>());
  static_assert(TokenMatrix<M>);
  static_assert(TokenMatrix<Eigen::Block<M>>);
  static_assert(TokenMatrix<Eigen::Transpose<M>>);
  static_assert(TokenMatrix<Eigen::Ref<const M>>);
  static_assert(TokenMatrix<Eigen::Map<const M>>);
  static_assert(!TokenMatrix<Sum>);
  static_assert(!TokenMatrix<Eigen::CwiseNullaryOp<Eigen::internal::scalar_constant_op<float>, M>>);
  static_assert(!TokenMatrix<std::vector<float>>);
  static_assert(!TokenMatrix<float>);
  static_assert(OwningMatrix<M>);
  static_assert(!OwningMatrix<Eigen::Map<const M>>);
  static_assert(!OwningMatrix<Eigen::Block<M>>);
}

}  // namespace
}  // namespace heed
