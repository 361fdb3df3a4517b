#pragma once
#include <bit>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "heed/core/types.hpp"

// Under -ffinite-math-only clang marks every float handed to or from a function as neither NaN nor infinite (from 17
// on) and compares vectors as if there were no NaN, and so decides that a masked score, -inf, is none. Nothing inside a
// header can take that back.
#if defined(__clang__) && defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__
#error "heed: masks need infinities: behind -ffast-math add -fno-finite-math-only (the rest of it may stay)"
#endif

namespace heed::detail {

/// Made from its bits where it can be: compilers refuse the arithmetic under -ffinite-math-only.
template <class S>
inline constexpr S minus_infinity = -std::numeric_limits<S>::infinity();
template <>
inline constexpr float minus_infinity<float> = std::bit_cast<float>(0xff800000u);
template <>
inline constexpr double minus_infinity<double> = std::bit_cast<double>(std::uint64_t{0xfff0000000000000u});

/// True for negative infinity, decided on the bits: `x == -inf` is folded to false by -ffinite-math-only.
inline bool is_minus_infinity(float x) { return std::bit_cast<std::uint32_t>(x) == 0xff800000u; }
inline bool is_minus_infinity(double x) { return std::bit_cast<std::uint64_t>(x) == 0xfff0000000000000u; }

/// True for 0 and -0 but not for NaN, which -ffinite-math-only lets compare equal to anything.
inline bool is_zero(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7fffffffu) == 0; }
inline bool is_zero(double x) { return (std::bit_cast<std::uint64_t>(x) & 0x7fffffffffffffffu) == 0; }

/// True unless x is NaN or infinite, decided on the bits for the same reason.
inline bool is_finite(float x) { return (std::bit_cast<std::uint32_t>(x) & 0x7f800000u) != 0x7f800000u; }
inline bool is_finite(double x) {
  return (std::bit_cast<std::uint64_t>(x) & 0x7ff0000000000000u) != 0x7ff0000000000000u;
}

}  // namespace heed::detail
