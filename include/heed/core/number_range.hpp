#pragma once
#include <cmath>
#include <limits>
#include <type_traits>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"

namespace heed::detail {

/// The numbers a scalar can hold: 0, and those from more than `none` up to `largest` in size.
struct NumberRange {
  double none;  ///< rounds to 0
  double largest;
  const char* scalar;
};

/// The range of the scalar that sums are kept in. Scalars of other libraries are judged as double, in which options are
/// given.
template <class T>
constexpr NumberRange number_range() {
  if constexpr (std::is_same_v<T, float>) return {0x1p-150, 0x1.fffffep127, "float"};
  return {0, std::numeric_limits<double>::max(), "double"};
}

/// Throws OptionError where the finite `value` overflows or vanishes on its way to the scalar of `range`. `name...`:
/// parts of its name.
template <class... Name>
void check_number(double value, const NumberRange& range, const Name&... name) {
  const double size = std::abs(value);
  if (size > range.largest) {
    throw OptionError(message(name..., " = ", value, " must be at most ", range.largest, " in size, the largest ",
                              range.scalar, ": sums are kept in ", range.scalar));
  }
  if (size != 0 && size <= range.none) {
    throw OptionError(message(name..., " = ", value, " must be 0 or more than ", range.none,
                              " in size, what rounds to 0 in ", range.scalar, ": sums are kept in ", range.scalar));
  }
}

/// `x` in scalar T. A finite x past T's largest number becomes that number; infinities and NaN stay what they are.
template <class T>
T saturated(double x) {
  constexpr double largest = number_range<T>().largest;
  if (!is_finite(x)) return static_cast<T>(x);
  return static_cast<T>(x > largest ? largest : x < -largest ? -largest : x);
}

}  // namespace heed::detail
