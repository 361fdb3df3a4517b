#pragma once
#include <cstddef>
#include <cstdint>

namespace heed::detail {

/// Sizes and strides of the kernels; the same type as heed::Index.
using Size = std::ptrdiff_t;

/// Bit patterns of the 16-bit floats and of bool as the kernels see them: no Eigen type crosses into a target region.
struct Half {
  std::uint16_t bits;
};
struct Bfloat {
  std::uint16_t bits;
};
struct Bool {
  std::uint8_t byte;
};

}  // namespace heed::detail
