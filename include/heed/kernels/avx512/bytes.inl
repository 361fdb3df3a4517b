// Lanes of four bytes of the AVX-512 instance; README.md says what each member means.
struct Vi {
  using V = __m512i;
  static constexpr Size lanes = 16;

  HEED_INLINE static V zero() { return _mm512_setzero_si512(); }
  HEED_INLINE static V set(std::int32_t x) { return _mm512_set1_epi32(x); }
  HEED_INLINE static V load(const void* p) { return _mm512_loadu_si512(p); }
  HEED_INLINE static V add(V a, V b) { return _mm512_add_epi32(a, b); }
  template <int bits>
  HEED_INLINE static V shift_add(V a, V b) {
    return _mm512_add_epi32(_mm512_slli_epi32(a, bits), b);
  }
  template <int bits>
  HEED_INLINE static V shift_right(V a) {
    return _mm512_srai_epi32(a, bits);
  }
  HEED_INLINE static V low_bits(V a, std::int32_t mask) { return _mm512_and_si512(a, set(mask)); }
  HEED_INLINE static V low_nibbles(V a) { return _mm512_and_si512(a, set(0x0f0f0f0f)); }
  HEED_INLINE static V high_nibbles(V a) { return _mm512_and_si512(_mm512_srli_epi32(a, 4), set(0x0f0f0f0f)); }
  HEED_INLINE static V dot(V sum, V a, V b) {
    return _mm512_add_epi32(sum, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)));
  }
  HEED_INLINE static Vf::V to_float(V a) { return _mm512_cvtepi32_ps(a); }
  HEED_INLINE static V from_float(Vf::V a) { return _mm512_cvtps_epi32(a); }
  HEED_INLINE static void store_bytes(unsigned char* to, V a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(a));
  }
};
