#pragma once
#include <string>
#include <utility>
#include <vector>

namespace heed_bench {

/// What a figure depends on besides the code: CPU, cores, compiler, flags, commit and command line. The commit is
/// HEED_BENCH_COMMIT, of the environment or else the macro; flags are what the compiler's macros tell.
struct Machine {
  std::string cpu;
  int cores = 1;
  std::string compiler;
  std::string flags;
  std::string commit;
  std::string command;

  /// Name and value of each, in the order they are printed.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> rows() const;
};

Machine describe_machine(int argc, const char* const* argv);

/// The flags that change this translation unit's code, read from its own predefined macros.
/// It is static so that each translation unit answers for itself.
[[nodiscard]] static inline std::string own_flags() {
  std::string flags;
#if defined(__OPTIMIZE__)
  flags += "optimised";
#else
  flags += "not optimised";
#endif
#if defined(__AVX512F__)
  flags += ", AVX-512 allowed";
#elif defined(__AVX2__)
  flags += ", AVX2 allowed";
#else
  flags += ", baseline instruction set";
#endif
#if defined(NDEBUG)
  flags += ", asserts off";
#endif
#if defined(__FAST_MATH__)
  flags += ", -ffast-math";
#endif
  return flags;
}

}  // namespace heed_bench
