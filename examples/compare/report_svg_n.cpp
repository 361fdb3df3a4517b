#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "../common/svg.hpp"
#include "axis.hpp"
#include "report.hpp"

namespace compare {
namespace {

using namespace common;

constexpr double panels_width = 1160, panels_height = 560, panel_top = 92, panel_bottom = 490, room_for_names = 150;

// What one method came to at one length.
struct Point {
  double n, value;
};
struct Line {
  Family family = Family::exact;
  std::vector<Point> points;
};
using Lines = std::map<std::string, Line>;

Lines lines_of(const std::vector<LengthRows>& lengths, double (*value)(const Row&)) {
  Lines lines;
  for (const LengthRows& length : lengths) {
    for (const Row& row : length.rows) {
      if (!std::isfinite(row.error_max) || !(value(row) > 0)) continue;
      Line& line = lines[row.name];
      line.family = row.family;
      line.points.push_back({static_cast<double>(length.n), value(row)});
    }
  }
  return lines;
}

// The name of a line, which ends at (end_x, y).
struct Name {
  double y, end_x;
  std::string text;
  const char* colour;
};

// Names below each other from pixel `x` on, as near to the ends of their lines as there is room.
std::string column_of(std::vector<Name> names, double x) {
  constexpr double high = 16;
  std::sort(names.begin(), names.end(), [](const Name& a, const Name& b) { return a.y < b.y; });
  std::string svg;
  double free = panel_top - high, last = panel_bottom + high - high * static_cast<double>(names.size());
  for (const Name& name : names) {
    free = std::clamp(name.y, free + high, std::max(free, last) + high);
    last += high;
    svg += format("<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", name.end_x, name.y, x - 3, free);
    svg += text_at(x, free + 4, format("class=\"label\" style=\"fill:%s\"", name.colour), name.text);
  }
  return svg;
}

// One panel from pixel `from` on; its lines are named at their ends.
std::string panel(double from, const std::string& name, const std::vector<LengthRows>& lengths, const Lines& lines,
                  double mark) {
  const double to = from + panels_width / 2 - 70 - room_for_names;
  double least = mark > 0 ? mark : std::numeric_limits<double>::max(), most = mark;
  for (const auto& [method, line] : lines) {
    for (const Point& point : line.points) {
      least = std::min(least, point.value);
      most = std::max(most, point.value);
    }
  }
  if (!(least <= most)) least = most = 1;  // nothing to draw
  const Axis x{static_cast<double>(lengths.front().n), static_cast<double>(lengths.back().n), from, to};
  const Axis y{least / 1.3, most * 1.3, panel_bottom, panel_top};
  std::string svg;
  for (const LengthRows& length : lengths) {
    const double at = x.at(static_cast<double>(length.n));
    svg += format("<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", at, panel_top, panel_bottom);
    svg += text_at(at, panel_bottom + 20, "class=\"tick\" text-anchor=\"middle\"",
                   format("%ld", static_cast<long>(length.n)));
  }
  for (const double value : ticks(y)) {
    svg += format("<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", from, y.at(value), to);
    svg += text_at(from - 8, y.at(value) + 4, "class=\"tick\" text-anchor=\"end\"", tick_text(value));
  }
  svg += format("<path class=\"axis\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", from, panel_top, panel_bottom, to);
  if (mark > 0) svg += format("<path class=\"mark\" d=\"M%.1f %.1fH%.1f\"/>\n", from, y.at(mark), to);
  svg += text_at(from, panel_top - 12, "class=\"name\"", name);
  svg += text_at((from + to) / 2, panel_bottom + 44, "class=\"name\" text-anchor=\"middle\"", "keys n");
  std::vector<Name> names;
  for (const auto& [method, line] : lines) {
    const char* colour = colours[static_cast<std::size_t>(line.family) % colours.size()];
    std::string path;
    for (const Point& point : line.points) {
      const double px = x.at(point.n), py = y.at(point.value);
      path += format("%s%.1f %.1f", path.empty() ? "M" : "L", px, py);
      svg += format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"%s\"/>\n", px, py, colour);
    }
    svg += format("<path stroke=\"%s\" stroke-width=\"1.8\" fill=\"none\" d=\"%s\"/>\n", colour, path.c_str());
    names.push_back({y.at(line.points.back().value), x.at(line.points.back().n), method, colour});
  }
  return svg + column_of(names, to + 16);
}

}  // namespace

std::string svg_over_lengths_text(const Inputs& inputs, const std::vector<LengthRows>& lengths,
                                  const Machine& machine) {
  std::string svg = svg_start(panels_width, panels_height);
  svg += text_at(70, 28, "class=\"title\"",
                 format("Error and speed over the length: %ld heads, d = %ld", static_cast<long>(inputs.heads.size()),
                        static_cast<long>(inputs.d())));
  svg += text_at(70, 50, "class=\"sub\"", "data: " + inputs.source + "; " + machine.text());
  if (inputs.generated) svg += text_at(70, panels_height - 8, "class=\"loud\"", generated_warning);
  svg += panel(70, "median error of a head", lengths,
               lines_of(lengths, [](const Row& row) { return row.error_p50 > smallest_error ? row.error_p50 : 0; }), 0);
  svg += panel(70 + panels_width / 2, "times faster than exact", lengths,
               lines_of(lengths, [](const Row& row) { return row.name == "exact" ? 0 : row.faster; }), 1);
  return svg + "</svg>\n";
}

}  // namespace compare
