#pragma once
#include <array>
#include <cstdio>
#include <string>

namespace common {

/// What printf would print, up to 511 characters.
template <class... Values>
std::string format(const char* pattern, Values... values) {
  std::array<char, 512> text{};
  std::snprintf(text.data(), text.size(), pattern, values...);
  return text.data();
}

}  // namespace common
