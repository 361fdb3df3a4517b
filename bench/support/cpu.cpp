#include "support/cpu.hpp"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace heed_bench {

bool has_bf16_dot() {
#if defined(__x86_64__)
  // Leaf 7, subleaf 1, EAX bit 5: read directly because clang before 15 does not name it in __builtin_cpu_supports.
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 1, &a, &b, &c, &d) == 0) return false;
  return ((a >> 5U) & 1U) != 0 && __builtin_cpu_supports("avx512f") != 0;
#else
  return false;
#endif
}

}  // namespace heed_bench
