// Lanes of four bytes of the NEON instance; README.md says what each member means.
struct Vi {
  using V = int32x4_t;
  static constexpr Size lanes = 4;

  HEED_INLINE static V zero() { return vdupq_n_s32(0); }
  HEED_INLINE static V set(std::int32_t x) { return vdupq_n_s32(x); }
  HEED_INLINE static V load(const void* p) {
    return vreinterpretq_s32_u8(vld1q_u8(static_cast<const std::uint8_t*>(p)));
  }
  HEED_INLINE static V add(V a, V b) { return vaddq_s32(a, b); }
  template <int bits>
  HEED_INLINE static V shift_add(V a, V b) {
    return vaddq_s32(vshlq_n_s32(a, bits), b);
  }
  template <int bits>
  HEED_INLINE static V shift_right(V a) {
    return vshrq_n_s32(a, bits);
  }
  HEED_INLINE static V low_bits(V a, std::int32_t mask) { return vandq_s32(a, set(mask)); }
  HEED_INLINE static V low_nibbles(V a) { return vandq_s32(a, set(0x0f0f0f0f)); }
  HEED_INLINE static V high_nibbles(V a) { return vreinterpretq_s32_u8(vshrq_n_u8(vreinterpretq_u8_s32(a), 4)); }
  // Bytes up to 127 are the same with a sign.
  HEED_INLINE static V dot(V sum, V a, V b) {
    const int8x16_t u = vreinterpretq_s8_s32(a), s = vreinterpretq_s8_s32(b);
    const int16x8_t low = vmull_s8(vget_low_s8(u), vget_low_s8(s)), high = vmull_high_s8(u, s);
    return vpadalq_s16(sum, vpaddq_s16(low, high));
  }
  HEED_INLINE static Vf::V to_float(V a) { return vcvtq_f32_s32(a); }
  HEED_INLINE static V from_float(Vf::V a) { return vcvtnq_s32_f32(a); }
  HEED_INLINE static void store_bytes(unsigned char* to, V a) {
    const std::int32_t word = static_cast<std::int32_t>(vgetq_lane_u32(
        vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_s32(a), vreinterpretq_u8_u32(vdupq_n_u32(0x0c080400u)))), 0));
    __builtin_memcpy(to, &word, 4);
  }
};
