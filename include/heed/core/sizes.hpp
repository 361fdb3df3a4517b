#pragma once
#include <initializer_list>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

constexpr bool wide_index = sizeof(Index) >= 8;
constexpr int size_bits = wide_index ? 40 : 26, number_bits = wide_index ? 58 : 26;
/// More tokens, features or heads than any memory holds. A size past it is refused before it is multiplied or divided
/// by.
constexpr Index most_size = Index(1) << size_bits;
/// More numbers than any memory holds: their bytes, and twice those, still fit in an Index.
constexpr Index most_numbers = Index(1) << number_bits;

/// `size`, or an OptionError that names it where it passes most_size.
inline Index checked_size(Index size, const char* name) {
  if (size > most_size)
    throw OptionError(message(name, " = ", size, " must be at most 2^", size_bits, " = ", most_size));
  return size;
}

/// True where the product of sizes >= 0 is at most most_numbers.
inline bool can_be_counted(std::initializer_list<Index> sizes) {
  double product = 1;
  for (const Index size : sizes) product *= static_cast<double>(size);
  return product <= static_cast<double>(most_numbers);
}

/// The product of sizes >= 0, or a ShapeError that names it where it passes most_numbers.
inline Index checked_product(const char* name, std::initializer_list<Index> sizes) {
  double real = 1;
  for (const Index size : sizes) real *= static_cast<double>(size);
  if (!can_be_counted(sizes))
    throw ShapeError(message(name, " = ", real, " must be at most 2^", number_bits, " = ", most_numbers));
  Index product = real == 0 ? 0 : 1;  // with a size of 0 the others may be any
  for (const Index size : sizes) product = product == 0 ? 0 : product * size;
  return product;
}

}  // namespace heed::detail
