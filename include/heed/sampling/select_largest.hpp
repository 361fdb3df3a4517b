#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "heed/core/types.hpp"
#include "heed/kernels/project_kernels.hpp"

namespace heed::detail {

/// Finds the r largest of n sizes (>= 0) by narrowing a threshold: passes that count whole vectors, and no sort. It
/// remembers the last threshold for each share r / n, since neighbouring rows are alike; that changes how many passes
/// it takes, never the answer.
template <class T>
class LargestSelector {
 public:
  explicit LargestSelector(const ProjectKernels<T>& kernels) : kernels_(kernels) {
    for (int b = 0; b < buckets; ++b) {  // as if sizes were absolute values of normal numbers
      const T left = static_cast<T>(b + 1) / static_cast<T>(buckets + 1);
      guess_[b] = static_cast<T>(2.2) * (1 - left) * (1 - left / 2);
    }
  }

  /// Writes the places of the r largest in ascending order, 0 < r < n; of equal sizes the lower places. `sum` is the
  /// sum of all sizes, `known` > 0 a threshold to try first, `band` a whole number of vectors. `list` has room for n
  /// and one vector; ends[b] becomes the number of places below (b + 1) * band. Returns how many places were written:
  /// r, or fewer where sizes are NaN.
  Index select(Index n, const T* size, T sum, Index r, T known, Index band, std::int32_t* list, Index* ends) {
    const T floor = known > 0 && kernels_.count_above(n, size, known) == r ? known : find(n, size, sum, r);
    if (floor > 0) {
      Index found = 0;
      for (Index first = 0; first < n; first += band)
        *ends++ = found += kernels_.list_above(std::min(band, n - first), size + first, floor, first, list + found);
      return found;
    }
    const Index found = finish(n, size, r, list);
    mark_ends(list, found, n, band, ends);
    return found;
  }

  static void mark_ends(const std::int32_t* list, Index count, Index n, Index band, Index* ends) {
    Index at = 0;
    for (Index first = 0; first < n; first += band) {
      while (at < count && list[at] < first + band) ++at;
      *ends++ = at;
    }
  }

 private:
  static constexpr int buckets = 32;

  // A threshold that exactly r sizes reach; 0 where equal sizes leave none.
  T find(Index n, const T* size, T sum, Index r) {
    const T mean = sum / static_cast<T>(n);
    T& guess = guess_[std::min<Index>(buckets - 1, r * buckets / n)];
    T low = 0, high = std::numeric_limits<T>::max();
    Index above_low = n, above_high = 0;  // how many are >= low, >= high
    T floor = guess * mean;
    for (int pass = 0; pass < 40 && floor > low && floor < high; ++pass) {
      const Index above = kernels_.count_above(n, size, floor);
      if (above == r) {
        guess = floor / mean;
        return floor;
      }
      (above > r ? low : high) = floor;
      (above > r ? above_low : above_high) = above;
      if (above_high == 0 || low == 0) {  // no bracket yet: a step as long as normal numbers suggest
        const T step = static_cast<T>(above - r) / static_cast<T>(n) * static_cast<T>(1.7);
        floor *= 1 + std::clamp(step, T(-0.6), T(1.5));
        if (low > 0 && !(floor > low)) floor = low * static_cast<T>(1.5);
        if (above_high > 0 && !(floor < high)) floor = high / 2;
      } else {  // counts are nearly linear in between; every fourth pass halves, so that the search ends for any sizes
        const T part = pass % 4 == 3 ? T(0.5) : static_cast<T>(above_low - r) / static_cast<T>(above_low - above_high);
        floor = low + (high - low) * part;
      }
    }
    low_ = low;
    return 0;
  }

  // Drops the smallest of the sizes >= low_ until r are left.
  Index finish(Index n, const T* size, Index r, std::int32_t* list) {
    const Index positive = kernels_.list_above(n, size, std::numeric_limits<T>::denorm_min(), 0, list);
    if (positive <= r) {  // rows with zeros, as behind a relu
      Index missing = r - positive, at = 0;
      for (Index k = 0; k < n; ++k) {
        if (size[k] > 0 || missing-- > 0) list[at++] = static_cast<std::int32_t>(k);
      }
      return at;
    }
    const Index some = kernels_.list_above(n, size, std::max(low_, std::numeric_limits<T>::denorm_min()), 0, list);
    const auto before = [&](std::int32_t a, std::int32_t b) {
      return size[a] > size[b] || (!(size[b] > size[a]) && a < b);
    };
    if (some > r) std::nth_element(list, list + r, list + some, before);
    std::sort(list, list + r);
    return r;
  }

  const ProjectKernels<T>& kernels_;
  T low_ = 0;
  T guess_[buckets];
};

}  // namespace heed::detail
