#pragma once
#include <cstdlib>
#include <string>
#include <string_view>

#include "heed/core/errors.hpp"

namespace heed {

/// Instruction sets the kernels are compiled for. `baseline` is portable; avx512_bf16 multiplies bfloat16 as it is
/// stored and is avx512 otherwise; neon is that of 64-bit Arm.
enum class Isa { baseline, avx2, avx512, avx512_bf16, neon };

/// Name of an instruction set, as HEED_ISA spells it.
inline std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::neon: return "neon";
    case Isa::avx512_bf16: return "avx512_bf16";
    case Isa::avx512: return "avx512";
    case Isa::avx2: return "avx2";
    case Isa::baseline:
    default: return "baseline";
  }
}

namespace detail {

inline constexpr Isa all_isas[] = {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16, Isa::neon};

/// True where the vector instances are compiled at all, with the attributes of g++ or clang.
#if defined(__x86_64__) && defined(__GNUC__)
#define HEED_HAS_X86_KERNELS 1
#else
#define HEED_HAS_X86_KERNELS 0
#endif
#if defined(__aarch64__) && defined(__GNUC__) && !defined(__AARCH64EB__)
#define HEED_HAS_NEON_KERNELS 1
#else
#define HEED_HAS_NEON_KERNELS 0
#endif

/// True where the CPU executes the kernels of `isa`.
inline bool has_isa(Isa isa) {
  if (isa == Isa::baseline) return true;
  if (isa == Isa::neon) return HEED_HAS_NEON_KERNELS != 0;  // every CPU of the architecture has them
#if HEED_HAS_X86_KERNELS
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
  if (isa == Isa::avx2) return true;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  return avx512 && (isa == Isa::avx512 || __builtin_cpu_supports("avx512bf16"));
#else
  return false;
#endif
}

/// The fastest of those the CPU executes. The dot instruction is left to AMD: there it issues as often as an FMA and
/// does twice the work (Zen 5: 492 GFLOP/s against 250), on Intel a quarter as often (Emerald Rapids: 80 against 165).
/// A table of CPUs and not a clock, so that every run takes the same path.
inline Isa best_isa() {
#if HEED_HAS_X86_KERNELS
  if (has_isa(Isa::avx512_bf16) && __builtin_cpu_is("amd")) return Isa::avx512_bf16;
#endif
  for (const Isa isa : {Isa::avx512, Isa::avx2, Isa::neon}) {
    if (has_isa(isa)) return isa;
  }
  return Isa::baseline;
}

/// The instruction set that HEED_ISA asks for, null or empty asking for none. `has`: whether the CPU executes one.
/// Errors  OptionError for a name that is none, or an instruction set the CPU lacks.
inline Isa chosen_isa(const char* asked, bool (*has)(Isa) = &has_isa) {
  if (asked == nullptr || *asked == '\0') return best_isa();
  std::string all, here;
  bool known = false;
  for (const Isa isa : all_isas) {
    const std::string name(isa_name(isa));
    if (name == asked && has(isa)) return isa;
    known = known || name == asked;
    all += (all.empty() ? "" : ", ") + name;
    if (has(isa)) here += (here.empty() ? "" : ", ") + name;
  }
  if (known) throw OptionError(message("HEED_ISA = ", asked, " must be one of those that this CPU has: ", here));
  throw OptionError(message("HEED_ISA = ", asked, " must be one of ", all));
}

}  // namespace detail

/// Instruction set of this process: the fastest the CPU has, or the one named by
/// HEED_ISA=baseline|avx2|avx512|avx512_bf16|neon in the environment. Decided once; results are bit-identical for a
/// given instruction set.
/// Errors  OptionError for another name, or an instruction set the CPU lacks: the first attention call says so, and
///         every one after it.
inline Isa active_isa() {
  static const Isa isa = detail::chosen_isa(std::getenv("HEED_ISA"));
  return isa;
}

}  // namespace heed
