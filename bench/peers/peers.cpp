// Attention by heed, by Eigen users and by the engines found on this machine, interleaved in one run; a table for each
// setting.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "peers/arguments.hpp"
#include "peers/modules.hpp"
#include "peers/setting.hpp"
#include "support/cpu.hpp"
#include "support/machine.hpp"

namespace heed_bench {
namespace {

std::ofstream opened(const std::string& option, const std::string& path) {
  std::ofstream file;
  if (path.empty()) return file;
  file.open(path);
  if (!file) throw std::invalid_argument("peers: " + option + " " + path + " cannot be written");
  return file;
}

int run(int argc, char** argv) {
  const Arguments arguments = parse_arguments(argc, argv);
  if (arguments.help) {
    std::fputs(Arguments::usage, stdout);
    return EXIT_SUCCESS;
  }
  std::ofstream file = opened("--json", arguments.json), picture = opened("--svg", arguments.svg);
  const Machine machine = describe_machine(argc, argv);
  for (const auto& [name, value] : machine.rows()) std::printf("%-9s %s\n", name.c_str(), value.c_str());
  std::printf(
      "counted   2 flops per multiply-add of kept pairs, products only: 4 d a pair and head, backward 10 d; medians\n"
      "          over rounds; \"heed is\" compares with the first engine listed; error: largest of the rows checked, "
      "against double\n");
  // OpenBLAS takes a CPU newer than itself for an old one (Debian's 0.3.21 knows neither Zen 5 nor Emerald Rapids) and
  // runs SSE3 or AVX2 kernels. Here it is told to use its AVX-512 kernels, unless the caller chose others.
  if (widest_registers() == Registers::avx512) setenv("OPENBLAS_CORETYPE", "SkylakeX", 0);
  const auto engines = load_engines(arguments.only);
  if (engines.empty()) throw std::invalid_argument("peers: --only leaves no engine");
  const auto dram = arguments.decode ? std::make_unique<ReadBandwidth>() : nullptr;
  std::string settings;
  std::vector<Setting> all;
  for (const int threads : arguments.threads) {
    for (Shape shape : arguments.shapes) {
      shape.threads = threads;
      shape.causal = arguments.causal;
      shape.backward = arguments.backward;
      if (arguments.decode) shape.n_q = 1, shape.causal = false;
      const Setting& setting = all.emplace_back(measure(engines, shape, arguments, dram.get()));
      print(setting);
      settings += (settings.empty() ? "" : ",\n  ") + to_json(setting);
    }
  }
  if (file.is_open()) {
    file << "{\"machine\":{";
    const char* comma = "";
    for (const auto& [name, value] : machine.rows()) {
      file << comma << "\"" << name << "\":\"" << value << "\"";
      comma = ",";
    }
    file << "},\"settings\":[\n  " << settings << "\n]}\n";
  }
  if (picture.is_open()) picture << to_svg(all, machine.rows().front().second);
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace heed_bench

int main(int argc, char** argv) {
  try {
    return heed_bench::run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}
