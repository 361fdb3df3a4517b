#pragma once
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

// Each throws OptionError where one option is out of its range. `name...`: parts of its name.

/// A whole number of `least` or more.
template <class... Name>
void check_at_least(Index value, Index least, const Name&... name) {
  if (value < least) throw OptionError(message(name..., " = ", value, " must be >= ", least));
}

/// The same for what sizes are multiplied by.
template <class... Name>
void check_size(Index value, Index least, const Name&... name) {
  check_at_least(value, least, name...);
  if (value > most_size)
    throw OptionError(message(name..., " = ", value, " must be at most 2^", size_bits, " = ", most_size));
}

/// A number of `least` to `most`, both inclusive.
template <class... Name>
void check_within(double value, double least, double most, const Name&... name) {
  if (!is_finite(value) || value < least || value > most)
    throw OptionError(message(name..., " = ", value, " must be at least ", least, " and at most ", most));
}

/// A number of 0 or more.
template <class... Name>
void check_not_negative(double value, const Name&... name) {
  if (!is_finite(value) || value < 0)
    throw OptionError(message(name..., " = ", value, " must be finite and at least 0"));
}

/// A number of more than 0 that neither overflows nor vanishes in the scalar of `range`.
template <class... Name>
void check_positive(double value, const NumberRange& range, const Name&... name) {
  if (!is_finite(value) || value <= 0)
    throw OptionError(message(name..., " = ", value, " must be finite and more than 0"));
  check_number(value, range, name...);
}

/// A value of an enumeration whose names count from 0 to `last`.
template <class Enum, class... Name>
void check_enumerator(Enum value, Enum last, const Name&... name) {
  const int number = static_cast<int>(value);
  if (number < 0 || number > static_cast<int>(last))
    throw OptionError(
        message(name..., " = ", number, " must be a name of its enumeration, 0 .. ", static_cast<int>(last)));
}

}  // namespace heed::detail
