#pragma once
#include "heed/kernels/avx2/instance.hpp"
#include "heed/kernels/avx512/instance.hpp"
#include "heed/kernels/avx512_bf16/instance.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/neon/instance.hpp"
#include "heed/kernels/portable/instance.hpp"

namespace heed::detail {

/// Declared and explained in select.hpp.
template <class Table>
const Table* find_kernels(Isa isa) {
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
