#pragma once
#include "heed/kernels/activation_kernels.hpp"
#include "heed/kernels/gradient_kernels.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/project_kernels.hpp"
#include "heed/kernels/tile_kernels.hpp"
#include "heed/kernels/x86_intrinsics.hpp"

#if HEED_HAS_X86_KERNELS
#include "heed/kernels/avx2/begin.inl"

namespace heed::detail::avx2 {
// clang-format off
#include "heed/kernels/avx2/vectors.inl"
#include "heed/kernels/avx2/bytes.inl"
// clang-format on

#include "heed/kernels/bodies.inl"
}  // namespace heed::detail::avx2

#include "heed/kernels/end.inl"
#endif
