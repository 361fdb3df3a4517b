#pragma once
#include <bit>
#include <concepts>
#include <cstdint>
#include <type_traits>

namespace heed::detail {

/// A digest of numbers, in their order: lists that differ have another one, but for a chance of about 2^-64.
class Digest {
 public:
  void add(std::uint64_t bits) {
    sum_ = (sum_ ^ bits) * 0x9e3779b97f4a7c15u;
    sum_ ^= sum_ >> 29;
  }
  void add(double number) { add(std::bit_cast<std::uint64_t>(number)); }
  template <class T>
    requires(std::integral<T> || std::is_enum_v<T>)
  void add(T value) { add(static_cast<std::uint64_t>(value)); }
  template <class... T>
  void add_all(const T&... values) {
    (add(values), ...);
  }
  std::uint64_t sum() const { return sum_; }

 private:
  std::uint64_t sum_ = 0x243f6a8885a308d3u;
};

}  // namespace heed::detail
