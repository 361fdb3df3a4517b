#pragma once
#include <stdexcept>
#include <string>
#include <type_traits>

namespace heed {

/// A matrix or span has the wrong shape. The message names the argument, its value and what it must be.
class ShapeError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// An option has a value outside its range. The message names the option, its value and what it must be.
class OptionError : public std::invalid_argument {
  using std::invalid_argument::invalid_argument;
};

/// A file does not hold what its format promises. The message names the file, the field, its value and what it must be.
class FormatError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

inline std::string text_of(const std::string& part) { return part; }
template <class T>
  requires std::is_arithmetic_v<T>
std::string text_of(T part) {
  std::string text = std::to_string(part);
  if constexpr (std::is_floating_point_v<T>) {
    text.erase(text.find_last_not_of('0') + 1);
    if (!text.empty() && text.back() == '.') text.pop_back();
  }
  return text;
}

/// The parts one after the other, numbers written plainly.
template <class... Parts>
std::string joined(const Parts&... parts) {
  return (std::string() + ... + text_of(parts));
}

/// "heed: " and the parts: message("cols(q) = ", 16, " but cols(k) = ", 15).
template <class... Parts>
std::string message(const Parts&... parts) {
  return joined("heed: ", parts...);
}

}  // namespace detail
}  // namespace heed
