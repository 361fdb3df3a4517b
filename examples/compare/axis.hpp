#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "../common/printf_text.hpp"

namespace compare {

constexpr double smallest_error = 1e-9;  ///< a logarithm needs some error; what is below is drawn here

inline double shown(double error) { return std::max(error, smallest_error); }

/// One logarithmic axis: a range of values onto a range of pixels.
struct Axis {
  double least, most, from, to;
  [[nodiscard]] double at(double value) const {
    return from + (to - from) * (std::log(value) - std::log(least)) / (std::log(most) - std::log(least));
  }
};

/// The decades, and 2 and 5 of each where there are few of them.
inline std::vector<double> ticks(const Axis& axis) {
  const bool fine = axis.most / axis.least < 200;
  std::vector<double> values;
  for (double decade = std::pow(10, std::floor(std::log10(axis.least))); decade <= axis.most * 1.001; decade *= 10) {
    for (const double part : {1.0, 2.0, 5.0}) {
      const double value = decade * part;
      if ((fine || part == 1) && value >= axis.least * 0.999 && value <= axis.most * 1.001) values.push_back(value);
    }
  }
  return values;
}

inline std::string tick_text(double value) {
  if (value >= 1e-3 && value < 1e5) return common::format("%g", value);
  return common::format("1e%d", static_cast<int>(std::lround(std::log10(value))));
}

}  // namespace compare
