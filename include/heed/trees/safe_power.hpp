#pragma once
#include <cmath>
#include <limits>

#include "heed/core/floating.hpp"

namespace heed::detail {

/// The power of two to multiply numbers up to `largest` by, so that sums of their squares neither overflow nor vanish:
/// 1 where they do not anyway, up to a quarter of T's exponents either way. What is computed of the products differs by
/// powers of two alone.
template <class T>
T safe_power(T largest) {
  if (largest == 0 || !is_finite(largest)) return T(1);
  constexpr int most = std::numeric_limits<T>::max_exponent / 4;
  int exponent = 0;
  std::frexp(largest, &exponent);
  if (exponent > most) return std::ldexp(T(1), most - exponent);
  return exponent < -most ? std::ldexp(T(1), -most - exponent) : T(1);
}

}  // namespace heed::detail
