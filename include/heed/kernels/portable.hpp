#pragma once
#include "heed/kernels/project_kernels.hpp"
#include "heed/kernels/tile_kernels.hpp"

#if defined(__clang__)
#pragma float_control(push)
#pragma float_control(precise, on)
#elif defined(__GNUC__)
#pragma GCC push_options
#pragma GCC optimize("O2", "no-fast-math")
#endif

namespace heed::detail::portable {
#define HEED_INLINE [[gnu::always_inline]]
// clang-format off
#include "heed/kernels/simd_portable.inl"
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
}  // namespace heed::detail::portable

#if defined(__clang__)
#pragma float_control(pop)
#elif defined(__GNUC__)
#pragma GCC pop_options
#endif
