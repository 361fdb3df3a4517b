#pragma once
#include "heed/kernels/isa.hpp"

// The intrinsics of the x86 instances. g++'s <immintrin.h> parses every AVX-512 extension, a third of the cost of
// Eigen/Core; its parts may only be included on behalf of <immintrin.h>, so that name is lent to the few used here and
// taken back.
#if HEED_HAS_X86_KERNELS
#if defined(__clang__) || defined(_IMMINTRIN_H_INCLUDED) || \
    !__has_include(<avx512bwintrin.h>) || !__has_include(<avx512vnniintrin.h>)
#include <immintrin.h>
#else
#include <smmintrin.h>
#define _IMMINTRIN_H_INCLUDED
// Each needs those before it.
// clang-format off
#include <avxintrin.h>
#include <avx2intrin.h>
#include <fmaintrin.h>
#include <f16cintrin.h>
#include <avx512fintrin.h>
#include <avx512dqintrin.h>
typedef unsigned int __mmask32;  // of <avx512vlintrin.h>, which is as long as all of these
#include <avx512bwintrin.h>
#include <avx512vnniintrin.h>
// clang-format on
#undef _IMMINTRIN_H_INCLUDED
#endif
#endif
