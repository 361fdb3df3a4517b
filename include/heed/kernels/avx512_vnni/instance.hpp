#pragma once
#include "heed/kernels/avx512/instance.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/int8_panel_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/x86_intrinsics.hpp"

// The dot instruction of bytes on top of the AVX-512 instance. Its sums are whole numbers, so its results on pages are
// the same bits as that instance's, and it takes its place wherever the CPU has it; panels of 8 bits are its own.
#if HEED_HAS_X86_KERNELS
#include "heed/kernels/avx512_vnni/begin.inl"

namespace heed::detail::avx512_vnni {
using avx512::exp2;
using avx512::row_sums;
using avx512::Vf;
#include "heed/kernels/avx512_vnni/bytes.inl"

#include "heed/kernels/bodies/int8.inl"

#include "heed/kernels/bodies/int8_scan.inl"

#include "heed/kernels/avx512_vnni/pack.inl"

#include "heed/kernels/avx512_vnni/panel.inl"

inline constexpr Int8PanelKernels panel_table = {&pack_queries, &largest,     &pack_keys,   &pack_values,
                                                 &panel_scores, &panel_weigh, &panel_values};
}  // namespace heed::detail::avx512_vnni

#include "heed/kernels/end.inl"

namespace heed::detail {

/// True where the CPU has the dot instruction.
inline bool has_vnni() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512vnni");
}

}  // namespace heed::detail
#endif
