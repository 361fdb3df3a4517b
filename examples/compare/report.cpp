#include "report.hpp"

#include "printf_text.hpp"
#include "statistics.hpp"

namespace compare {

Comparison compare_methods(const Inputs& inputs, const std::vector<Measurement>& measurements, const Settings& settings,
                           const Machine& machine) {
  Comparison comparison{&inputs, &measurements, &settings, machine, {}, measurements.front().seconds.size()};
  const double exact_flops = measurements.front().flops.products();
  const double exact_seconds = median(measurements.front().seconds);
  for (const Measurement& m : measurements) {
    Row row;
    row.name = m.method.name;
    row.description = m.method.description;
    row.flops = m.flops.products();
    row.fewer = exact_flops / row.flops;
    row.exponentials = m.flops.exponentials();
    row.seconds = median(m.seconds);
    row.faster = exact_seconds / row.seconds;
    row.value_flops = m.flops.products(heed::Phase::project) + m.flops.products(heed::Phase::sample);
    row.error_p50 = percentile(m.errors, 0.5);
    row.error_p90 = percentile(m.errors, 0.9);
    row.error_max = percentile(m.errors, 1);
    comparison.rows.push_back(row);
  }
  return comparison;
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
