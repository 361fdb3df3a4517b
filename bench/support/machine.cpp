#include "support/machine.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <thread>

#include "support/cpu.hpp"

namespace heed_bench {
namespace {

std::string cpu_model() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.rfind("model name", 0) != 0) continue;
    const auto colon = line.find(':');
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown CPU";
}

std::string compiler_name() {
#if defined(__clang__)
  return "clang " + std::to_string(__clang_major__) + "." + std::to_string(__clang_minor__);
#elif defined(__GNUC__)
  return "g++ " + std::to_string(__GNUC__) + "." + std::to_string(__GNUC_MINOR__);
#else
  return "unknown compiler";
#endif
}

std::string commit_name() {
  if (const char* given = std::getenv("HEED_BENCH_COMMIT")) return given;
#if defined(HEED_BENCH_COMMIT)
  return HEED_BENCH_COMMIT;
#else
  return "not stated";
#endif
}

}  // namespace

std::vector<std::pair<std::string, std::string>> Machine::rows() const {
  return {{"cpu", cpu},           {"cores", std::to_string(cores)},
          {"compiler", compiler}, {"flags", flags},
          {"commit", commit},     {"command", command}};
}

Machine describe_machine(int argc, const char* const* argv) {
  Machine machine;
  machine.cpu =
      cpu_model() + " (" + std::string(name_of(widest_registers())) + (has_bf16_dot() ? ", bf16 dot" : "") + ")";
  machine.cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  machine.compiler = compiler_name();
#if defined(HEED_BENCH_FLAGS)
  machine.flags = std::string(HEED_BENCH_FLAGS) + " (" + own_flags() + ")";
#else
  machine.flags = own_flags();
#endif
  machine.commit = commit_name();
  for (int i = 0; i < argc; ++i) {
    const std::string argument = argv[i];
    const auto slash = i == 0 ? argument.find_last_of('/') : std::string::npos;
    machine.command += (i == 0 ? "" : " ") + (slash == std::string::npos ? argument : argument.substr(slash + 1));
  }
  return machine;
}

}  // namespace heed_bench
