#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <vector>

namespace common {

struct Box {
  double left, top, right, bottom;
  [[nodiscard]] bool meets(const Box& other) const {
    return left < other.right && other.left < right && top < other.bottom && other.top < bottom;
  }
};

/// Where a label goes: its text starts at (x, y) on the baseline.
struct LabelPlace {
  double x = 0, y = 0;
  double anchor_x = 0, anchor_y = 0;  ///< the end of a line from the point to the label
  bool far = false;                   ///< far enough from its point to need that line
};

/// Finds a free place for the label of each point: on its right where there is room, else around it in growing circles.
/// A line of text counts as 16 pixels high and 8 pixels wide a letter.
class LabelPlaces {
 public:
  explicit LabelPlaces(Box inside) : inside_(inside) {}

  void keep_clear(const Box& box) { taken_.push_back(box); }

  LabelPlace put(double x, double y, std::size_t letters) {
    const double wide = 8.0 * static_cast<double>(letters), high = 16;
    constexpr int directions = 16;
    for (double away = 12; away < 200; away += 8) {
      for (int turn = 0; turn < directions; ++turn) {
        // 0, then alternately above and below, so that the right side is tried first
        const double angle = (turn % 2 == 0 ? 1 : -1) * std::numbers::pi * 2 * ((turn + 1) / 2) / directions;
        const double cx = x + away * std::cos(angle), cy = y + away * std::sin(angle);
        const double start = std::cos(angle) > 0.3 ? cx : std::cos(angle) < -0.3 ? cx - wide : cx - wide / 2;
        const Box box{start - 2, cy - high / 2, start + wide, cy + high / 2};
        if (free(box)) {
          taken_.push_back(box);
          const double anchor_x = std::clamp(x, box.left, box.right);
          return {start, cy + 4.5, anchor_x, cy, away > 24};
        }
      }
    }
    return {x + 12, y + 4.5, x, y, false};  // too crowded: on top of others
  }

 private:
  [[nodiscard]] bool free(const Box& box) const {
    if (box.left < inside_.left || box.right > inside_.right || box.top < inside_.top || box.bottom > inside_.bottom)
      return false;
    return std::none_of(taken_.begin(), taken_.end(), [&](const Box& other) { return box.meets(other); });
  }

  Box inside_;
  std::vector<Box> taken_;
};

}  // namespace common
