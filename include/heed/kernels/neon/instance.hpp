#pragma once
#include "heed/kernels/activation_kernels.hpp"
#include "heed/kernels/gradient_kernels.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/project_kernels.hpp"
#include "heed/kernels/tile_kernels.hpp"

#if HEED_HAS_NEON_KERNELS
#include <arm_neon.h>

#include "heed/kernels/begin.inl"  // without a HEED_TARGET: every aarch64 CPU has these instructions

namespace heed::detail::neon {
// clang-format off
#include "heed/kernels/neon/vectors.inl"
#include "heed/kernels/neon/bytes.inl"
// clang-format on

#include "heed/kernels/bodies.inl"
}  // namespace heed::detail::neon

#include "heed/kernels/end.inl"
#endif
