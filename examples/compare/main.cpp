// compare: runs attention methods on the same heads and prints what each costs and how far off it is. See README.md.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <fstream>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>

#include "arguments.hpp"
#include "inputs.hpp"
#include "measure.hpp"
#include "method.hpp"
#include "progress.hpp"
#include "report.hpp"

namespace {

using namespace compare;

void list_methods() {
  for (const Method& method : all_methods()) {
    std::printf("%-17s %s%s\n", method.name.c_str(), method.description.c_str(),
                method.needs_x ? " (needs x and w_v)" : "");
  }
}

// Asked before a long run: nothing is lost, what stands in the file stays until there is something to write.
void require_writable(const std::string& path, const std::string& option) {
  if (!path.empty() && !std::ofstream(path, std::ios::app)) {
    throw std::runtime_error(option + " is " + path + " but must be a file that can be written");
  }
}

void write(const std::string& path, const std::string& text) {
  if (path.empty()) return;
  std::ofstream stream(path, std::ios::trunc);
  stream << text;
  stream.close();
  if (!stream) throw std::runtime_error(path + " was not written whole; is the disk full?");
}

void run(const Arguments& arguments) {
  if (arguments.list_methods) return list_methods();
  require_writable(arguments.json, "--json");
  require_writable(arguments.svg, "--svg");
  require_writable(arguments.svg_flops, "--svg-flops");
  const Inputs inputs = load_inputs(arguments);
  const auto methods = chosen_methods(arguments.methods, inputs);
  const Machine machine = describe_machine(arguments.threads);
  const Settings settings{inputs.options, arguments.window, arguments.seed, machine.threads, arguments.fraction};
  std::vector<Measurement> measurements;
  {
    Progress progress(arguments.progress);
    measurements = measure(inputs, methods, settings, arguments.repeats, std::ref(progress));
  }
  const Comparison comparison = compare_methods(inputs, measurements, settings, machine);
  std::cout << table_text(comparison) << std::flush;
  write(arguments.json, json_text(comparison));
  write(arguments.svg, svg_text(comparison, Against::time));
  write(arguments.svg_flops, svg_text(comparison, Against::flops));
}

// One line whatever the message holds: text from a file may hold anything.
int refuse(std::string message) {
  if (message.starts_with("heed: ")) message.erase(0, 6);
  std::replace_if(
      message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  std::cerr << "compare: " << message << "\n";
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto arguments = read_arguments(argc, argv);
    if (arguments) run(*arguments);
    return 0;
  } catch (const std::bad_alloc&) {
    return refuse("the inputs do not fit in memory; take fewer --heads");
  } catch (const std::exception& error) {
    return refuse(error.what());
  }
}
