#pragma once
#include <type_traits>

#include "heed/kernels/avx2/instance.hpp"
#include "heed/kernels/avx512/instance.hpp"
#include "heed/kernels/avx512_bf16/instance.hpp"
#include "heed/kernels/avx512_vnni/instance.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/neon/instance.hpp"
#include "heed/kernels/portable/instance.hpp"

namespace heed::detail {

/// Declared and explained in select.hpp.
template <class Table>
const Table* find_kernels(Isa isa) {
#if HEED_HAS_X86_KERNELS
  if ((isa == Isa::avx512 || isa == Isa::avx512_bf16) && has_vnni()) {
    if constexpr (std::is_same_v<Table, Int8Kernels>)  // the same bits, sooner
      return &avx512_vnni::int8_table<avx512::Vf, avx512_vnni::Vi>;
    if constexpr (std::is_same_v<Table, Int8PanelKernels>) return &avx512_vnni::panel_table;
  }
#endif
  switch (isa) {
#if HEED_HAS_X86_KERNELS
    case Isa::avx512_bf16: return avx512_bf16::table<Table>;
    case Isa::avx512: return avx512::table<Table>;
    case Isa::avx2: return avx2::table<Table>;
#endif
#if HEED_HAS_NEON_KERNELS
    case Isa::neon: return neon::table<Table>;
#endif
    default: return portable::table<Table>;
  }
}

}  // namespace heed::detail
