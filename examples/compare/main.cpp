// compare: runs attention methods on the same heads and prints what each costs and how far off it is. See README.md.
#include <cstdio>
#include <exception>
#include <iostream>
#include <new>
#include <optional>
#include <string>
#include <vector>

#include "../common/machine.hpp"
#include "../common/output_files.hpp"
#include "../common/printf_text.hpp"
#include "../common/progress.hpp"
#include "arguments.hpp"
#include "inputs.hpp"
#include "measure.hpp"
#include "method.hpp"
#include "report.hpp"

namespace {

using namespace compare;
using namespace common;

void list_methods() {
  std::printf("methods by family; + runs by default where the data have what it needs\n");
  for (const Method& method : all_methods()) {
    const std::string needs = method.needs == Needs::nothing ? "" : " (needs " + name_of(method.needs) + ")";
    std::printf("%-8s %c %-19s %s%s%s\n", name_of(method.family).c_str(), method.by_default ? '+' : ' ',
                method.name.c_str(), method.description.c_str(), needs.c_str(),
                method.runs == Runs::decoding ? " (with --decode)" : "");
  }
}

void complain(const std::string& message) { std::cerr << "compare: " << one_line(message) << "\n"; }

constexpr int not_finite = 1, refused = 2;  // exit codes

// Measures, prints and draws; adds to `lengths`. Returns what is not finite, or nothing.
std::string run_once(const Arguments& arguments, const Inputs& inputs, const Machine& machine,
                     std::vector<LengthRows>& lengths) {
  const auto methods = chosen_methods(arguments.methods, inputs, arguments.decode.has_value());
  const Settings settings{inputs.options,  arguments.window,   arguments.seed,
                          machine.threads, arguments.fraction, arguments.decode.has_value()};
  std::vector<Measurement> measurements;
  {
    Progress progress("compare", arguments.progress);
    const std::string of = arguments.n.size() > 1 ? format("n = %ld, ", static_cast<long>(inputs.n_k())) : "";
    measurements = measure(inputs, methods, settings, arguments.repeats, [&](const std::string& phase, double share) {
      progress(of + phase + format(", %.0f%%", 100 * share));
    });
  }
  const Comparison comparison = compare_methods(inputs, measurements, settings, machine);
  std::cout << table_text(comparison) << std::flush;
  if (!arguments.json.empty()) write_file(arguments.json, json_text(comparison));
  if (!arguments.svg.empty()) write_file(arguments.svg, svg_text(comparison, Against::time));
  if (!arguments.svg_flops.empty()) write_file(arguments.svg_flops, svg_text(comparison, Against::flops));
  lengths.push_back({inputs.n_k(), comparison.rows});
  return not_finite_text(comparison);
}

int run(const Arguments& arguments) {
  if (arguments.list_methods) {
    list_methods();
    return 0;
  }
  require_writable(arguments.json, "--json");
  require_writable(arguments.svg, "--svg");
  require_writable(arguments.svg_flops, "--svg-flops");
  require_writable(arguments.svg_n, "--svg-n");
  std::vector<Inputs> runs;  // read before the first is measured, so that what is wrong is said at once
  for (const long n : arguments.n) runs.push_back(load_inputs(arguments, n));
  if (runs.empty()) runs.push_back(load_inputs(arguments, std::nullopt));
  const Machine machine = describe_machine(arguments.threads);
  std::vector<LengthRows> lengths;
  std::string wrong;
  for (const Inputs& inputs : runs) {
    if (&inputs != runs.data()) std::cout << "\n";
    wrong += run_once(arguments, inputs, machine, lengths);
  }
  if (!arguments.svg_n.empty()) write_file(arguments.svg_n, svg_over_lengths_text(runs.back(), lengths, machine));
  if (wrong.empty()) return 0;
  complain(wrong);
  return not_finite;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto arguments = read_arguments(argc, argv);
    return arguments ? run(*arguments) : 0;
  } catch (const std::bad_alloc&) {
    complain("the inputs do not fit in memory; take fewer --heads");
  } catch (const std::exception& error) {
    complain(error.what());
  }
  return refused;
}
