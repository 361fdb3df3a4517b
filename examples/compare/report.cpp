#include "../common/printf_text.hpp"
#include "report.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "statistics.hpp"

namespace compare {

using common::format;
namespace {

// 0 where there is no such number: no pair is kept, or a clock saw no time pass.
double ratio(double of, double over) { return of > 0 && over > 0 ? of / over : 0; }

// How many times faster in the middle round: methods take turns, so that what slows the machine slows both.
double middle_ratio(const std::vector<double>& of, const std::vector<double>& over) {
  std::vector<double> ratios;
  for (std::size_t r = 0; r < std::min(of.size(), over.size()); ++r) ratios.push_back(ratio(of[r], over[r]));
  return median(ratios);
}

double error_percentile(const std::vector<double>& errors, double part) {
  const bool finite = std::all_of(errors.begin(), errors.end(), [](double error) { return std::isfinite(error); });
  return finite ? percentile(errors, part) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace

Comparison compare_methods(const Inputs& inputs, const std::vector<Measurement>& measurements, const Settings& settings,
                           const common::Machine& machine) {
  const std::vector<double>& exact_seconds = measurements.front().seconds;
  Comparison comparison{&inputs, &measurements, &settings, machine, {}, exact_seconds.size()};
  comparison.exact_low = percentile(exact_seconds, 0.25);
  comparison.exact_high = percentile(exact_seconds, 0.75);
  const double exact_flops = measurements.front().flops.products();
  for (const Measurement& m : measurements) {
    Row row;
    row.name = m.method.name;
    row.description = m.method.description;
    row.family = m.method.family;
    row.flops = m.flops.products();
    row.fewer = ratio(exact_flops, row.flops);
    row.exponentials = m.flops.exponentials();
    row.seconds = median(m.seconds);
    row.faster = middle_ratio(exact_seconds, m.seconds);
    row.value_flops = m.flops.products(heed::Phase::project) + m.flops.products(heed::Phase::sample);
    row.error_p50 = error_percentile(m.errors, 0.5);
    row.error_p90 = error_percentile(m.errors, 0.9);
    row.error_max = error_percentile(m.errors, 1);
    std::vector<double> reported;
    for (const Attempt::Decoding& of : m.decoding) {
      row.bytes += of.bytes;
      reported.push_back(of.reported);
    }
    row.reported_p90 = error_percentile(reported, 0.9);
    comparison.rows.push_back(row);
  }
  return comparison;
}

std::string not_finite_text(const Comparison& comparison) {
  std::string text;
  for (const Measurement& m : *comparison.measurements) {
    std::string heads;
    int n_heads = 0;
    for (std::size_t h = 0; h < m.errors.size(); ++h) {
      if (std::isfinite(m.errors[h])) continue;
      heads += (n_heads++ == 0 ? "" : ", ") + std::to_string(comparison.inputs->heads[h].number);
    }
    if (n_heads == 0) continue;
    text += (text.empty() ? "the result is not finite: " : ", ") + m.method.name +
            (n_heads == 1 ? " (head " : " (heads ") + heads + ")";
  }
  return text;
}

std::string verdict_text(const Comparison& comparison) {
  constexpr double notable = 1.05;  // rounds differ by as much
  std::string text;
  for (const double bound : {0.01, 0.1}) {
    const Row* best = nullptr;
    for (const Row& row : comparison.rows) {
      if (row.name != "exact" && row.error_p90 <= bound && (best == nullptr || row.seconds < best->seconds))
        best = &row;
    }
    const std::string within = format("within %.0f%% of exact at nine heads of ten: ", 100 * bound);
    text += text.empty() ? "For these heads, " + within : "; " + within;
    if (best == nullptr || best->faster < notable) {
      text += "nothing faster";
    } else {
      text += best->name + format(", %.2fx faster, p90 error %.2g", best->faster, best->error_p90);
    }
  }
  text += ".";
  constexpr double steady = 1.25;
  if (comparison.exact_high > steady * comparison.exact_low)
    text += " The machine was busy: run it again for the times.";
  return text;
}

std::string problem_text(const Comparison& comparison) {
  const Inputs& inputs = *comparison.inputs;
  const auto number = [](Index n) { return std::to_string(n); };
  const std::size_t n_heads = inputs.heads.size();
  std::string text = std::to_string(n_heads) + (n_heads == 1 ? " head, " : " heads, ");
  text += inputs.n_q() == inputs.n_k() ? "n = " + number(inputs.n_q())
                                       : "n_q = " + number(inputs.n_q()) + ", n_k = " + number(inputs.n_k());
  text += ", d = " + number(inputs.d());
  if (inputs.d_v() != inputs.d()) text += ", d_v = " + number(inputs.d_v());
  const heed::Causal causal = inputs.options.mask.causal;
  text += causal == heed::Causal::none ? ", bidirectional" : ", causal (" + name_of(causal) + ")";
  return text + format(", scale %.4g", inputs.scale());
}

}  // namespace compare
