// Kernels that read storage scalars, of the active instruction set, against plain loops.
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"
#include "heed/kernels/tile_kernels.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

template <class T, class S>
const heed::detail::StorageKernels<T, heed::detail::KernelScalar<S>>& kernels_for() {
  return heed::detail::storage_kernels<T, heed::detail::KernelScalar<S>>(active_isa());
}

template <class T, class S>
void expect_transposed_and_gathered() {
  const auto& kernels = kernels_for<T, S>();
  const Matrix<S> m = random_matrix<S>(40, 43, 1);
  const Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic> by_columns = m;
  const Index list[] = {3, 4, 9, 10, 11, 12, 13, 20, 21, 22, 23, 24, 25, 26, 30, 31, 32, 38};
  for (const bool row_major : {true, false}) {
    const S* data = row_major ? m.data() : by_columns.data();
    const Index row_stride = row_major ? 43 : 1, col_stride = row_major ? 1 : 40;
    for (const Index* rows : {static_cast<const Index*>(nullptr), list}) {
      for (const Index n_rows : {1, 5, 16, 18}) {
        for (const Index n_cols : {1, 7, 16, 43}) {
          const auto row = [&](Index i) { return rows == nullptr ? i : rows[i]; };
          constexpr Index to_stride = 48;
          Matrix<T> turned = Matrix<T>::Constant(n_cols, to_stride, T(9)),
                    tile = Matrix<T>::Constant(n_rows, to_stride, T(9));
          kernels.transpose(heed::detail::kernel_pointer(data), row_stride, col_stride, rows, n_rows, nullptr, n_cols,
                            turned.data(), to_stride, T(2), true);
          kernels.gather(heed::detail::kernel_pointer(data), row_stride, col_stride, rows, n_rows, n_cols, tile.data(),
                         to_stride);
          for (Index i = 0; i < n_rows; ++i) {
            for (Index c = 0; c < n_cols; ++c) {
              ASSERT_EQ(turned(c, i), T(2) * static_cast<T>(m(row(i), c))) << "row " << i << ", column " << c;
              ASSERT_EQ(tile(i, c), static_cast<T>(m(row(i), c))) << "row " << i << ", column " << c;
            }
            ASSERT_EQ(tile(i, n_cols), T(9)) << "behind the row";
          }
          for (Index c = 0; c < n_cols; ++c) {
            for (Index i = n_rows; i < to_stride && turned(c, i) != T(9); ++i)
              ASSERT_EQ(turned(c, i), T(0)) << "padding";
          }
        }
      }
    }
  }
}

TEST(StorageKernels, RowsAreTransposedAndGatheredInEveryScalarAndLayout) {
  expect_transposed_and_gathered<float, float>();
  expect_transposed_and_gathered<float, Eigen::half>();
  expect_transposed_and_gathered<float, Eigen::bfloat16>();
  expect_transposed_and_gathered<double, double>();
}

template <class T, class S>
void expect_row_products() {
  const auto& kernels = kernels_for<T, S>();
  const auto& tiles = heed::detail::tile_kernels<T>(active_isa());
  constexpr double epsilon = std::numeric_limits<T>::epsilon();
  for (const Index d : {1, 5, 16, 31, 64, 80}) {
    for (const Index n_q : {1, 2, 4, 5}) {
      const Index padded = (d + tiles.lanes - 1) / tiles.lanes * tiles.lanes;
      const Matrix<S> m = random_matrix<S>(21, d + 3, 1);  // keys, then values
      Matrix<T> q = Matrix<T>::Zero(n_q, padded), s = Matrix<T>::Constant(n_q, 24, T(9));
      q.leftCols(d) = random_matrix<T>(n_q, d, 2);
      kernels.row_scores(heed::detail::kernel_pointer(m.data()), d + 3, 21, q.data(), padded, n_q, d, s.data(), 24);
      const Matrix<T> w = random_matrix<T>(n_q, 24, 3), correction = random_matrix<T>(n_q, 1, 4),
                      before = random_matrix<T>(n_q, padded, 5);
      Matrix<T> out = before;
      kernels.row_values(heed::detail::kernel_pointer(m.data()), d + 3, 21, w.data(), 24, n_q, d, correction.data(),
                         out.data(), padded);
      for (Index g = 0; g < n_q; ++g) {
        for (Index j = 0; j < 21; ++j) {
          double want = 0.0;
          for (Index c = 0; c < d; ++c) want += static_cast<double>(m(j, c)) * static_cast<double>(q(g, c));
          ASSERT_NEAR(static_cast<double>(s(g, j)), want, 8.0 * epsilon * (1.0 + std::sqrt(static_cast<double>(d))));
          T alone = 0;
          kernels.row_scores(heed::detail::kernel_pointer(&m(j, 0)), d + 3, 1, q.data() + g * padded, padded, 1, d,
                             &alone, 1);
          ASSERT_EQ(alone, s(g, j)) << "key " << j << " of query " << g << " by itself";
        }
        ASSERT_EQ(s(g, 21), T(9)) << "behind the last key";
        for (Index c = 0; c < d; ++c) {
          double want = static_cast<double>(before(g, c)) * static_cast<double>(correction(g, 0));
          for (Index j = 0; j < 21; ++j) want += static_cast<double>(m(j, c)) * static_cast<double>(w(g, j));
          ASSERT_NEAR(static_cast<double>(out(g, c)), want, 100.0 * epsilon);
        }
      }
      const Index list[] = {0, 3, 4, 5, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20};
      for (const Index* rows : {static_cast<const Index*>(nullptr), list}) {
        for (const T* weights : {static_cast<const T*>(nullptr), static_cast<const T*>(w.data())}) {
          Matrix<T> sum = before.topRows(1);
          kernels.add_rows(heed::detail::kernel_pointer(m.data()), d + 3, rows, 15, d, weights, sum.data());
          for (Index c = 0; c < padded; ++c) {
            double want = static_cast<double>(before(0, c));
            for (Index r = 0; c < d && r < 15; ++r) {
              want += (weights == nullptr ? 1.0 : static_cast<double>(weights[r])) *
                      static_cast<double>(m(rows == nullptr ? r : rows[r], c));
            }
            ASSERT_NEAR(static_cast<double>(sum(0, c)), want, c < d ? 100.0 * epsilon : 0.0) << "column " << c;
          }
        }
      }
    }
  }
}

TEST(StorageKernels, RowsOfKeysAndValuesMultiplyInEveryScalar) {
  expect_row_products<float, float>();
  expect_row_products<float, Eigen::half>();
  expect_row_products<float, Eigen::bfloat16>();
  expect_row_products<double, double>();
}

// Every one of the 65536 numbers of a 16-bit format.
template <class S>
void expect_every_number_is_read() {
  Matrix<S> all(4096, 16);
  for (std::uint32_t bits = 0; bits < 65536; ++bits)
    all.data()[bits] = Eigen::numext::bit_cast<S>(static_cast<std::uint16_t>(bits));
  Matrix<float> read(4096, 16);
  kernels_for<float, S>().gather(heed::detail::kernel_pointer(all.data()), 16, 1, nullptr, 4096, 16, read.data(), 16);
  Index wrong = 0;
  for (Index t = 0; t < all.size(); ++t) {
    const float want = static_cast<float>(all.data()[t]), got = read.data()[t];
    wrong += is_nan(want) ? !is_nan(got) : !same_bits(got, want);
  }
  EXPECT_EQ(wrong, 0);
}

TEST(StorageKernels, EverySixteenBitNumberIsReadAsItIs) {
  expect_every_number_is_read<Eigen::half>();
  expect_every_number_is_read<Eigen::bfloat16>();
}

// Rows of a panel in the caller's layout: divided by the sums, rounded to nearest, the rest of the matrix left alone.
template <class T, class S>
void expect_rows_written() {
  const auto& kernels = kernels_for<T, S>();
  constexpr Index panel = 48, n_all = 40;
  const Index list[] = {3, 4, 9, 10, 11, 12, 13, 20, 21, 22, 23, 24, 25, 26, 30, 31, 32, 38};
  for (const Index n_cols : {1, 7, 16, 27}) {
    Matrix<T> out = random_matrix<T>(n_cols, panel, 1), l = random_matrix<T>(1, panel, 2).cwiseAbs();
    l.array() += T(0.5);
    l(0, 1) = T(0);
    out(0, 1) = std::numeric_limits<T>::quiet_NaN();  // a query that saw nothing: whatever is there becomes 0
    out(0, 0) = std::numeric_limits<T>::quiet_NaN();
    out(n_cols - 1, 2) = -std::numeric_limits<T>::infinity();
    out(n_cols - 1, 3) = T(1e-6);  // subnormal as a half
    out(n_cols - 1, 4) = T(-1e6);  // infinite as a half
    l(0, 5) = l(0, 6) = T(1);
    out(n_cols - 1, 5) = T(1) + T(1) / 256;   // halfway between two bfloat16: to the even one
    out(n_cols - 1, 6) = T(1) + T(1) / 2048;  // halfway between two halves
    for (const bool row_major : {true, false}) {
      for (const Index gap : {1, 2}) {  // 2: neither rows nor columns are contiguous
        const Index row_stride = row_major ? gap * n_cols : gap, col_stride = row_major ? gap : gap * n_all;
        for (const Index* rows : {static_cast<const Index*>(nullptr), list}) {
          for (const Index n_rows : {1, 5, 16, 18}) {
            std::vector<S> to(static_cast<std::size_t>(gap * n_all * n_cols), S(77));
            std::vector<S> want = to;
            for (Index i = 0; i < n_rows; ++i) {
              for (Index c = 0; c < n_cols; ++c) {
                const T inverse = T(1) / l(0, i);
                want[static_cast<std::size_t>((rows == nullptr ? i : rows[i]) * row_stride + c * col_stride)] =
                    static_cast<S>(l(0, i) == T(0) ? T(0) : out(c, i) * inverse);
              }
            }
            kernels.write_rows(out.data(), panel, l.data(), n_rows, n_cols,
                               reinterpret_cast<heed::detail::KernelScalar<S>*>(to.data()), row_stride, col_stride,
                               rows);
            for (std::size_t x = 0; x < to.size(); ++x) {
              const auto got = static_cast<double>(to[x]), expected = static_cast<double>(want[x]);
              ASSERT_TRUE(got == expected || (std::isnan(got) && std::isnan(expected)))
                  << got << " is not " << expected << " at " << x << " of " << n_rows << " x " << n_cols;
            }
          }
        }
      }
    }
  }
}

TEST(StorageKernels, OutputsAreDividedAndRoundedIntoTheCallersLayout) {
  expect_rows_written<float, float>();
  expect_rows_written<double, double>();
  expect_rows_written<float, Eigen::half>();
  expect_rows_written<float, Eigen::bfloat16>();
}

}  // namespace
}  // namespace heed::test
