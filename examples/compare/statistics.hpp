#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace compare {

/// The value below which a share `part` of `values` lies, on a line between neighbours (numpy's default). `values` must
/// be finite and not empty.
inline double percentile(std::vector<double> values, double part) {
  std::sort(values.begin(), values.end());
  const double place = part * static_cast<double>(values.size() - 1);
  const auto below = static_cast<std::size_t>(place);
  const std::size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (place - std::floor(place)) * (values[above] - values[below]);
}

inline double median(const std::vector<double>& values) { return percentile(values, 0.5); }

}  // namespace compare
