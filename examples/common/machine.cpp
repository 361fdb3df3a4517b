#include "machine.hpp"

#include <fstream>

#include <heed/kernels/isa.hpp>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace common {
namespace {

std::string cpu_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (line.starts_with("model name")) return line.substr(std::min(line.size(), line.find(':') + 2));
  }
  return "unknown CPU";
}

std::string compiler_name() {
#if defined(__clang__)
  return std::string("clang ") + __clang_version__;
#elif defined(__GNUC__)
  return std::string("g++ ") + __VERSION__;
#else
  return "unknown compiler";
#endif
}

std::string build_flags() {
#if defined(__OPTIMIZE__)
  std::string flags = "optimised";
#else
  std::string flags = "NOT OPTIMISED";
#endif
#if defined(__AVX512F__)
  flags += ", AVX-512 flags";
#elif defined(__AVX2__)
  flags += ", AVX2 flags";
#else
  flags += ", baseline flags";
#endif
#if !defined(NDEBUG)
  flags += ", asserts on";
#endif
#if defined(__FAST_MATH__)
  flags += ", -ffast-math";
#endif
  return flags;
}

int thread_count(int asked) {
#ifdef _OPENMP
  return asked > 0 ? asked : omp_get_max_threads();
#else
  (void)asked;
  return 1;
#endif
}

}  // namespace

std::string Machine::text() const {
  return cpu + ", " + std::to_string(threads) + (threads == 1 ? " thread, " : " threads, ") + kernels + " kernels, " +
         compiler + " (" + flags + ")";
}

Machine describe_machine(int asked_threads) {
  return {cpu_name(), compiler_name(), build_flags(), std::string(heed::isa_name(heed::active_isa())),
          thread_count(asked_threads)};
}

}  // namespace common
