// Lanes of four bytes of the AVX2 instance; README.md says what each member means.
struct Vi {
  using V = __m256i;
  static constexpr Size lanes = 8;

  HEED_INLINE static V zero() { return _mm256_setzero_si256(); }
  HEED_INLINE static V set(std::int32_t x) { return _mm256_set1_epi32(x); }
  HEED_INLINE static V load(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
  HEED_INLINE static V add(V a, V b) { return _mm256_add_epi32(a, b); }
  template <int bits>
  HEED_INLINE static V shift_add(V a, V b) {
    return _mm256_add_epi32(_mm256_slli_epi32(a, bits), b);
  }
  template <int bits>
  HEED_INLINE static V shift_right(V a) {
    return _mm256_srai_epi32(a, bits);
  }
  HEED_INLINE static V low_bits(V a, std::int32_t mask) { return _mm256_and_si256(a, set(mask)); }
  HEED_INLINE static V low_nibbles(V a) { return _mm256_and_si256(a, set(0x0f0f0f0f)); }
  HEED_INLINE static V high_nibbles(V a) { return _mm256_and_si256(_mm256_srli_epi32(a, 4), set(0x0f0f0f0f)); }
  HEED_INLINE static V dot(V sum, V a, V b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
  }
  HEED_INLINE static Vf::V to_float(V a) { return _mm256_cvtepi32_ps(a); }
  HEED_INLINE static V from_float(Vf::V a) { return _mm256_cvtps_epi32(a); }
  HEED_INLINE static void store_bytes(unsigned char* to, V a) {
    const __m256i first = _mm256_set1_epi32(0x0c080400);
    const __m256i packed = _mm256_shuffle_epi8(a, first);
    const std::int32_t low = _mm256_extract_epi32(packed, 0), high = _mm256_extract_epi32(packed, 4);
    __builtin_memcpy(to, &low, 4);
    __builtin_memcpy(to + 4, &high, 4);
  }
};
