#pragma once
#include <array>
#include <cstddef>

#include "heed/core/types.hpp"

namespace heed::detail {

/// What was read in full of pages that a query sees in part, at most one at each end: weights, squared and summed, in
/// units of the largest weight of all that was read in full.
struct PartialPages {
  Index n = 0;
  std::array<Index, 2> page{};
  std::array<float, 2> square{};

  void add(Index of_page, float weight) {
    if (n == 0 || page[static_cast<std::size_t>(n - 1)] != of_page) page[static_cast<std::size_t>(n++)] = of_page;
    square[static_cast<std::size_t>(n - 1)] += weight * weight;
  }
};

}  // namespace heed::detail
