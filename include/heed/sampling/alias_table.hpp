#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/random.hpp"
#include "heed/core/types.hpp"

namespace heed {

namespace detail {

/// A cell of an alias table as the kernels read it: a threshold in the lower 32 bits, an alias in the upper 32. Below
/// the threshold the cell stands for its own index, else for its alias.
using AliasCell = std::uint64_t;
inline AliasCell alias_cell(std::uint32_t threshold, std::uint32_t alias) {
  return std::uint64_t{alias} << 32 | threshold;
}

/// Draws an index from n cells. The high part of one product chooses a cell, its low part one of the cell's two
/// indices. ProjectKernels::draw does the same for many draws.
inline Index draw_cell(const AliasCell* cells, std::size_t n, std::uint32_t random) {
  const std::uint64_t place = std::uint64_t{random} * n;
  const auto cell = static_cast<std::uint32_t>(place >> 32);
  const AliasCell chosen = cells[cell];
  return static_cast<std::uint32_t>(place) < static_cast<std::uint32_t>(chosen) ? cell
                                                                                : static_cast<Index>(chosen >> 32);
}

/// Fills the cells of weights whose mean is 1. It overwrites those weights, `share`; `order` has room for as many.
/// Nothing is allocated.
inline void build_alias_cells(std::span<double> share, AliasCell* cells, std::uint32_t* order) {
  const std::size_t n = share.size();
  // Indices below their cell's share lie in order[0, small), the others in order[large, n).
  std::size_t small = 0, large = n;
  for (std::size_t k = 0; k < n; ++k) order[share[k] < 1 ? small++ : --large] = static_cast<std::uint32_t>(k);
  const auto threshold = [](double part) {
    const double scaled = part * 4294967296.0;
    return scaled >= 4294967295.0 ? 0xffffffffu : static_cast<std::uint32_t>(scaled < 0 ? 0 : scaled);
  };
  while (small > 0 && large < n) {
    const std::uint32_t poor = order[--small], rich = order[large];
    cells[poor] = alias_cell(threshold(share[poor]), rich);
    share[rich] -= 1 - share[poor];
    if (share[rich] < 1) {
      ++large;
      order[small++] = rich;
    }
  }
  // Each index that is left fills its cell but for rounding.
  for (std::size_t t = 0; t < small; ++t) cells[order[t]] = alias_cell(0xffffffffu, order[t]);
  for (std::size_t t = large; t < n; ++t) cells[order[t]] = alias_cell(0xffffffffu, order[t]);
}

}  // namespace detail

/// Draws index k with probability weights[k] / sum(weights), by one random number and one look-up a draw.
///
/// Shapes  weights: n >= 1 numbers, finite and >= 0. Where all are 0 every index is as likely.
/// Errors  OptionError for no weights, or one that is negative or not finite.
/// Cost    O(n) to build; 8 bytes an index. Probabilities are met to n 2^-32.
/// Threads const and re-entrant: the generator is the caller's.
/// Source  Walker 1977; Vose 1991 (building in linear time).
class AliasTable {
 public:
  explicit AliasTable(std::span<const double> weights) {
    const std::size_t n = weights.size();
    if (n == 0) throw OptionError("heed: AliasTable weights are empty but must have at least one entry");
    if (std::uint64_t{n} > std::uint64_t{1} << 32)
      throw OptionError(detail::message("AliasTable weights have ", n, " entries but must have at most 2^32"));
    double sum = 0;
    for (std::size_t k = 0; k < n; ++k) {
      if (!detail::is_finite(weights[k]) || weights[k] < 0)
        throw OptionError(detail::message("AliasTable weights[", k, "] = ", weights[k], " must be finite and >= 0"));
      sum += weights[k];
    }
    cells_.resize(n);
    std::vector<double> share(n, 1.0);
    for (std::size_t k = 0; k < n && sum > 0; ++k) share[k] = weights[k] / sum * static_cast<double>(n);
    std::vector<std::uint32_t> order(n);
    detail::build_alias_cells(share, cells_.data(), order.data());
  }

  Index size() const { return static_cast<Index>(cells_.size()); }
  Index draw(CounterRng& random) const { return detail::draw_cell(cells_.data(), cells_.size(), random.next_u32()); }

 private:
  std::vector<detail::AliasCell> cells_;
};

}  // namespace heed
