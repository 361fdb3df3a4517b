// compare: runs attention methods on the same heads and prints what each costs and how far off it is. See README.md.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>

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
    std::printf("%-19s %s%s\n", method.name.c_str(), method.description.c_str(),
                method.needs_x ? " (needs x and w_v)" : "");
  }
}

// A pipe with a name would have to wait for its reader. Those under /dev (stdout, fd/63) are open already.
bool waits_for_a_reader(const std::string& path) {
  std::error_code failure;
  return std::filesystem::is_fifo(path, failure) && !path.starts_with("/dev/");
}

// Asked before a long run: nothing is lost, what stands in the file stays until there is something to write.
void require_writable(const std::string& path, const std::string& option) {
  if (path.empty()) return;
  std::error_code failure;
  const bool disk = std::filesystem::is_block_file(path, failure);
  if (disk || waits_for_a_reader(path) || !std::ofstream(path, std::ios::app)) {
    throw std::runtime_error(option + " is " + path + " but must be a file that can be written");
  }
}

void write(const std::string& path, const std::string& text) {
  std::ofstream stream(path, std::ios::trunc);
  stream << text;
  stream.close();
  if (!stream) throw std::runtime_error(path + " was not written whole; is the disk full?");
}

// One line whatever the message holds: text from a file may hold anything.
void complain(std::string message) {
  if (message.starts_with("heed: ")) message.erase(0, 6);
  std::replace_if(
      message.begin(), message.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }, ' ');
  std::cerr << "compare: " << message << "\n";
}

constexpr int not_finite = 1, refused = 2;  // exit codes

int run(const Arguments& arguments) {
  if (arguments.list_methods) {
    list_methods();
    return 0;
  }
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
  if (!arguments.json.empty()) write(arguments.json, json_text(comparison));
  if (!arguments.svg.empty()) write(arguments.svg, svg_text(comparison, Against::time));
  if (!arguments.svg_flops.empty()) write(arguments.svg_flops, svg_text(comparison, Against::flops));
  const std::string wrong = not_finite_text(comparison);
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
