#pragma once
#include "heed/kernels/avx512/instance.hpp"
#include "heed/kernels/bf16_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/x86_intrinsics.hpp"

// The bfloat16 dot instruction on top of the AVX-512 instance, whose vector types, exp2 and tables it uses.
#if HEED_HAS_X86_KERNELS
#include "heed/kernels/avx512_bf16/begin.inl"

namespace heed::detail::avx512_bf16 {
#include "heed/kernels/avx512_bf16/vectors.inl"

#include "heed/kernels/avx512_bf16/pack.inl"
#include "heed/kernels/avx512_bf16/tile.inl"

#include "heed/kernels/avx512_bf16/gradient.inl"

inline constexpr Bf16Kernels bf16_table = {&transpose,  &gather,    &pack_values,  &all_finite,
                                           &clean,      &scores,    &weigh,        &values,
                                           &interleave, &pair_keys, &pair_queries, &add_products};
template <class Table>
inline constexpr const Table* table = avx512::table<Table>;
template <>
inline constexpr const Bf16Kernels* table<Bf16Kernels> = &bf16_table;
}  // namespace heed::detail::avx512_bf16

#include "heed/kernels/end.inl"
#endif
