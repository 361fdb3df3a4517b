#pragma once
#include <type_traits>

#include "heed/kernels/avx2.hpp"
#include "heed/kernels/avx512.hpp"
#include "heed/kernels/avx512_bf16.hpp"
#include "heed/kernels/bf16_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/portable.hpp"
#include "heed/kernels/tile_kernels.hpp"

namespace heed::detail {

/// The kernels for scalar T (float or double) of one instruction set.
template <class T>
const TileKernels<T>& tile_kernels(Isa isa) {
  constexpr bool single = std::is_same_v<T, float>;
  static_assert(single || std::is_same_v<T, double>);
#if HEED_HAS_X86_KERNELS
  if (isa >= Isa::avx512) return avx512::table<std::conditional_t<single, avx512::Vf, avx512::Vd>>;
  if (isa == Isa::avx2) return avx2::table<std::conditional_t<single, avx2::Vf, avx2::Vd>>;
#endif
  (void)isa;
  return portable::table<std::conditional_t<single, portable::Vf, portable::Vd>>;
}

/// The kernels that read storage scalar S into scalar T.
template <class T, class S>
const StorageKernels<T, S>& storage_kernels(Isa isa) {
  constexpr bool single = std::is_same_v<T, float>;
#if HEED_HAS_X86_KERNELS
  if (isa >= Isa::avx512) return avx512::storage_table<std::conditional_t<single, avx512::Vf, avx512::Vd>, S>;
  if (isa == Isa::avx2) return avx2::storage_table<std::conditional_t<single, avx2::Vf, avx2::Vd>, S>;
#endif
  (void)isa;
  return portable::storage_table<std::conditional_t<single, portable::Vf, portable::Vd>, S>;
}

/// The kernel that widens rows of storage scalar S to scalar T.
template <class T, class S>
WidenRows<T, S> widen_rows(Isa isa) {
  constexpr bool single = std::is_same_v<T, float>;
#if HEED_HAS_X86_KERNELS
  if (isa >= Isa::avx512) return &avx512::widen<std::conditional_t<single, avx512::Vf, avx512::Vd>, S>;
  if (isa == Isa::avx2) return &avx2::widen<std::conditional_t<single, avx2::Vf, avx2::Vd>, S>;
#endif
  (void)isa;
  return &portable::widen<std::conditional_t<single, portable::Vf, portable::Vd>, S>;
}

/// The routing kernels that read storage scalar S into scalar T.
template <class T, class S>
const RouteKernels<T, S>& route_kernels(Isa isa) {
  constexpr bool single = std::is_same_v<T, float>;
#if HEED_HAS_X86_KERNELS
  if (isa >= Isa::avx512) return avx512::route_table<std::conditional_t<single, avx512::Vf, avx512::Vd>, S>;
  if (isa == Isa::avx2) return avx2::route_table<std::conditional_t<single, avx2::Vf, avx2::Vd>, S>;
#endif
  (void)isa;
  return portable::route_table<std::conditional_t<single, portable::Vf, portable::Vd>, S>;
}

/// The kernels on bfloat16 operands as they are stored, null where the instruction set has none.
inline const Bf16Kernels* bf16_kernels(Isa isa) {
#if HEED_HAS_X86_KERNELS
  if (isa == Isa::avx512_bf16) return &avx512_bf16::table;
#endif
  (void)isa;
  return nullptr;
}

}  // namespace heed::detail
