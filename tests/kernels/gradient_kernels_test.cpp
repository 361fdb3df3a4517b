#include "heed/kernels/gradient_kernels.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "heed/kernels/select.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

using heed::detail::Size;

template <class T>
class GradientKernelsOf : public testing::Test {
 protected:
  const heed::detail::GradientKernels<T>& kernels = heed::detail::gradient_kernels<T>(heed::active_isa());
  const Size lanes = heed::detail::tile_kernels<T>(heed::active_isa()).lanes;
  static constexpr double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
};
using GradientScalars = testing::Types<float, double>;
TYPED_TEST_SUITE(GradientKernelsOf, GradientScalars);

TYPED_TEST(GradientKernelsOf, ScoresBecomeWeightsAndTheirGradients) {
  using T = TypeParam;
  const Size n_keys = 5, vectors = 3, panel = vectors * this->lanes;
  for (Size first = 0; first < vectors; ++first) {
    Matrix<T> s = random_matrix<T>(n_keys, panel, 1), d = random_matrix<T>(n_keys, panel, 2);
    Matrix<T> base = random_matrix<T>(1, panel, 3), shift = random_matrix<T>(1, panel, 5),
              mean = random_matrix<T>(1, panel, 4);
    s(1, first * this->lanes) = minus_infinity_of<T>();
    d(1, first * this->lanes) = nan_of<T>();  // a masked pair whose value row holds one
    const Matrix<T> s_before = s, d_before = d;
    const T factor = T(1.25);
    this->kernels.gradients(n_keys, panel, first, 1, factor, T(0.5), base.data(), shift.data(), mean.data(), s.data(),
                            d.data());
    for (Size j = 0; j < n_keys; ++j) {
      for (Size i = 0; i < panel; ++i) {
        if (i / this->lanes != first) {
          ASSERT_TRUE(same_bits(s(j, i), s_before(j, i)) && same_bits(d(j, i), d_before(j, i)));
          continue;
        }
        if (j == 1 && i == first * this->lanes) {
          EXPECT_TRUE(s(j, i) == T(0) && d(j, i) == T(0));
          continue;
        }
        const double power = 1.25 * (static_cast<double>(s_before(j, i)) - static_cast<double>(base(i))) +
                             static_cast<double>(shift(i)),
                     weight = std::exp2(std::min(0.5, power));
        const double want = weight * (static_cast<double>(d_before(j, i)) - static_cast<double>(mean(i)));
        EXPECT_NEAR(static_cast<double>(s(j, i)), weight, 16 * this->unit * weight);
        EXPECT_NEAR(static_cast<double>(d(j, i)), want, 32 * this->unit * weight * 8);
      }
    }
  }
}

TYPED_TEST(GradientKernelsOf, TheSoftcapBendsByItsSlope) {
  using T = TypeParam;
  const Size n_keys = 4, panel = 2 * this->lanes;
  Matrix<T> raw = random_matrix<T>(n_keys, panel, 5), d = random_matrix<T>(n_keys, panel, 6);
  raw *= T(3);
  d(0, 0) = T(0);
  raw(0, 0) = nan_of<T>();  // a masked pair
  const Matrix<T> before = d;
  const double scale_over_cap = 0.4;
  this->kernels.bend(n_keys, panel, 0, 2, static_cast<T>(2 * std::log2(std::exp(1.0)) * scale_over_cap), raw.data(),
                     d.data());
  EXPECT_EQ(d(0, 0), T(0));
  for (Size p = 1; p < n_keys * panel; ++p) {
    const double t = std::tanh(static_cast<double>(raw.data()[p]) * scale_over_cap),
                 given = static_cast<double>(before.data()[p]);
    EXPECT_NEAR(static_cast<double>(d.data()[p]), given * (1 - t * t), 64 * this->unit * std::abs(given));
  }
}

TYPED_TEST(GradientKernelsOf, RowsAreAddedInAnyLayoutAlike) {
  using T = TypeParam;
  const std::vector<Size> list{3, 4, 7, 1};
  for (const Size columns : {Size(1), this->lanes - 1, this->lanes, 2 * this->lanes + 3}) {
    const Size stride = columns + 2, n_rows = 4, n_places = 9;
    const Matrix<T> rows = random_matrix<T>(n_rows, stride, 7), before = random_matrix<T>(n_places, columns, 8);
    for (const bool listed : {false, true}) {
      Matrix<T> by_rows = before;
      Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic> by_columns = before;
      const Size* places = listed ? list.data() : nullptr;
      this->kernels.add_rows(rows.data(), stride, n_rows, columns, T(0.75), by_rows.data(), columns, 1, places);
      this->kernels.add_rows(rows.data(), stride, n_rows, columns, T(0.75), by_columns.data(), 1, n_places, places);
      EXPECT_SAME_BITS(by_columns, by_rows);
      Matrix<double> want = before.template cast<double>();
      for (Size t = 0; t < n_rows; ++t) {
        want.row(listed ? list[static_cast<std::size_t>(t)] : t) +=
            0.75 * rows.row(t).head(columns).template cast<double>();
      }
      EXPECT_MATRIX_NEAR(by_rows, want, 8 * this->unit);
    }
  }
}

TYPED_TEST(GradientKernelsOf, ProductsAreAdded) {
  using T = TypeParam;
  for (const Size n_rows : {1, 2, 5, 13}) {
    for (const Size n : {0, 1, 37}) {
      for (const Size vectors : {1, 4, 5}) {
        const Size columns = vectors * this->lanes;
        const Matrix<T> a = random_matrix<T>(n_rows, n + 1, 9), b = random_matrix<T>(n + 1, columns + 3, 10);
        Matrix<T> to = random_matrix<T>(n_rows, columns + 1, 11);
        Matrix<double> want = to.template cast<double>();
        if (n > 0) {
          want.leftCols(columns) +=
              a.leftCols(n).template cast<double>() * b.topLeftCorner(n, columns).template cast<double>();
        }
        this->kernels.add_products(a.data(), n + 1, n_rows, b.data(), columns + 3, n, columns, to.data(), columns + 1);
        EXPECT_MATRIX_NEAR(to, want, 8 * this->unit * std::sqrt(static_cast<double>(n + 1)) * 4);
      }
    }
  }
}

}  // namespace
}  // namespace heed::test
