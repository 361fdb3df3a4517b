// Lanes of four bytes with the dot instruction of bytes, which takes unsigned ones up to 255.
struct Vi : avx512::Vi {
  HEED_INLINE static V dot(V sum, V a, V b) { return _mm512_dpbusd_epi32(sum, a, b); }
  HEED_INLINE static V dot_bytes(V sum, V a, V b) { return _mm512_dpbusd_epi32(sum, a, b); }
  // 16 high + low of columns c and of columns c + 4.
  HEED_INLINE static V join_low(V high, V low) {
    return _mm512_ternarylogic_epi32(set(0x0f0f0f0f), low, _mm512_slli_epi32(high, 4), choose);
  }
  HEED_INLINE static V join_high(V high, V low) {
    return _mm512_ternarylogic_epi32(set(0x0f0f0f0f), _mm512_srli_epi32(low, 4), high, choose);
  }

 private:
  static constexpr int choose = 0xca;  // the second where the first has a bit, else the third
};
