#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "../common/svg.hpp"
#include "../common/svg_labels.hpp"
#include "axis.hpp"
#include "report.hpp"

namespace compare {
namespace {

using namespace common;

constexpr double width = 1000, height = 640;
constexpr double left = 92, right = 968, top = 112, bottom = 560;
constexpr double smallest_cost = 1e-6;  // a logarithm needs some: a FLOP, or a nanosecond

std::string frame(const Axis& x, const Axis& y, Against against) {
  std::string svg;
  for (const double value : ticks(x)) {
    svg += format("<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", x.at(value), top, bottom);
    svg += text_at(x.at(value), bottom + 20, "class=\"tick\" text-anchor=\"middle\"", tick_text(value));
  }
  for (const double value : ticks(y)) {
    svg += format("<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", left, y.at(value), right);
    svg += text_at(left - 8, y.at(value) + 4, "class=\"tick\" text-anchor=\"end\"", tick_text(value));
  }
  svg += format("<path class=\"axis\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", left, top, bottom, right);
  svg += text_at((left + right) / 2, bottom + 46, "class=\"name\" text-anchor=\"middle\"",
                 against == Against::time
                     ? "time of one pass over all heads, ms (median of rounds, logarithmic)"
                     : "FLOPs of one pass over all heads, in millions (kept pairs and real tokens, logarithmic)");
  svg += text_at(
      0, 0,
      format("class=\"name\" text-anchor=\"middle\" transform=\"translate(24 %.1f) rotate(-90)\"", (top + bottom) / 2),
      "relative error of a head's output (logarithmic)");
  return svg;
}

std::string titles(const Comparison& comparison, Against against) {
  const Inputs& inputs = *comparison.inputs;
  std::string svg = text_at(left, 30, "class=\"title\"",
                            std::string(against == Against::time ? "Error against time: " : "Error against FLOPs: ") +
                                problem_text(comparison));
  svg += text_at(left, 52, "class=\"sub\"", "data: " + inputs.source);
  svg += text_at(left, 70, "class=\"sub\"", comparison.machine.text());
  if (inputs.generated) svg += text_at(left, 92, "class=\"loud\"", generated_warning);
  svg += text_at(right, height - 12, "class=\"sub\" text-anchor=\"end\"",
                 "marker: p50 over heads; whisker: up to p90; lower and further left is better");
  return svg;
}

// The methods to draw, and the one they are to be seen against.
struct Drawing {
  std::vector<Row> rows;
  std::string left_out;  // names of methods whose output is not finite
  const Row* mark;       // the dashed line stands at its cost; null: no line
  std::string better;    // what is true left of that line
  Against against;

  [[nodiscard]] double cost(const Row& row) const {
    return std::max(smallest_cost, against == Against::time ? row.seconds * 1e3 : row.flops * 1e-6);
  }
};

Drawing drawing_of(const Comparison& comparison, Against against) {
  const auto makes_values = [](const Row& row) { return row.value_flops > 0; };
  const bool values_only =
      against == Against::flops && std::any_of(comparison.rows.begin(), comparison.rows.end(), makes_values);
  Drawing drawing{{}, "", nullptr, "faster than exact", against};
  if (against == Against::flops) drawing.better = values_only ? "fewer FLOPs than projected" : "fewer FLOPs than exact";
  for (const Row& row : comparison.rows) {
    if (row.name == (values_only ? "projected" : "exact")) drawing.mark = &row;
    if (values_only && !makes_values(row)) continue;
    if (std::isfinite(row.error_max)) {
      drawing.rows.push_back(row);
    } else {
      drawing.left_out += (drawing.left_out.empty() ? "" : ", ") + row.name;
    }
  }
  return drawing;
}

// The axes that hold every row and the mark: time or FLOPs, and error.
std::pair<Axis, Axis> axes_of(const Drawing& drawing) {
  double fastest = std::numeric_limits<double>::max(), slowest = smallest_cost, least = 1, most = smallest_error;
  const auto include = [&](const Row& row) {
    fastest = std::min(fastest, drawing.cost(row));
    slowest = std::max(slowest, drawing.cost(row));
  };
  if (drawing.mark != nullptr) include(*drawing.mark);
  for (const Row& row : drawing.rows) {
    include(row);
    least = std::min(least, shown(row.error_p50));
    most = std::max(most, shown(row.error_p90));
  }
  fastest = std::min(fastest, slowest);  // nothing to draw
  const bool time = drawing.against == Against::time;
  return {Axis{fastest / (time ? 1.5 : 1.05), slowest * (time ? 2.2 : 1.1), left, right},  // FLOPs lie closer
          Axis{least / 4, most * 4, bottom, top}};
}

// A dashed line at the cost of the mark, with words on its left where there is room, else on its right.
std::string mark_at(const Drawing& drawing, const Axis& x, LabelPlaces& places) {
  const double at = x.at(drawing.cost(*drawing.mark)), words = 7.0 * static_cast<double>(drawing.better.size() + 2);
  const bool fits = at - words > left;
  const double first = fits ? at - words : at;
  places.keep_clear({first, bottom - 20, first + words, bottom});
  places.keep_clear({at - 2, top, at + 2, bottom});
  return format("<path class=\"mark\" d=\"M%.1f %.1fV%.1f\"/>\n", at, top, bottom) +
         text_at(fits ? at - 6 : at + 6, bottom - 8,
                 format("class=\"note\" text-anchor=\"%s\"", fits ? "end" : "start"), "\u2190 " + drawing.better);
}

std::string points(const Drawing& drawing, const Axis& x, const Axis& y, LabelPlaces& places) {
  std::string svg;
  for (const Row& row : drawing.rows) {
    const double px = x.at(drawing.cost(row));
    places.keep_clear({px - 7, y.at(shown(row.error_p90)) - 5, px + 7, y.at(shown(row.error_p50)) + 7});
  }
  for (std::size_t m = 0; m < drawing.rows.size(); ++m) {
    const Row& row = drawing.rows[m];
    const char* colour = colours[static_cast<std::size_t>(row.family) % colours.size()];
    const double px = x.at(drawing.cost(row)), p50 = y.at(shown(row.error_p50)), p90 = y.at(shown(row.error_p90));
    svg += format("<path stroke=\"%s\" stroke-width=\"1.8\" d=\"M%.1f %.1fV%.1fM%.1f %.1fh10\"/>\n", colour, px, p50,
                  p90, px - 5, p90);
    svg += format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"5\" fill=\"%s\"/>\n", px, p50, colour);
    const std::string label = row.name + (row.error_p50 < smallest_error ? " (error 0)" : "");
    const LabelPlace place = places.put(px, p50, label.size());
    if (place.far)
      svg += format("<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", px, p50, place.anchor_x, place.anchor_y);
    svg += text_at(place.x, place.y, format("class=\"label\" style=\"fill:%s\"", colour), label);
  }
  return svg;
}

}  // namespace

std::string svg_text(const Comparison& comparison, Against against) {
  const Drawing drawing = drawing_of(comparison, against);
  const auto [x, y] = axes_of(drawing);
  std::string svg = svg_start(width, height) + titles(comparison, against) + frame(x, y, against);
  LabelPlaces places({left, top, right, bottom});
  if (drawing.mark != nullptr) svg += mark_at(drawing, x, places);
  if (!drawing.left_out.empty())
    svg += text_at(left, height - 12, "class=\"loud\"", "not finite, hence not drawn: " + drawing.left_out);
  if (y.most > 1 && y.least < 1) {
    svg += format("<path class=\"mark\" d=\"M%.1f %.1fH%.1f\"/>\n", left, y.at(1), right);
    svg += text_at(right - 4, y.at(1) - 5, "class=\"note\" text-anchor=\"end\"", "as wrong as answering 0");
    places.keep_clear({right - 160, y.at(1) - 18, right, y.at(1)});
  }
  return svg + points(drawing, x, y, places) + "</svg>\n";
}

}  // namespace compare
