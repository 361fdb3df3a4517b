#pragma once
#include "heed/kernels/intrinsics.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/project_kernels.hpp"
#include "heed/kernels/tile_kernels.hpp"

#if HEED_HAS_X86_KERNELS
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,prfchw"))), apply_to = function)
#pragma float_control(push)
#pragma float_control(precise, on)
#else
#pragma GCC push_options
#pragma GCC optimize("O2", "no-fast-math")
#pragma GCC target("avx2,fma,f16c,prfchw")
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // g++ 12 warns inside its own AVX-512 intrinsics
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace heed::detail::avx2 {
#define HEED_INLINE [[gnu::always_inline]]
// clang-format off
#include "heed/kernels/simd_avx2.inl"
#include "heed/kernels/tile_body.inl"
#include "heed/kernels/adjust_body.inl"
#include "heed/kernels/pack_body.inl"
#include "heed/kernels/pairs_body.inl"
#include "heed/kernels/row_body.inl"
#include "heed/kernels/write_body.inl"
#include "heed/kernels/route_body.inl"
#include "heed/kernels/draw_body.inl"
#include "heed/kernels/project_body.inl"
#include "heed/kernels/table_body.inl"
// clang-format on
#undef HEED_INLINE
}  // namespace heed::detail::avx2

#if defined(__clang__)
#pragma float_control(pop)
#pragma clang attribute pop
#else
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
#endif
