#pragma once
#include "heed/kernels/avx512.hpp"
#include "heed/kernels/bf16_kernels.hpp"
#include "heed/kernels/intrinsics.hpp"
#include "heed/kernels/isa.hpp"

// The bfloat16 dot instruction on top of the AVX-512 instance, whose vector types and exp2 it uses.
#if HEED_HAS_X86_KERNELS
#if defined(__clang__)
#pragma clang attribute push(                                                                      \
    __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw"))), \
    apply_to = function)
#pragma float_control(push)
#pragma float_control(precise, on)
#else
#pragma GCC push_options
#pragma GCC optimize("O2", "no-fast-math")
#pragma GCC target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prfchw")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 warns inside its own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace heed::detail::avx512_bf16 {
#define HEED_INLINE [[gnu::always_inline]]
// clang-format off
#include "heed/kernels/simd_avx512_bf16.inl"
#include "heed/kernels/bf16_pack_body.inl"
#include "heed/kernels/bf16_tile_body.inl"
// clang-format on
#undef HEED_INLINE

inline constexpr Bf16Kernels table = {&transpose, &gather, &pack_values, &all_finite, &clean, &scores, &weigh, &values};
}  // namespace heed::detail::avx512_bf16

#if defined(__clang__)
#pragma float_control(pop)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
#endif
