#pragma once
#include "heed/kernels/activation_kernels.hpp"
#include "heed/kernels/bf16_kernels.hpp"
#include "heed/kernels/gradient_kernels.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/int8_panel_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/project_kernels.hpp"
#include "heed/kernels/tile_kernels.hpp"

namespace heed::detail {

/// The table of type Table (TileKernels<T>, StorageKernels<T, S>, ...) of one instruction set; null where it has none.
/// Where HEED_COMPILED is defined, by the CMake target that brings the definitions, this header includes neither
/// intrinsics nor kernels; else a file compiles the kernels it calls.
template <class Table>
const Table* find_kernels(Isa isa);

}  // namespace heed::detail

#ifndef HEED_COMPILED
#include "heed/kernels/instances.hpp"
#endif

namespace heed::detail {

/// The kernels for scalar T (float or double) of one instruction set.
template <class T>
const TileKernels<T>& tile_kernels(Isa isa) {
  return *find_kernels<TileKernels<T>>(isa);
}

/// The kernels that read storage scalar S into scalar T.
template <class T, class S>
const StorageKernels<T, S>& storage_kernels(Isa isa) {
  return *find_kernels<StorageKernels<T, S>>(isa);
}

/// The kernel that widens rows of storage scalar S to scalar T.
template <class T, class S>
auto widen_rows(Isa isa) {
  return find_kernels<WidenKernels<T, S>>(isa)->widen;
}

/// The routing kernels that read storage scalar S into scalar T.
template <class T, class S>
const RouteKernels<T, S>& route_kernels(Isa isa) {
  return *find_kernels<RouteKernels<T, S>>(isa);
}

/// The kernels on rows of weights for scalar T.
template <class T>
const ProjectKernels<T>& project_kernels(Isa isa) {
  return *find_kernels<ProjectKernels<T>>(isa);
}

/// The kernels of backward passes for scalar T.
template <class T>
const GradientKernels<T>& gradient_kernels(Isa isa) {
  return *find_kernels<GradientKernels<T>>(isa);
}

/// The kernels of activation functions for scalar T.
template <class T>
const ActivationKernels<T>& activation_kernels(Isa isa) {
  return *find_kernels<ActivationKernels<T>>(isa);
}

/// The kernels on bfloat16 operands as they are stored, null where the instruction set has none.
inline const Bf16Kernels* bf16_kernels(Isa isa) { return find_kernels<Bf16Kernels>(isa); }

/// The kernels on pages of 8-bit keys and values.
inline const Int8Kernels& int8_kernels(Isa isa) { return *find_kernels<Int8Kernels>(isa); }

/// The kernels on panels and tiles of 8 bits, null where the instruction set has none.
inline const Int8PanelKernels* int8_panel_kernels(Isa isa) { return find_kernels<Int8PanelKernels>(isa); }

}  // namespace heed::detail
