#pragma once
#include <type_traits>

#include "heed/kernels/avx2.hpp"
#include "heed/kernels/avx512.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/portable.hpp"
#include "heed/kernels/project_kernels.hpp"

namespace heed::detail {

/// The kernels on rows of weights for scalar T (float or double) of one instruction set.
template <class T>
const ProjectKernels<T>& project_kernels(Isa isa) {
  constexpr bool single = std::is_same_v<T, float>;
#if HEED_HAS_X86_KERNELS
  if (isa >= Isa::avx512) return avx512::project_table<std::conditional_t<single, avx512::Vf, avx512::Vd>>;
  if (isa == Isa::avx2) return avx2::project_table<std::conditional_t<single, avx2::Vf, avx2::Vd>>;
#endif
  (void)isa;
  return portable::project_table<std::conditional_t<single, portable::Vf, portable::Vd>>;
}

}  // namespace heed::detail
