#pragma once
#include "heed/kernels/activation_kernels.hpp"
#include "heed/kernels/gradient_kernels.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/project_kernels.hpp"
#include "heed/kernels/tile_kernels.hpp"

#include "heed/kernels/begin.inl"

namespace heed::detail::portable {
// clang-format off
#include "heed/kernels/portable/vectors.inl"
#include "heed/kernels/portable/bytes.inl"
// clang-format on

#include "heed/kernels/bodies.inl"
}  // namespace heed::detail::portable

#include "heed/kernels/end.inl"
