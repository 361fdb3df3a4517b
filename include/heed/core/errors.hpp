#pragma once
#include <cstdio>
#include <initializer_list>
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

/// A run of training cannot go on: its loss or gradient is no finite number. The message names the step.
class TrainingError : public std::runtime_error {
  using std::runtime_error::runtime_error;
};

namespace detail {

/// A piece of a message: text, or a number written plainly. Views its text.
struct Piece {
  Piece(const char* part) : text(part) {}
  Piece(const std::string& part) : text(part.c_str()) {}
  template <class T>
    requires std::is_integral_v<T> Piece(T part) : number(static_cast<long long>(part)) {}
    Piece(double part) : real(part), is_real(true) {}

    const char* text = nullptr;
    long long number = 0;
    double real = 0.0;
    bool is_real = false;
};

/// The pieces one after the other. One function for all messages: they are many, and each would be compiled anew.
[[gnu::noinline]] inline std::string joined(std::initializer_list<Piece> pieces) {
  std::string text;
  for (const Piece& piece : pieces) {
    if (piece.text != nullptr) {
      text += piece.text;
      continue;
    }
    char digits[32];
    if (piece.is_real) {
      std::snprintf(digits, sizeof digits, "%g", piece.real);
    } else {
      std::snprintf(digits, sizeof digits, "%lld", piece.number);
    }
    text += digits;
  }
  return text;
}

/// "heed: " and the parts: message("cols(q) = ", 16, " but cols(k) = ", 15).
template <class... Parts>
std::string message(const Parts&... parts) {
  return joined({Piece("heed: "), Piece(parts)...});
}

}  // namespace detail
}  // namespace heed
