// Vector types of the AVX-512 instance; README.md says what each member means.

using avx2::nonzero_bytes;

HEED_INLINE inline __m512i lanes_of_32() {
  return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
}
HEED_INLINE inline __m512i lanes_of_64() { return _mm512_set_epi64(7, 6, 5, 4, 3, 2, 1, 0); }

// Swaps the off-diagonal blocks of `block` lanes of two vectors a and b, whose lanes are numbered one behind the other:
// `low` keeps a's lanes where bit `block` of the number is clear and takes the others from b, `block` lanes down;
// `high` is the mirror image.
struct Swap {
  __m512i low, high;
};
template <int block>
HEED_INLINE inline Swap swap_of_32() {
  const __m512i lane = lanes_of_32(), shift = _mm512_set1_epi32(block), second = _mm512_set1_epi32(16);
  const __mmask16 upper = _mm512_test_epi32_mask(lane, shift);
  return {_mm512_mask_add_epi32(lane, upper, _mm512_sub_epi32(lane, shift), second),
          _mm512_mask_add_epi32(_mm512_add_epi32(lane, shift), upper, lane, second)};
}
template <int block>
HEED_INLINE inline Swap swap_of_64() {
  const __m512i lane = lanes_of_64(), shift = _mm512_set1_epi64(block), second = _mm512_set1_epi64(8);
  const __mmask8 upper = _mm512_test_epi64_mask(lane, shift);
  return {_mm512_mask_add_epi64(lane, upper, _mm512_sub_epi64(lane, shift), second),
          _mm512_mask_add_epi64(_mm512_add_epi64(lane, shift), upper, lane, second)};
}

struct Vf {
  using Scalar = float;
  using V = __m512;
  using M = __mmask16;
  static constexpr Size lanes = 16;
  static constexpr int vectors = 3;  // query vectors of a panel
  static constexpr int rows = 8;  // rows of a register tile: 24 accumulators + 3 queries + broadcasts of 32 registers

  HEED_INLINE static V zero() { return _mm512_setzero_ps(); }
  HEED_INLINE static V set(float x) { return _mm512_set1_ps(x); }
  HEED_INLINE static V load(const float* p) { return _mm512_loadu_ps(p); }
  // Lane i: p[at[i]].
  HEED_INLINE static V load_each(const float* p, const std::int32_t* at) {
    return _mm512_i32gather_ps(_mm512_loadu_si512(at), p, 4);
  }
  HEED_INLINE static void store(float* p, V x) { _mm512_storeu_ps(p, x); }
  HEED_INLINE static M first(Size n) { return static_cast<M>((1u << n) - 1u); }
  HEED_INLINE static V load_first(const float* p, Size n) { return _mm512_maskz_loadu_ps(first(n), p); }
  HEED_INLINE static void store_first(float* p, V x, Size n) { _mm512_mask_storeu_ps(p, first(n), x); }
  HEED_INLINE static V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
  HEED_INLINE static V add(V a, V b) { return _mm512_add_ps(a, b); }
  HEED_INLINE static V sub(V a, V b) { return _mm512_sub_ps(a, b); }
  HEED_INLINE static V mul(V a, V b) { return _mm512_mul_ps(a, b); }
  HEED_INLINE static V div(V a, V b) { return _mm512_div_ps(a, b); }
  HEED_INLINE static V abs(V a) { return _mm512_abs_ps(a); }
  HEED_INLINE static V min(V a, V b) { return _mm512_min_ps(a, b); }
  // The second operand is returned where either is NaN.
  HEED_INLINE static V max(V a, V b) { return _mm512_max_ps(a, b); }
  HEED_INLINE static M less(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
  HEED_INLINE static float largest(V a) { return _mm512_reduce_max_ps(a); }
  HEED_INLINE static unsigned bits(M m) { return m; }
  HEED_INLINE static M is_minus_infinity(V a) {
    return _mm512_cmpeq_epi32_mask(_mm512_castps_si512(a), _mm512_set1_epi32(static_cast<int>(0xff800000u)));
  }
  HEED_INLINE static M is_zero(V a) {
    return _mm512_testn_epi32_mask(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff));
  }
  HEED_INLINE static bool all_finite(V a) {
    const __m512i exponent = _mm512_set1_epi32(0x7f800000);
    return _mm512_cmpeq_epi32_mask(_mm512_and_si512(_mm512_castps_si512(a), exponent), exponent) == 0;
  }
  HEED_INLINE static V select(M m, V yes, V no) { return _mm512_mask_blend_ps(m, no, yes); }
  HEED_INLINE static M mask_of(unsigned lanes_set) { return static_cast<M>(lanes_set); }
  // Bit l of to[j * stride]: bit j of words[l], for j < n.
  HEED_INLINE static void transpose_bits(const std::uint32_t* words, Size n, std::uint16_t* to, Size stride) {
    __m512i rest = _mm512_loadu_si512(words);
    for (Size j = 0; j < n; ++j, rest = _mm512_srli_epi32(rest, 1))
      to[j * stride] = _mm512_test_epi32_mask(rest, _mm512_set1_epi32(1));
  }
  // Writes first + lane for the lanes of m, packed; `to` has room for a whole vector.
  HEED_INLINE static void store_places(std::int32_t* to, M m, Size first) {
    const __m512i place = _mm512_add_epi32(lanes_of_32(), _mm512_set1_epi32(static_cast<int>(first)));
    _mm512_storeu_si512(to, _mm512_maskz_compress_epi32(m, place));
  }
  HEED_INLINE static float sum(V a) { return _mm512_reduce_add_ps(a); }

  // x = whole + fraction with the fraction in [0, 1); pow2(p, x) = p * 2^floor(x), and 0 below the normal numbers:
  // subnormal weights would slow every product they enter a hundredfold.
  HEED_INLINE static V clamp_exponent(V x) { return x; }
  HEED_INLINE static V fraction(V x) { return _mm512_reduce_ps(x, 0x01); }
  HEED_INLINE static V pow2(V p, V x) {
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), p, x);
  }

  HEED_INLINE static V load_as(const float* p) { return _mm512_loadu_ps(p); }
  HEED_INLINE static V load_as(const double* p) {
    const __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(p));
    const __m256 high = _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8));
    return _mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
  }
  HEED_INLINE static V load_as(const Half* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  HEED_INLINE static V load_as(const Bfloat* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  HEED_INLINE static V load_as(const Bool* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }

  HEED_INLINE static void store_as(float* p, V x) { _mm512_storeu_ps(p, x); }
  HEED_INLINE static void store_as(Half* p, V x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  HEED_INLINE static void store_as(Bfloat* p, V x) {
    const __m512i bits = _mm512_castps_si512(x);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i nearest = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    const __m512i word = _mm512_mask_or_epi32(nearest, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(word, 16)));
  }

  // Swaps the off-diagonal blocks of size 1, 2, 4, 8: four stages of two-source permutes.
  template <int block>
  HEED_INLINE static void transpose_stage(V* r) {
    const Swap swap = swap_of_32<block>();
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) {
      if ((i & block) == 0) {
        const V a = r[i], b = r[i + block];
        r[i] = _mm512_permutex2var_ps(a, swap.low, b);
        r[i + block] = _mm512_permutex2var_ps(a, swap.high, b);
      }
    }
  }
  HEED_INLINE static void transpose(V* r) {
    transpose_stage<1>(r);
    transpose_stage<2>(r);
    transpose_stage<4>(r);
    transpose_stage<8>(r);
  }

  // Lane l: a[l] + a[l ^ block] where bit `block` of l is clear, the same of b where it is set.
  template <int block>
  HEED_INLINE static V merge(V a, V b) {
    const Swap swap = swap_of_32<block>();
    return _mm512_add_ps(_mm512_permutex2var_ps(a, swap.low, b), _mm512_permutex2var_ps(a, swap.high, b));
  }
};

struct Vd {
  using Scalar = double;
  using V = __m512d;
  using M = __mmask8;
  static constexpr Size lanes = 8;
  static constexpr int vectors = 3;
  static constexpr int rows = 8;

  HEED_INLINE static V zero() { return _mm512_setzero_pd(); }
  HEED_INLINE static V set(double x) { return _mm512_set1_pd(x); }
  HEED_INLINE static V load(const double* p) { return _mm512_loadu_pd(p); }
  HEED_INLINE static V load_each(const double* p, const std::int32_t* at) {
    return _mm512_i32gather_pd(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), p, 8);
  }
  HEED_INLINE static void store(double* p, V x) { _mm512_storeu_pd(p, x); }
  HEED_INLINE static M first(Size n) { return static_cast<M>((1u << n) - 1u); }
  HEED_INLINE static V load_first(const double* p, Size n) { return _mm512_maskz_loadu_pd(first(n), p); }
  HEED_INLINE static void store_first(double* p, V x, Size n) { _mm512_mask_storeu_pd(p, first(n), x); }
  HEED_INLINE static V fma(V a, V b, V c) { return _mm512_fmadd_pd(a, b, c); }
  HEED_INLINE static V add(V a, V b) { return _mm512_add_pd(a, b); }
  HEED_INLINE static V sub(V a, V b) { return _mm512_sub_pd(a, b); }
  HEED_INLINE static V mul(V a, V b) { return _mm512_mul_pd(a, b); }
  HEED_INLINE static V div(V a, V b) { return _mm512_div_pd(a, b); }
  HEED_INLINE static V abs(V a) { return _mm512_abs_pd(a); }
  HEED_INLINE static V min(V a, V b) { return _mm512_min_pd(a, b); }
  HEED_INLINE static V max(V a, V b) { return _mm512_max_pd(a, b); }
  HEED_INLINE static M less(V a, V b) { return _mm512_cmp_pd_mask(a, b, _CMP_LT_OQ); }
  HEED_INLINE static unsigned bits(M m) { return m; }
  HEED_INLINE static M is_minus_infinity(V a) {
    return _mm512_cmpeq_epi64_mask(_mm512_castpd_si512(a),
                                   _mm512_set1_epi64(static_cast<long long>(0xfff0000000000000ull)));
  }
  HEED_INLINE static M is_zero(V a) {
    return _mm512_testn_epi64_mask(_mm512_castpd_si512(a), _mm512_set1_epi64(0x7fffffffffffffffll));
  }
  HEED_INLINE static bool all_finite(V a) {
    const __m512i exponent = _mm512_set1_epi64(0x7ff0000000000000ll);
    return _mm512_cmpeq_epi64_mask(_mm512_and_si512(_mm512_castpd_si512(a), exponent), exponent) == 0;
  }
  HEED_INLINE static V select(M m, V yes, V no) { return _mm512_mask_blend_pd(m, no, yes); }
  HEED_INLINE static M mask_of(unsigned lanes_set) { return static_cast<M>(lanes_set); }
  HEED_INLINE static void transpose_bits(const std::uint32_t* words, Size n, std::uint16_t* to, Size stride) {
    __m256i rest = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
    for (Size j = 0; j < n; ++j, rest = _mm256_srli_epi32(rest, 1))
      to[j * stride] = static_cast<std::uint16_t>(_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_slli_epi32(rest, 31))));
  }
  HEED_INLINE static void store_places(std::int32_t* to, M m, Size first) {
    const __m512i place = _mm512_add_epi32(lanes_of_32(), _mm512_set1_epi32(static_cast<int>(first)));
    const __m512i packed = _mm512_maskz_compress_epi32(static_cast<__mmask16>(m), place);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(packed));
  }
  HEED_INLINE static double sum(V a) { return _mm512_reduce_add_pd(a); }

  HEED_INLINE static V clamp_exponent(V x) { return x; }
  HEED_INLINE static V fraction(V x) { return _mm512_reduce_pd(x, 0x01); }
  HEED_INLINE static V pow2(V p, V x) {
    return _mm512_maskz_scalef_pd(_mm512_cmp_pd_mask(x, _mm512_set1_pd(-1022.0), _CMP_NLT_UQ), p, x);
  }

  HEED_INLINE static V load_as(const float* p) { return _mm512_cvtps_pd(_mm256_loadu_ps(p)); }
  HEED_INLINE static V load_as(const double* p) { return _mm512_loadu_pd(p); }
  HEED_INLINE static V load_as(const Half* p) {
    return _mm512_cvtps_pd(_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  HEED_INLINE static V load_as(const Bfloat* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm512_cvtps_pd(_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16)));
  }
  HEED_INLINE static V load_as(const Bool* p) {
    return _mm512_cvtepi32_pd(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }

  HEED_INLINE static void store_as(double* p, V x) { _mm512_storeu_pd(p, x); }

  template <int block>
  HEED_INLINE static void transpose_stage(V* r) {
    const Swap swap = swap_of_64<block>();
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      if ((i & block) == 0) {
        const V a = r[i], b = r[i + block];
        r[i] = _mm512_permutex2var_pd(a, swap.low, b);
        r[i + block] = _mm512_permutex2var_pd(a, swap.high, b);
      }
    }
  }
  HEED_INLINE static void transpose(V* r) {
    transpose_stage<1>(r);
    transpose_stage<2>(r);
    transpose_stage<4>(r);
  }

  template <int block>
  HEED_INLINE static V merge(V a, V b) {
    const Swap swap = swap_of_64<block>();
    return _mm512_add_pd(_mm512_permutex2var_pd(a, swap.low, b), _mm512_permutex2var_pd(a, swap.high, b));
  }
};

// Whole numbers below 2^32, one in each 64-bit lane; what stands in the upper half does not matter but to shifts and
// `less`.
struct Vu {
  using V = __m512i;
  using M = __mmask8;
  static constexpr Size lanes = 8;

  HEED_INLINE static V set(std::uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
  HEED_INLINE static V count_from(std::uint64_t x) { return _mm512_add_epi64(set(x), lanes_of_64()); }
  HEED_INLINE static V mul(V a, V b) { return _mm512_mul_epu32(a, b); }
  HEED_INLINE static V high(V a) { return _mm512_srli_epi64(a, 32); }
  HEED_INLINE static V low(V a) { return _mm512_and_si512(a, set(0xffffffffu)); }
  HEED_INLINE static V exclusive_or(V a, V b, V c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
  HEED_INLINE static M less(V a, V b) { return _mm512_cmplt_epu64_mask(a, b); }
  HEED_INLINE static V select(M m, V yes, V no) { return _mm512_mask_blend_epi64(m, no, yes); }
  HEED_INLINE static V gather(const std::uint64_t* table, V place) { return _mm512_i64gather_epi64(place, table, 8); }
  // to[4 lane + e] = x[e] of that lane.
  HEED_INLINE static void store_by_lane(std::int32_t* to, const V (&x)[4]) {
    const V front = _mm512_or_si512(x[0], _mm512_slli_epi64(x[1], 32));
    const V back = _mm512_or_si512(x[2], _mm512_slli_epi64(x[3], 32));
    const V first = _mm512_set_epi64(11, 3, 10, 2, 9, 1, 8, 0), last = _mm512_set_epi64(15, 7, 14, 6, 13, 5, 12, 4);
    _mm512_storeu_si512(to, _mm512_permutex2var_epi64(front, first, back));
    _mm512_storeu_si512(to + 16, _mm512_permutex2var_epi64(front, last, back));
  }
};
