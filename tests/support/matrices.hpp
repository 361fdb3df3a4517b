#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "support/inputs.hpp"

// Special values are made and told apart by their bits, so that these checks mean the same under -ffast-math.

namespace heed::test {

inline bool is_nan(const double& x) {
  return (std::bit_cast<std::uint64_t>(x) & 0x7fffffffffffffffu) > 0x7ff0000000000000u;
}
inline bool is_nan(const float& x) { return (std::bit_cast<std::uint32_t>(x) & 0x7fffffffu) > 0x7f800000u; }
inline bool is_nan(const Eigen::half& x) { return (std::bit_cast<std::uint16_t>(x) & 0x7fffu) > 0x7c00u; }
inline bool is_nan(const Eigen::bfloat16& x) { return (std::bit_cast<std::uint16_t>(x) & 0x7fffu) > 0x7f80u; }

/// The scalar with one of these bit patterns, for double, float, half and bfloat16.
template <class S>
constexpr S scalar_of_bits(std::uint64_t f64, std::uint32_t f32, std::uint16_t f16, std::uint16_t bf16) {
  if constexpr (std::is_same_v<S, double>) return std::bit_cast<double>(f64);
  if constexpr (std::is_same_v<S, float>) return std::bit_cast<float>(f32);
  if constexpr (std::is_same_v<S, Eigen::half>) return std::bit_cast<Eigen::half>(f16);
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return std::bit_cast<Eigen::bfloat16>(bf16);
}
template <class S>
inline constexpr S nan_in_memory = scalar_of_bits<S>(0x7ff8000000000000u, 0x7fc00000u, 0x7e00u, 0x7fc0u);
template <class S>
inline constexpr S infinity_in_memory = scalar_of_bits<S>(0x7ff0000000000000u, 0x7f800000u, 0x7c00u, 0x7f80u);
template <class S>
inline constexpr S minus_infinity_in_memory = scalar_of_bits<S>(0xfff0000000000000u, 0xff800000u, 0xfc00u, 0xff80u);

/// Special values, by reference: clang's -ffinite-math-only may replace a NaN that is passed or returned by value.
template <class S>
const S& nan_of() {
  return nan_in_memory<S>;
}
template <class S>
const S& infinity_of() {
  return infinity_in_memory<S>;
}
template <class S>
const S& minus_infinity_of() {
  return minus_infinity_in_memory<S>;
}

/// Fills a block with a special value.
template <class M>
void fill(M&& m, const typename std::remove_cvref_t<M>::Scalar& value) {
  for (Index i = 0; i < m.rows(); ++i) {
    for (Index c = 0; c < m.cols(); ++c) std::memcpy(&m.coeffRef(i, c), &value, sizeof(value));
  }
}

template <class S>
bool same_bits(const S& a, const S& b) {
  return std::memcmp(&a, &b, sizeof(S)) == 0;
}

inline testing::AssertionResult same_shape(Index got_rows, Index got_cols, Index want_rows, Index want_cols) {
  if (got_rows == want_rows && got_cols == want_cols) return testing::AssertionSuccess();
  return testing::AssertionFailure() << "shape is " << got_rows << " x " << got_cols << " but must be " << want_rows
                                     << " x " << want_cols << "; last inputs: " << last_inputs();
}

/// Every entry within `tolerance`; -inf only where -inf is wanted; anything else that is not finite fails.
template <class Got, class Want>
testing::AssertionResult matrix_near(const char* got_text, const char* want_text, const char* tolerance_text,
                                     const Got& got, const Want& want, double tolerance) {
  if (const auto shape = same_shape(got.rows(), got.cols(), want.rows(), want.cols()); !shape) return shape;
  double worst = -1.0;
  Index at_i = 0, at_j = 0;
  for (Index i = 0; i < got.rows(); ++i) {
    for (Index j = 0; j < got.cols(); ++j) {
      const double a = static_cast<double>(got(i, j)), b = static_cast<double>(want(i, j));
      if (heed::detail::is_minus_infinity(a) && heed::detail::is_minus_infinity(b)) continue;
      const bool finite = heed::detail::is_finite(a) && heed::detail::is_finite(b);
      const double difference = finite ? std::abs(a - b) : std::numeric_limits<double>::max();
      if (difference <= worst) continue;
      worst = difference;
      at_i = i;
      at_j = j;
    }
  }
  if (worst <= tolerance) return testing::AssertionSuccess();
  return testing::AssertionFailure() << got_text << " and " << want_text << " differ by " << worst << " at (" << at_i
                                     << ", " << at_j << "): " << static_cast<double>(got(at_i, at_j)) << " against "
                                     << static_cast<double>(want(at_i, at_j)) << "; allowed: " << tolerance << " = "
                                     << tolerance_text << "; last inputs: " << last_inputs();
}

/// Every entry equal bit for bit, NaN included.
template <class Got, class Want>
testing::AssertionResult matrix_same_bits(const char* got_text, const char* want_text, const Got& got,
                                          const Want& want) {
  if (const auto shape = same_shape(got.rows(), got.cols(), want.rows(), want.cols()); !shape) return shape;
  for (Index i = 0; i < got.rows(); ++i) {
    for (Index j = 0; j < got.cols(); ++j) {
      const typename Got::Scalar a = got(i, j), b = want(i, j);
      if (same_bits(a, b)) continue;
      return testing::AssertionFailure() << got_text << " and " << want_text << " differ at (" << i << ", " << j
                                         << "): " << static_cast<double>(a) << " against " << static_cast<double>(b)
                                         << "; last inputs: " << last_inputs();
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace heed::test

#define EXPECT_MATRIX_NEAR(got, want, tolerance) EXPECT_PRED_FORMAT3(::heed::test::matrix_near, got, want, tolerance)
#define EXPECT_SAME_BITS(got, want) EXPECT_PRED_FORMAT2(::heed::test::matrix_same_bits, got, want)
