#include <algorithm>
#include <cstddef>
#include <string>
#include <vector>

#include "../../examples/common/svg.hpp"
#include "peers/setting.hpp"

namespace heed_bench {
namespace {

using common::format;
using common::text_at;

constexpr double width = 1000, left = 290, right = 940, head = 92, bar = 15, gap = 14, title_high = 26;

// The engines of a setting from pixel `y` on; moves `y` past them.
std::string bars(const Setting& setting, double most, double& y) {
  const Shape& shape = setting.shape;
  std::string svg =
      text_at(left, y + 16, "class=\"name\"",
              format("%s%ld keys, d = %ld, %ld heads%s, %d thread%s", shape.backward ? "backward, " : "",
                     static_cast<long>(shape.n_k), static_cast<long>(shape.d), static_cast<long>(shape.n_heads),
                     shape.causal ? ", causal" : "", shape.threads, shape.threads == 1 ? "" : "s"));
  y += title_high;
  for (const Row& row : setting.rows) {
    const double share = share_of_limit(setting, row), wide = (right - left) * std::min(1.0, share / most);
    const bool own = row.engine.starts_with("heed");
    svg += format("<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"%s\"/>\n", left, y, wide, bar - 2,
                  common::colours[own ? 0 : 7]);
    svg += text_at(left - 8, y + 11, "class=\"tick\" text-anchor=\"end\"", row.engine);
    svg += text_at(left + wide + 6, y + 11, "class=\"tick\"", format("%.0f%%", 100 * share));
    y += bar;
  }
  y += gap;
  return svg;
}

}  // namespace

std::string to_svg(const std::vector<Setting>& settings, const std::string& machine) {
  double most = 1, high = head;
  for (const Setting& setting : settings) {
    high += title_high + gap + bar * static_cast<double>(setting.rows.size());
    for (const Row& row : setting.rows) most = std::max(most, share_of_limit(setting, row));
  }
  const bool decode = !settings.empty() && settings.front().decode;
  std::string svg = common::svg_start(width, high);
  svg += text_at(
      20, 32, "class=\"title\"",
      decode ? "One query against a cache: share of the DRAM bandwidth" : "Attention: share of the float FMA peak");
  svg += text_at(20, 54, "class=\"sub\"", machine + "; medians, engines taking turns in one run");
  double y = head - 20;
  for (const Setting& setting : settings) svg += bars(setting, most, y);
  return svg + "</svg>\n";
}

}  // namespace heed_bench
