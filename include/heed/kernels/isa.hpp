#pragma once
#include <cstdlib>
#include <cstring>
#include <string_view>

namespace heed {

/// Instruction sets the kernels are compiled for, slowest first. `baseline` is portable.
enum class Isa { baseline, avx2, avx512 };

inline std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::baseline: return "baseline";
  }
  return "baseline";
}

namespace detail {

/// True where the vector instances are compiled at all: x86-64 with the attributes of g++ or clang.
#if defined(__x86_64__) && defined(__GNUC__)
#define HEED_HAS_X86_KERNELS 1
#else
#define HEED_HAS_X86_KERNELS 0
#endif

inline Isa best_isa() {
#if HEED_HAS_X86_KERNELS
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  if (avx2 && avx512) return Isa::avx512;
  if (avx2) return Isa::avx2;
#endif
  return Isa::baseline;
}

inline Isa chosen_isa() {
  const Isa best = best_isa();
  const char* asked = std::getenv("HEED_ISA");
  if (asked == nullptr) return best;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512}) {
    if (isa_name(isa) == asked && isa < best) return isa;
  }
  return best;
}

}  // namespace detail

/// Instruction set of this process: the best the CPU has, or the one named by HEED_ISA=baseline|avx2|avx512 in the
/// environment where the CPU has it. Decided once; results are bit-identical for a given instruction set.
inline Isa active_isa() {
  static const Isa isa = detail::chosen_isa();
  return isa;
}

}  // namespace heed
