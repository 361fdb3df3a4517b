// Vector types of the AVX2 + FMA instance; README.md says what each member means.

HEED_INLINE inline std::uint32_t nonzero_bytes(const Bool* p) {
  const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return ~static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_setzero_si256())));
}

struct Vf {
  using Scalar = float;
  using V = __m256;
  using M = __m256;  // all bits of a lane set or clear
  static constexpr Size lanes = 8;
  static constexpr int vectors = 2;
  static constexpr int rows = 6;  // 12 accumulators + 2 queries + 1 broadcast of 16 registers

  HEED_INLINE static V zero() { return _mm256_setzero_ps(); }
  HEED_INLINE static V set(float x) { return _mm256_set1_ps(x); }
  HEED_INLINE static V load(const float* p) { return _mm256_loadu_ps(p); }
  HEED_INLINE static V load_each(const float* p, const std::int32_t* at) {
    return _mm256_i32gather_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), 4);
  }
  // Not so for stores: processors of AMD take fifty times as long for a masked one.
  HEED_INLINE static V load_first(const float* p, Size n) {
    const __m256i lane = _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0);
    return _mm256_maskload_ps(p, _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane));
  }
  HEED_INLINE static void store(float* p, V x) { _mm256_storeu_ps(p, x); }
  HEED_INLINE static V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
  HEED_INLINE static V add(V a, V b) { return _mm256_add_ps(a, b); }
  HEED_INLINE static V sub(V a, V b) { return _mm256_sub_ps(a, b); }
  HEED_INLINE static V mul(V a, V b) { return _mm256_mul_ps(a, b); }
  HEED_INLINE static V div(V a, V b) { return _mm256_div_ps(a, b); }
  HEED_INLINE static V abs(V a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
  HEED_INLINE static V min(V a, V b) { return _mm256_min_ps(a, b); }
  HEED_INLINE static V max(V a, V b) { return _mm256_max_ps(a, b); }
  HEED_INLINE static M less(V a, V b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
  HEED_INLINE static unsigned bits(M m) { return static_cast<unsigned>(_mm256_movemask_ps(m)); }
  HEED_INLINE static M same_bits(V a, unsigned pattern) {
    return _mm256_castsi256_ps(
        _mm256_cmpeq_epi32(_mm256_castps_si256(a), _mm256_set1_epi32(static_cast<int>(pattern))));
  }
  HEED_INLINE static M is_minus_infinity(V a) { return same_bits(a, 0xff800000u); }
  HEED_INLINE static M is_zero(V a) { return same_bits(abs(a), 0u); }
  HEED_INLINE static bool all_finite(V a) {
    return bits(same_bits(_mm256_and_ps(a, _mm256_castsi256_ps(_mm256_set1_epi32(0x7f800000))), 0x7f800000u)) == 0;
  }
  HEED_INLINE static V select(M m, V yes, V no) { return _mm256_blendv_ps(no, yes, m); }
  HEED_INLINE static M mask_of(unsigned lanes_set) {
    const __m256i lane = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    return _mm256_castsi256_ps(
        _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(static_cast<int>(lanes_set)), lane), lane));
  }
  HEED_INLINE static void transpose_bits(const std::uint32_t* words, Size n, std::uint16_t* to, Size stride) {
    __m256i rest = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
    for (Size j = 0; j < n; ++j, rest = _mm256_srli_epi32(rest, 1))
      to[j * stride] = static_cast<std::uint16_t>(bits(_mm256_castsi256_ps(_mm256_slli_epi32(rest, 31))));
  }
  HEED_INLINE static float sum(V a) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }

  HEED_INLINE static float largest(V a) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  HEED_INLINE static V clamp_exponent(V x) { return _mm256_max_ps(_mm256_set1_ps(-127.0f), x); }
  HEED_INLINE static V fraction(V x) { return _mm256_sub_ps(x, _mm256_floor_ps(x)); }
  // Exponents from -127 to 127; 2^-127 is written as 0, NaN stays NaN through p.
  HEED_INLINE static V pow2(V p, V x) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(_mm256_floor_ps(x)), _mm256_set1_epi32(127));
    return _mm256_mul_ps(p, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
  }

  HEED_INLINE static V load_as(const float* p) { return _mm256_loadu_ps(p); }
  HEED_INLINE static V load_as(const double* p) {
    return _mm256_set_m128(_mm256_cvtpd_ps(_mm256_loadu_pd(p + 4)), _mm256_cvtpd_ps(_mm256_loadu_pd(p)));
  }
  HEED_INLINE static V load_as(const Half* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  HEED_INLINE static V load_as(const Bfloat* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  HEED_INLINE static V load_as(const Bool* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }

  HEED_INLINE static void store_as(float* p, V x) { _mm256_storeu_ps(p, x); }
  HEED_INLINE static void store_as(Half* p, V x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  HEED_INLINE static void store_as(Bfloat* p, V x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i nearest = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i word = _mm256_srli_epi32(_mm256_blendv_epi8(nearest, quiet, nan), 16);
    const __m128i low = _mm256_castsi256_si128(word), high = _mm256_extracti128_si256(word, 1);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
  }

  HEED_INLINE static void transpose(V* r) {
    V pair[8], quad[8];
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      pair[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      pair[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      quad[i] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0x44);
      quad[i + 1] = _mm256_shuffle_ps(pair[i], pair[i + 2], 0xee);
      quad[i + 2] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0x44);
      quad[i + 3] = _mm256_shuffle_ps(pair[i + 1], pair[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      r[i] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x20);
      r[i + 4] = _mm256_permute2f128_ps(quad[i], quad[i + 4], 0x31);
    }
  }
};

struct Vd {
  using Scalar = double;
  using V = __m256d;
  using M = __m256d;
  static constexpr Size lanes = 4;
  static constexpr int vectors = 2;
  static constexpr int rows = 6;

  HEED_INLINE static V zero() { return _mm256_setzero_pd(); }
  HEED_INLINE static V set(double x) { return _mm256_set1_pd(x); }
  HEED_INLINE static V load(const double* p) { return _mm256_loadu_pd(p); }
  HEED_INLINE static V load_each(const double* p, const std::int32_t* at) {
    return _mm256_i32gather_pd(p, _mm_loadu_si128(reinterpret_cast<const __m128i*>(at)), 8);
  }
  HEED_INLINE static void store(double* p, V x) { _mm256_storeu_pd(p, x); }
  HEED_INLINE static V fma(V a, V b, V c) { return _mm256_fmadd_pd(a, b, c); }
  HEED_INLINE static V add(V a, V b) { return _mm256_add_pd(a, b); }
  HEED_INLINE static V sub(V a, V b) { return _mm256_sub_pd(a, b); }
  HEED_INLINE static V mul(V a, V b) { return _mm256_mul_pd(a, b); }
  HEED_INLINE static V div(V a, V b) { return _mm256_div_pd(a, b); }
  HEED_INLINE static V abs(V a) { return _mm256_andnot_pd(_mm256_set1_pd(-0.0), a); }
  HEED_INLINE static V min(V a, V b) { return _mm256_min_pd(a, b); }
  HEED_INLINE static V max(V a, V b) { return _mm256_max_pd(a, b); }
  HEED_INLINE static M less(V a, V b) { return _mm256_cmp_pd(a, b, _CMP_LT_OQ); }
  HEED_INLINE static unsigned bits(M m) { return static_cast<unsigned>(_mm256_movemask_pd(m)); }
  HEED_INLINE static M same_bits(V a, unsigned long long pattern) {
    return _mm256_castsi256_pd(
        _mm256_cmpeq_epi64(_mm256_castpd_si256(a), _mm256_set1_epi64x(static_cast<long long>(pattern))));
  }
  HEED_INLINE static M is_minus_infinity(V a) { return same_bits(a, 0xfff0000000000000ull); }
  HEED_INLINE static M is_zero(V a) { return same_bits(abs(a), 0u); }
  HEED_INLINE static bool all_finite(V a) {
    const __m256d exponent = _mm256_castsi256_pd(_mm256_set1_epi64x(0x7ff0000000000000ll));
    return bits(same_bits(_mm256_and_pd(a, exponent), 0x7ff0000000000000ull)) == 0;
  }
  HEED_INLINE static V select(M m, V yes, V no) { return _mm256_blendv_pd(no, yes, m); }
  HEED_INLINE static M mask_of(unsigned lanes_set) {
    const __m256i lane = _mm256_set_epi64x(8, 4, 2, 1);
    return _mm256_castsi256_pd(_mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(lanes_set), lane), lane));
  }
  HEED_INLINE static void transpose_bits(const std::uint32_t* words, Size n, std::uint16_t* to, Size stride) {
    __m128i rest = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words));
    for (Size j = 0; j < n; ++j, rest = _mm_srli_epi32(rest, 1))
      to[j * stride] = static_cast<std::uint16_t>(_mm_movemask_ps(_mm_castsi128_ps(_mm_slli_epi32(rest, 31))));
  }
  HEED_INLINE static double sum(V a) {
    const __m128d x = _mm_add_pd(_mm256_castpd256_pd128(a), _mm256_extractf128_pd(a, 1));
    return _mm_cvtsd_f64(_mm_add_sd(x, _mm_unpackhi_pd(x, x)));
  }

  HEED_INLINE static V clamp_exponent(V x) { return _mm256_max_pd(_mm256_set1_pd(-1023.0), x); }
  HEED_INLINE static V fraction(V x) { return _mm256_sub_pd(x, _mm256_floor_pd(x)); }
  HEED_INLINE static V pow2(V p, V x) {
    const __m256i exponent = _mm256_cvtepi32_epi64(_mm256_cvtpd_epi32(_mm256_floor_pd(x)));
    return _mm256_mul_pd(
        p, _mm256_castsi256_pd(_mm256_slli_epi64(_mm256_add_epi64(exponent, _mm256_set1_epi64x(1023)), 52)));
  }

  HEED_INLINE static V load_as(const float* p) { return _mm256_cvtps_pd(_mm_loadu_ps(p)); }
  HEED_INLINE static V load_as(const double* p) { return _mm256_loadu_pd(p); }
  HEED_INLINE static V load_as(const Half* p) {
    return _mm256_cvtps_pd(_mm_cvtph_ps(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  HEED_INLINE static V load_as(const Bfloat* p) {
    const __m128i wide = _mm_cvtepu16_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    return _mm256_cvtps_pd(_mm_castsi128_ps(_mm_slli_epi32(wide, 16)));
  }
  HEED_INLINE static V load_as(const Bool* p) { return _mm256_set_pd(p[3].byte, p[2].byte, p[1].byte, p[0].byte); }

  HEED_INLINE static void store_as(double* p, V x) { _mm256_storeu_pd(p, x); }

  HEED_INLINE static void transpose(V* r) {
    const V a = _mm256_unpacklo_pd(r[0], r[1]), b = _mm256_unpackhi_pd(r[0], r[1]);
    const V c = _mm256_unpacklo_pd(r[2], r[3]), d = _mm256_unpackhi_pd(r[2], r[3]);
    r[0] = _mm256_permute2f128_pd(a, c, 0x20);
    r[1] = _mm256_permute2f128_pd(b, d, 0x20);
    r[2] = _mm256_permute2f128_pd(a, c, 0x31);
    r[3] = _mm256_permute2f128_pd(b, d, 0x31);
  }
};

// Whole numbers below 2^32, one in each 64-bit lane; what stands in the upper half does not matter but to shifts and
// `less`.
struct Vu {
  using V = __m256i;
  using M = __m256i;
  static constexpr Size lanes = 4;

  HEED_INLINE static V set(std::uint64_t x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
  HEED_INLINE static V count_from(std::uint64_t x) { return _mm256_add_epi64(set(x), _mm256_set_epi64x(3, 2, 1, 0)); }
  HEED_INLINE static V mul(V a, V b) { return _mm256_mul_epu32(a, b); }
  HEED_INLINE static V high(V a) { return _mm256_srli_epi64(a, 32); }
  HEED_INLINE static V low(V a) { return _mm256_and_si256(a, set(0xffffffffu)); }
  HEED_INLINE static V exclusive_or(V a, V b, V c) { return _mm256_xor_si256(_mm256_xor_si256(a, b), c); }
  HEED_INLINE static M less(V a, V b) { return _mm256_cmpgt_epi64(b, a); }
  HEED_INLINE static V select(M m, V yes, V no) { return _mm256_blendv_epi8(no, yes, m); }
  HEED_INLINE static V gather(const std::uint64_t* table, V place) {
    return _mm256_i64gather_epi64(reinterpret_cast<const long long*>(table), place, 8);
  }
  // to[4 lane + e] = x[e] of that lane.
  HEED_INLINE static void store_by_lane(std::int32_t* to, const V (&x)[4]) {
    const V front = _mm256_or_si256(x[0], _mm256_slli_epi64(x[1], 32));
    const V back = _mm256_or_si256(x[2], _mm256_slli_epi64(x[3], 32));
    const V even = _mm256_unpacklo_epi64(front, back), odd = _mm256_unpackhi_epi64(front, back);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_permute2x128_si256(even, odd, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 8), _mm256_permute2x128_si256(even, odd, 0x31));
  }
};
