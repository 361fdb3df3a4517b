#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "heed/core/types.hpp"
#include "heed/kernels/project_kernels.hpp"

namespace heed::detail {

/// Finds the r largest of n sizes (>= 0) by narrowing a threshold: counting passes over whole vectors, no sort. Remembers where it
/// ended for each share of n, since neighbouring rows are alike; that changes the way, never the answer.
template <class T>
class LargestSelector {
 public:
  explicit LargestSelector(const ProjectKernels<T>& kernels) : kernels_(kernels) {
    for (int b = 0; b < buckets; ++b) {  // sizes spread like the absolute value of a bell curve
      const T left = static_cast<T>(b + 1) / static_cast<T>(buckets + 1);
      guess_[b] = static_cast<T>(2.2) * (1 - left) * (1 - left / 2);
    }
  }

  /// Writes the places of the r largest, ascending; of equal sizes the lower places. `sum` is that of all sizes; 0 < r < n. `list`
  /// has room for n and a whole vector. Returns how many were written: r, and fewer only where sizes are NaN.
  Index select(Index n, const T* size, T sum, Index r, std::int32_t* list) {
    const T mean = sum / static_cast<T>(n);
    T& guess = guess_[std::min<Index>(buckets - 1, r * buckets / n)];
    T low = 0, high = std::numeric_limits<T>::max();
    Index above_low = n, above_high = 0;  // how many are >= low, >= high
    T floor = guess * mean;
    for (int pass = 0; pass < 40 && floor > low && floor < high; ++pass) {
      const Index above = kernels_.count_above(n, size, floor);
      if (above == r) {
        guess = floor / mean;
        return kernels_.list_above(n, size, floor, list);
      }
      (above > r ? low : high) = floor;
      (above > r ? above_low : above_high) = above;
      if (above_high == 0 || low == 0) {  // no bracket yet: a step as long as the bell curve suggests
        const T step = static_cast<T>(above - r) / static_cast<T>(n) * static_cast<T>(1.7);
        floor *= 1 + std::clamp(step, T(-0.6), T(1.5));
        if (low > 0 && !(floor > low)) floor = low * static_cast<T>(1.5);
        if (above_high > 0 && !(floor < high)) floor = high / 2;
      } else {  // counts are nearly linear in between; every fourth pass halves, so that it ends for any sizes
        const T part = pass % 4 == 3 ? T(0.5) : static_cast<T>(above_low - r) / static_cast<T>(above_low - above_high);
        floor = low + (high - low) * part;
      }
    }
    return finish(n, size, r, low, above_low, list);
  }

 private:
  static constexpr int buckets = 32;

  // Drops the smallest of those >= low until r are left.
  Index finish(Index n, const T* size, Index r, T low, Index above_low, std::int32_t* list) {
    const Index positive = kernels_.list_above(n, size, std::numeric_limits<T>::denorm_min(), list);
    if (positive <= r) {  // rows with zeros, as behind a relu
      Index missing = r - positive, at = 0;
      for (Index k = 0; k < n; ++k) {
        if (size[k] > 0 || missing-- > 0) list[at++] = static_cast<std::int32_t>(k);
      }
      return at;
    }
    above_low = kernels_.list_above(n, size, low = std::max(low, std::numeric_limits<T>::denorm_min()), list);
    for (Index more = above_low - r; more > 0; --more) {
      Index least = 0;
      for (Index t = 1; t < r + more; ++t) {
        if (size[list[t]] <= size[list[least]]) least = t;  // the last of equals goes first
      }
      for (Index t = least; t + 1 < r + more; ++t) list[t] = list[t + 1];
    }
    return r;
  }

  const ProjectKernels<T>& kernels_;
  T guess_[buckets];
};

}  // namespace heed::detail
