#pragma once
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>

#include "heed/core/types.hpp"
#include "heed/io/tensor_dtype.hpp"

namespace heed::detail {

/// Bytes of a tensor of `shape`, or nullopt where a size is negative or the product passes 2^63 - 1. A zero size does
/// not hide absurd ones: (0, 2^62, 2^62) is refused too.
inline std::optional<std::uint64_t> tensor_bytes(std::span<const Index> shape, TensorDtype dtype) {
  constexpr auto most = static_cast<std::uint64_t>(std::numeric_limits<Index>::max());
  std::uint64_t bytes = bytes_of(dtype);
  bool empty = false;
  for (const Index size : shape) {
    if (size < 0) return std::nullopt;
    if (size == 0) {
      empty = true;
      continue;
    }
    if (bytes > most / static_cast<std::uint64_t>(size)) return std::nullopt;
    bytes *= static_cast<std::uint64_t>(size);
  }
  return empty ? 0 : bytes;
}

/// "(4, 356, 32)", as numpy prints it; messages show at most eight axes.
inline std::string shape_text(std::span<const Index> shape, std::size_t most_axes = 8) {
  std::string text = "(";
  for (std::size_t axis = 0; axis < shape.size(); ++axis) {
    if (axis > 0) text += ", ";
    if (axis == most_axes) return text + "...)";
    text += std::to_string(shape[axis]);
  }
  return text + (shape.size() == 1 ? ",)" : ")");
}

}  // namespace heed::detail
