#include "heed/core/values.hpp"

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "support/inputs.hpp"

namespace heed {
namespace {

TEST(StoredValues, SeesItsMatrixInPlace) {
  const Matrix<float> v = test::random_matrix<float>(7, 5, 1);
  const StoredValues values(v);
  EXPECT_EQ(values.n_keys(), 7);
  EXPECT_EQ(values.width(), 5);
  EXPECT_EQ(&values.view()(6, 4), &v(6, 4));
  const StoredValues part(v.block(1, 2, 3, 2));
  EXPECT_EQ(part.n_keys(), 3);
  EXPECT_EQ(&part.view()(0, 0), &v(1, 2));
}

TEST(StoredValues, IsAValueSourceAndAMatrixIsNot) {
  static_assert(ValueSource<StoredValues<double>>);
  static_assert(!ComputedValues<StoredValues<double>>);
  static_assert(!ValueSource<Matrix<double>>);
}

}  // namespace
}  // namespace heed
