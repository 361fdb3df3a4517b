#include "heed/io/tensor.hpp"

#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include <gtest/gtest.h>

#include "io/files.hpp"
#include "support/allocations.hpp"

namespace {

using heed::Index;
using heed::Tensor;
using heed::TensorDtype;
using heed_test::error_of;

Tensor counting(std::vector<Index> shape) {
  std::vector<float> values(
      static_cast<std::size_t>(std::accumulate(shape.begin(), shape.end(), Index{1}, std::multiplies<>())));
  std::iota(values.begin(), values.end(), 0.0F);
  return Tensor::of<float>(std::move(shape), values);
}

TEST(Tensor, DefaultIsEmptyAndRankZeroIsOneElement) {
  EXPECT_EQ(Tensor().size(), 0);
  const Tensor scalar({}, TensorDtype::f64);
  EXPECT_EQ(scalar.size(), 1);
  EXPECT_EQ(scalar.rank(), 0);
  EXPECT_EQ(scalar.as<double>(), std::vector<double>{0.0});
}

TEST(Tensor, MatrixIsTheLastTwoAxesAtTheLeadingIndices) {
  const Tensor tensor = counting({2, 3, 4, 5});
  EXPECT_EQ(tensor.n_matrices(), 6);
  for (Index layer = 0; layer < 2; ++layer) {
    for (Index head = 0; head < 3; ++head) {
      const auto matrix = tensor.matrix<double>(layer, head);
      ASSERT_EQ(matrix.rows(), 4);
      ASSERT_EQ(matrix.cols(), 5);
      EXPECT_EQ(matrix(0, 0), static_cast<double>((layer * 3 + head) * 20));
      EXPECT_EQ(matrix(3, 4), matrix(0, 0) + 19);
      EXPECT_EQ(matrix(1, 0), matrix(0, 0) + 5);
      EXPECT_EQ(matrix, tensor.nth_matrix<double>(layer * 3 + head));
    }
  }
}

TEST(Tensor, AMatrixGoesInAndOutInEitherStorageOrder) {
  Eigen::MatrixXf column_major(2, 3);
  column_major << 1, 2, 3, 4, 5, 6;
  const Tensor tensor = Tensor::of(column_major);
  EXPECT_EQ(tensor.shape(), (std::vector<Index>{2, 3}));
  EXPECT_EQ(tensor.as<float>(), (std::vector<float>{1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(tensor.matrix<float>(), column_major);
  EXPECT_EQ(Tensor::of(column_major.transpose()).as<float>(), (std::vector<float>{1, 4, 2, 5, 3, 6}));
}

TEST(Tensor, FloatsConvertWithRoundingToNearest) {
  const std::vector<float> values = {0.0F, -0.0F, 1.0F / 3.0F, 65504.0F, 1e6F, -std::numeric_limits<float>::infinity()};
  const Tensor tensor = Tensor::of<float>({6}, values);
  const auto half = tensor.as<Eigen::half>();
  const auto brain = tensor.as<Eigen::bfloat16>();
  const auto wide = tensor.as<double>();
  for (std::size_t i = 0; i < values.size(); ++i) {
    EXPECT_EQ(half[i], static_cast<Eigen::half>(values[i]));
    EXPECT_EQ(brain[i], static_cast<Eigen::bfloat16>(values[i]));
    EXPECT_EQ(wide[i], static_cast<double>(values[i]));
  }
  EXPECT_TRUE(std::isinf(static_cast<float>(half[4])));
  const Tensor back = Tensor::of<Eigen::bfloat16>({6}, brain);
  EXPECT_EQ(back.dtype(), TensorDtype::bf16);
  EXPECT_EQ(back.as<float>()[2], static_cast<float>(brain[2]));
}

TEST(Tensor, NaNStaysNaNThroughEveryFloatType) {
  const std::vector<double> values = {std::numeric_limits<double>::quiet_NaN()};
  const Tensor tensor = Tensor::of<double>({1}, values);
  EXPECT_TRUE(std::isnan(tensor.as<float>()[0]));
  EXPECT_TRUE(std::isnan(static_cast<float>(tensor.as<Eigen::half>()[0])));
  EXPECT_TRUE(std::isnan(static_cast<float>(tensor.as<Eigen::bfloat16>()[0])));
}

TEST(Tensor, IntegersComeOutWholeAndAreRefusedFromFloats) {
  const std::vector<std::int64_t> large = {(std::int64_t{1} << 53) + 1, -7};
  EXPECT_EQ(Tensor::of<std::int64_t>({2}, large).integers(), (std::vector<Index>{(Index{1} << 53) + 1, -7}));
  EXPECT_EQ(Tensor::of<std::int64_t>({2}, large).as<double>()[1], -7.0);
  EXPECT_EQ(Tensor::of<std::int32_t>({1}, std::vector<std::int32_t>{-3}).as<Eigen::half>()[0], Eigen::half(-3.0F));
  EXPECT_EQ(Tensor::of<std::uint8_t>({1}, std::vector<std::uint8_t>{200}).integers()[0], 200);
  const Tensor floats({2}, TensorDtype::f32);
  EXPECT_EQ(error_of<heed::OptionError>([&] { (void)floats.integers(); }),
            "heed: Tensor::integers was asked of dtype F32 but must be of I64, I32, U8 or BOOL; take as<float>()");
}

TEST(Tensor, EmptyAxesMakeEmptyMatrices) {
  const Tensor tensor({3, 0, 4}, TensorDtype::f32);
  EXPECT_EQ(tensor.size(), 0);
  EXPECT_EQ(tensor.matrix<float>(2).rows(), 0);
  EXPECT_EQ(tensor.matrix<float>(2).cols(), 4);
  EXPECT_EQ(Tensor({0, 3, 4}, TensorDtype::f32).n_matrices(), 0);
}

TEST(Tensor, WrongShapesAndIndicesAreNamed) {
  const Index huge = Index{1} << 62;
  EXPECT_EQ(
      error_of<heed::ShapeError>([&] {
        Tensor({huge, 2}, TensorDtype::u8);
      }),
      "heed: Tensor shape is (4611686018427387904, 2) but must be sizes >= 0 whose product of bytes stays under 2^63");
  EXPECT_NE(error_of<heed::ShapeError>([&] { Tensor({0, huge, huge}, TensorDtype::u8); }), "");
  EXPECT_NE(error_of<heed::ShapeError>([&] { Tensor({-1}, TensorDtype::u8); }), "");
  const Tensor tensor = counting({2, 3, 4});
  EXPECT_EQ(error_of<heed::ShapeError>([&] { (void)tensor.matrix<float>(); }),
            "heed: Tensor::matrix was given 0 leading indices but must have 1 for shape (2, 3, 4)");
  EXPECT_EQ(error_of<heed::ShapeError>([&] { (void)tensor.matrix<float>(2); }),
            "heed: Tensor index of axis 0 is 2 but must be from 0 and below 2");
  EXPECT_EQ(error_of<heed::ShapeError>([&] { (void)tensor.nth_matrix<float>(-1); }),
            "heed: Tensor matrix number is -1 but must be from 0 and below 2 for shape (2, 3, 4)");
  EXPECT_EQ(error_of<heed::ShapeError>([&] { (void)counting({5}).n_matrices(); }),
            "heed: Tensor shape is (5,) but must have at least two axes here");
  EXPECT_EQ(error_of<heed::ShapeError>([&] {
              (void)Tensor::of<float>({2, 2}, std::vector<float>(3));
            }),
            "heed: Tensor::of was given 3 values but shape (2, 2) must have 4");
}

TEST(Tensor, AFailedAssignmentLeavesItAsItWas) {
  if (!heed::test::counts_allocations()) GTEST_SKIP() << "allocations cannot be made to fail here";
  const Tensor before = counting({2, 1}), other = counting({2, 3, 4});
  const std::vector<float> values = before.as<float>();
  Tensor tensor = before;
  const auto unchanged = [&] {
    EXPECT_EQ(tensor.shape(), before.shape());
    EXPECT_EQ(tensor.as<float>(), values);
  };
  EXPECT_GE(heed::test::with_each_allocation_failing([&] { tensor = other; }, unchanged), 2);
  EXPECT_EQ(tensor.shape(), other.shape());
  EXPECT_EQ(tensor.as<float>(), other.as<float>());
}

}  // namespace
