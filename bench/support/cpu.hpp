#pragma once
#include <cstdlib>
#include <string_view>

namespace heed_bench {

/// The vector registers a measurement runs on; the default is the widest the CPU has.
enum class Registers { portable, sse2, avx2, avx512 };

inline Registers widest_registers() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return Registers::avx512;
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Registers::avx2;
  return Registers::sse2;
#else
  return Registers::portable;
#endif
}

/// The registers a peak is measured on: those that HEED_ISA=avx2 or baseline makes the library use, else the widest. So
/// an instance that is forced is held to its own peak.
inline Registers registers_in_use() {
  const char* asked = std::getenv("HEED_ISA");
  const std::string_view name = asked == nullptr ? "" : asked;
  const Registers widest = widest_registers();
  if (name == "avx2" && widest == Registers::avx512) return Registers::avx2;
  if (name == "baseline" && widest != Registers::portable) return Registers::sse2;
  return widest;
}

/// True where the CPU multiplies bfloat16 pairs and adds them to float (VDPBF16PS on 512-bit registers).
bool has_bf16_dot();

inline std::string_view name_of(Registers registers) {
  switch (registers) {
    case Registers::avx512: return "avx512";
    case Registers::avx2: return "avx2";
    case Registers::sse2: return "sse2";
    case Registers::portable: break;
  }
  return "portable";
}

}  // namespace heed_bench
