#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "../common/svg.hpp"
#include "../common/svg_labels.hpp"

namespace train_treeformer {
namespace {

using namespace common;

constexpr double width = 1000, height = 520;
constexpr double left = 80, right = 968, top = 96, bottom = 456;

double y_of(double accuracy) { return bottom + (top - bottom) * accuracy; }

// A step that divides the range into 4 to 10 parts: 1, 2 or 5 times a power of ten.
double tick_step(double range) {
  const double decade = std::pow(10, std::floor(std::log10(std::max(1.0, range) / 4)));
  for (const double part : {1.0, 2.0, 5.0}) {
    if (range / (part * decade) <= 10) return part * decade;
  }
  return 10 * decade;
}

std::string frame(double n_steps, double across) {
  std::string svg;
  for (double value = 0; value <= n_steps; value += tick_step(n_steps)) {
    const double x = left + across * value;
    svg += format("<path class=\"grid\" d=\"M%.1f %.1fV%.1f\"/>\n", x, top, bottom) +
           text_at(x, bottom + 20, "class=\"tick\" text-anchor=\"middle\"", format("%g", value));
  }
  for (int tenths = 0; tenths <= 10; tenths += 2) {
    svg +=
        format("<path class=\"grid\" d=\"M%.1f %.1fH%.1f\"/>\n", left, y_of(0.1 * tenths), right) +
        text_at(left - 8, y_of(0.1 * tenths) + 4, "class=\"tick\" text-anchor=\"end\"", format("%.1f", 0.1 * tenths));
  }
  return svg + format("<path class=\"axis\" d=\"M%.1f %.1fV%.1fH%.1f\"/>\n", left, top, bottom, right) +
         text_at((left + right) / 2, bottom + 44, "class=\"name\" text-anchor=\"middle\"", "steps") +
         text_at(0, 0,
                 format("class=\"name\" text-anchor=\"middle\" transform=\"translate(24 %.1f) rotate(-90)\"",
                        (top + bottom) / 2),
                 "accuracy");
}

// Means over ten steps of one phase at a time.
std::string curve_of(const Run& run, double across, LabelPlaces& places) {
  std::string svg, path;
  double sum = 0, before_x = 0, before_y = 0;
  int n = 0, n_phases = 0;
  for (std::size_t i = 0; i < run.curve.size(); ++i) {
    const CurvePoint& point = run.curve[i];
    sum += point.report.answers.accuracy();
    ++n;
    const bool last =
        i + 1 == run.curve.size() || run.curve[i + 1].phase != point.phase || run.curve[i + 1].n != point.n;
    if (n == 10 || last) {
      const double x = left + across * static_cast<double>(point.step), y = y_of(sum / n);
      for (int part = 0; part <= 8 && !path.empty(); ++part) {  // labels stay off the line from the point before
        const double on_x = before_x + (x - before_x) * part / 8, on_y = before_y + (y - before_y) * part / 8;
        places.keep_clear({on_x - 3, on_y - 3, on_x + 3, on_y + 3});
      }
      path += format("%s%.1f %.1f", path.empty() ? "M" : "L", x, y);
      before_x = x, before_y = y;
      sum = 0, n = 0;
    }
    if (!last) continue;
    svg += format("<path fill=\"none\" stroke-width=\"1.8\" stroke=\"%s\" d=\"",
                  colours[static_cast<std::size_t>(n_phases) % colours.size()]) +
           path + "\"/>\n" +
           text_at(left + 4, top + 16 + 16 * n_phases,
                   format("class=\"label\" style=\"fill:%s\"",
                          colours[static_cast<std::size_t>(n_phases) % colours.size()]),
                   point.phase + format(", %ld tokens", static_cast<long>(point.n)));
    path.clear();
    ++n_phases;
  }
  return svg;
}

std::string clock_text(double seconds) {
  const long whole = std::lround(seconds);
  return format("%ld:%02ld", whole / 60, whole % 60);
}

}  // namespace

std::string progress_text(const CurvePoint& point, Index n_steps, double seconds_left) {
  const double steps_left = static_cast<double>(n_steps - point.step);
  return format("step %ld / %ld, %s, n %ld: loss %.4f, accuracy %.4f, attention %.1f kFLOP a token, ",
                static_cast<long>(point.step), static_cast<long>(n_steps), point.phase.c_str(),
                static_cast<long>(point.n), point.report.answers.loss, point.report.answers.accuracy(),
                point.report.attention_flops_per_token * 1e-3) +
         format("%.2f steps/s, ", seconds_left > 0 ? steps_left / seconds_left : 0.0) + clock_text(seconds_left) +
         " left";
}

std::string milestone_text(const Milestone& milestone) {
  const Evaluation& e = milestone.evaluation;
  std::string text =
      format("step %5ld  %-24s accuracy %.4f  loss %.4f (%.3f bits)  attention %8.1f kFLOP a token, %6.2fx fewer",
             static_cast<long>(milestone.step), milestone.name.c_str(), e.accuracy, e.loss, e.loss / std::log(2.0),
             e.flops_per_token * 1e-3, e.fewer);
  if (e.fullest_leaf > 0) text += format("  fullest leaf %.2f of the mean", e.fullest_leaf);
  return text;
}

std::string guess_text(const std::vector<Guess>& guesses) {
  std::string text;
  for (const Guess& guess : guesses) text += format("guessing %s: accuracy %.4f\n", guess.name.c_str(), guess.accuracy);
  return text;
}

std::string csv_text(const Run& run) {
  std::string text = "step,phase,n,rate,loss,accuracy,gradient_norm,attention_flops_per_token,seconds\n";
  for (const CurvePoint& point : run.curve) {
    text += format("%ld,%s,%ld,%.6g,%.6g,%.6g,%.6g,%.6g,%.2f\n", static_cast<long>(point.step), point.phase.c_str(),
                   static_cast<long>(point.n), point.report.rate, point.report.answers.loss,
                   point.report.answers.accuracy(), point.report.gradient_norm, point.report.attention_flops_per_token,
                   point.seconds);
  }
  return text;
}

std::string svg_text(const Run& run, const std::vector<Guess>& guesses, const std::string& title,
                     const std::string& subtitle) {
  const double n_steps = std::max(1.0, static_cast<double>(run.milestones.back().step));
  const double across = (right - left) / n_steps;
  std::string svg = svg_start(width, height) + text_at(left, 30, "class=\"title\"", title) +
                    text_at(left, 52, "class=\"sub\"", subtitle) + frame(n_steps, across);
  LabelPlaces places({left, top, right, bottom});
  places.keep_clear({left, top, left + 200, top + 70});  // names of the phases
  for (const Guess& guess : guesses) {
    svg += format("<path class=\"mark\" d=\"M%.1f %.1fH%.1f\"/>\n", left, y_of(guess.accuracy), right) +
           text_at(right - 4, y_of(guess.accuracy) - 5, "class=\"note\" text-anchor=\"end\"",
                   "guessing " + guess.name + format(": %.3f", guess.accuracy));
    places.keep_clear({right - 300, y_of(guess.accuracy) - 18, right, y_of(guess.accuracy)});
  }
  svg += curve_of(run, across, places);
  std::vector<Milestone> shown = run.milestones;
  std::erase_if(shown, [](const Milestone& milestone) { return milestone.name.ends_with("running medians"); });
  for (const Milestone& milestone : shown) {
    const double x = left + across * static_cast<double>(milestone.step), y = y_of(milestone.evaluation.accuracy);
    places.keep_clear({x - 6, y - 6, x + 6, y + 6});
  }
  for (const Milestone& milestone : shown) {
    const double x = left + across * static_cast<double>(milestone.step), y = y_of(milestone.evaluation.accuracy);
    const std::string label =
        milestone.name + format(": %.4f", milestone.evaluation.accuracy) +
        (milestone.evaluation.fewer > 1.005 ? format(", %.1fx fewer FLOPs", milestone.evaluation.fewer) : "");
    const LabelPlace place = places.put(x, y, label.size());
    svg += format("<circle cx=\"%.1f\" cy=\"%.1f\" r=\"4.5\" fill=\"#222\"/>\n", x, y);
    if (place.far)
      svg += format("<path class=\"leader\" d=\"M%.1f %.1fL%.1f %.1f\"/>\n", x, y, place.anchor_x, place.anchor_y);
    svg += text_at(place.x, place.y, "class=\"label\"", label);
  }
  return svg + "</svg>\n";
}

}  // namespace train_treeformer
