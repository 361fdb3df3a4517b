// Vector types of the NEON instance (aarch64, 128 bits); README.md says what each member means.

// 1, 2, 4, 8: the place of each lane in a word.
HEED_INLINE inline uint32x4_t bits_of_lanes() {
  constexpr std::uint32_t bits[4] = {1, 2, 4, 8};
  return vld1q_u32(bits);
}

HEED_INLINE inline std::uint32_t nonzero_bytes(const Bool* p) {
  constexpr std::uint8_t bits[16] = {1, 2, 4, 8, 16, 32, 64, 128, 1, 2, 4, 8, 16, 32, 64, 128};
  const uint8x16_t place = vld1q_u8(bits);
  std::uint32_t word = 0;
  for (int half = 0; half < 2; ++half) {
    const uint8x16_t bytes = vld1q_u8(reinterpret_cast<const std::uint8_t*>(p) + 16 * half);
    const uint8x16_t set = vandq_u8(vtstq_u8(bytes, bytes), place);
    word |= (vaddv_u8(vget_low_u8(set)) | static_cast<std::uint32_t>(vaddv_u8(vget_high_u8(set))) << 8) << (16 * half);
  }
  return word;
}

struct Vf {
  using Scalar = float;
  using V = float32x4_t;
  using M = uint32x4_t;  // all bits of a lane set or clear
  static constexpr Size lanes = 4;
  static constexpr int vectors = 2;
  // 16 accumulators, four pipes of a latency of four, + 2 queries + broadcasts of 32 registers. With 3 vectors g++ 12
  // keeps a sixth of the sums in memory.
  static constexpr int rows = 8;

  HEED_INLINE static V zero() { return vdupq_n_f32(0.0f); }
  HEED_INLINE static V set(float x) { return vdupq_n_f32(x); }
  HEED_INLINE static V load(const float* p) { return vld1q_f32(p); }
  HEED_INLINE static V load_each(const float* p, const std::int32_t* at) {
    const float lane[4] = {p[at[0]], p[at[1]], p[at[2]], p[at[3]]};
    return vld1q_f32(lane);
  }
  HEED_INLINE static void store(float* p, V x) { vst1q_f32(p, x); }
  HEED_INLINE static V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
  HEED_INLINE static V add(V a, V b) { return vaddq_f32(a, b); }
  HEED_INLINE static V sub(V a, V b) { return vsubq_f32(a, b); }
  HEED_INLINE static V mul(V a, V b) { return vmulq_f32(a, b); }
  HEED_INLINE static V div(V a, V b) { return vdivq_f32(a, b); }
  HEED_INLINE static V abs(V a) { return vabsq_f32(a); }
  HEED_INLINE static M less(V a, V b) { return vcltq_f32(a, b); }
  HEED_INLINE static V select(M m, V yes, V no) { return vbslq_f32(m, yes, no); }
  // Not the instructions of these names: they answer NaN where either is.
  HEED_INLINE static V min(V a, V b) { return select(less(a, b), a, b); }
  HEED_INLINE static V max(V a, V b) { return select(less(b, a), a, b); }
  HEED_INLINE static float largest(V a) { return vmaxvq_f32(a); }
  HEED_INLINE static unsigned bits(M m) { return vaddvq_u32(vandq_u32(m, bits_of_lanes())); }
  HEED_INLINE static M masked_equals(V a, std::uint32_t mask, std::uint32_t pattern) {
    return vceqq_u32(vandq_u32(vreinterpretq_u32_f32(a), vdupq_n_u32(mask)), vdupq_n_u32(pattern));
  }
  HEED_INLINE static M is_minus_infinity(V a) { return masked_equals(a, 0xffffffffu, 0xff800000u); }
  HEED_INLINE static M is_zero(V a) { return masked_equals(a, 0x7fffffffu, 0u); }
  HEED_INLINE static bool all_finite(V a) { return vmaxvq_u32(masked_equals(a, 0x7f800000u, 0x7f800000u)) == 0; }
  HEED_INLINE static M mask_of(unsigned lanes_set) { return vtstq_u32(vdupq_n_u32(lanes_set), bits_of_lanes()); }
  HEED_INLINE static void transpose_bits(const std::uint32_t* words, Size n, std::uint16_t* to, Size stride) {
    uint32x4_t rest = vld1q_u32(words);
    for (Size j = 0; j < n; ++j, rest = vshrq_n_u32(rest, 1))
      to[j * stride] = static_cast<std::uint16_t>(bits(vtstq_u32(rest, vdupq_n_u32(1))));
  }
  HEED_INLINE static float sum(V a) { return vaddvq_f32(a); }

  HEED_INLINE static V clamp_exponent(V x) { return max(set(-127.0f), x); }
  HEED_INLINE static V fraction(V x) { return vsubq_f32(x, vrndmq_f32(x)); }
  // Exponents from -127 to 127; 2^-127 is written as 0, NaN stays NaN through p.
  HEED_INLINE static V pow2(V p, V x) {
    const int32x4_t exponent = vaddq_s32(vcvtmq_s32_f32(x), vdupq_n_s32(127));
    return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23)));
  }

  HEED_INLINE static V load_as(const float* p) { return vld1q_f32(p); }
  HEED_INLINE static V load_as(const double* p) {
    return vcvt_high_f32_f64(vcvt_f32_f64(vld1q_f64(p)), vld1q_f64(p + 2));
  }
  HEED_INLINE static V load_as(const Half* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits))); }
  HEED_INLINE static V load_as(const Bfloat* p) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16)); }
  HEED_INLINE static V load_as(const Bool* p) {
    const std::uint32_t lane[4] = {p[0].byte, p[1].byte, p[2].byte, p[3].byte};
    return vcvtq_f32_u32(vld1q_u32(lane));
  }

  HEED_INLINE static void store_as(float* p, V x) { vst1q_f32(p, x); }
  HEED_INLINE static void store_as(Half* p, V x) { vst1_u16(&p->bits, vreinterpret_u16_f16(vcvt_f16_f32(x))); }
  HEED_INLINE static void store_as(Bfloat* p, V x) {
    const uint32x4_t bits = vreinterpretq_u32_f32(x);
    const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t nearest = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    const uint32x4_t size = vandq_u32(bits, vdupq_n_u32(0x7fffffff));
    const uint32x4_t nan = vcgtq_u32(size, vdupq_n_u32(0x7f800000));
    const uint32x4_t word = vbslq_u32(nan, vorrq_u32(bits, vdupq_n_u32(0x400000)), nearest);
    vst1_u16(&p->bits, vshrn_n_u32(word, 16));
  }

  HEED_INLINE static void transpose(V* r) {
    const float64x2_t a = vreinterpretq_f64_f32(vtrn1q_f32(r[0], r[1]));
    const float64x2_t b = vreinterpretq_f64_f32(vtrn2q_f32(r[0], r[1]));
    const float64x2_t c = vreinterpretq_f64_f32(vtrn1q_f32(r[2], r[3]));
    const float64x2_t d = vreinterpretq_f64_f32(vtrn2q_f32(r[2], r[3]));
    r[0] = vreinterpretq_f32_f64(vtrn1q_f64(a, c));
    r[1] = vreinterpretq_f32_f64(vtrn1q_f64(b, d));
    r[2] = vreinterpretq_f32_f64(vtrn2q_f64(a, c));
    r[3] = vreinterpretq_f32_f64(vtrn2q_f64(b, d));
  }
};

struct Vd {
  using Scalar = double;
  using V = float64x2_t;
  using M = uint64x2_t;
  static constexpr Size lanes = 2;
  static constexpr int vectors = 2;
  static constexpr int rows = 8;

  HEED_INLINE static V zero() { return vdupq_n_f64(0.0); }
  HEED_INLINE static V set(double x) { return vdupq_n_f64(x); }
  HEED_INLINE static V load(const double* p) { return vld1q_f64(p); }
  HEED_INLINE static V load_each(const double* p, const std::int32_t* at) {
    return vcombine_f64(vld1_f64(p + at[0]), vld1_f64(p + at[1]));
  }
  HEED_INLINE static void store(double* p, V x) { vst1q_f64(p, x); }
  HEED_INLINE static V fma(V a, V b, V c) { return vfmaq_f64(c, a, b); }
  HEED_INLINE static V add(V a, V b) { return vaddq_f64(a, b); }
  HEED_INLINE static V sub(V a, V b) { return vsubq_f64(a, b); }
  HEED_INLINE static V mul(V a, V b) { return vmulq_f64(a, b); }
  HEED_INLINE static V div(V a, V b) { return vdivq_f64(a, b); }
  HEED_INLINE static V abs(V a) { return vabsq_f64(a); }
  HEED_INLINE static M less(V a, V b) { return vcltq_f64(a, b); }
  HEED_INLINE static V select(M m, V yes, V no) { return vbslq_f64(m, yes, no); }
  HEED_INLINE static V min(V a, V b) { return select(less(a, b), a, b); }
  HEED_INLINE static V max(V a, V b) { return select(less(b, a), a, b); }
  HEED_INLINE static unsigned bits(M m) {
    return static_cast<unsigned>((vgetq_lane_u64(m, 0) & 1u) | (vgetq_lane_u64(m, 1) & 2u));
  }
  HEED_INLINE static M masked_equals(V a, std::uint64_t mask, std::uint64_t pattern) {
    return vceqq_u64(vandq_u64(vreinterpretq_u64_f64(a), vdupq_n_u64(mask)), vdupq_n_u64(pattern));
  }
  HEED_INLINE static M is_minus_infinity(V a) { return masked_equals(a, ~std::uint64_t(0), 0xfff0000000000000u); }
  HEED_INLINE static M is_zero(V a) { return masked_equals(a, 0x7fffffffffffffffu, 0u); }
  HEED_INLINE static bool all_finite(V a) {
    return bits(masked_equals(a, 0x7ff0000000000000u, 0x7ff0000000000000u)) == 0;
  }
  HEED_INLINE static M mask_of(unsigned lanes_set) {
    constexpr std::uint64_t place[2] = {1, 2};
    return vtstq_u64(vdupq_n_u64(lanes_set), vld1q_u64(place));
  }
  HEED_INLINE static void transpose_bits(const std::uint32_t* words, Size n, std::uint16_t* to, Size stride) {
    for (Size j = 0; j < n; ++j)
      to[j * stride] = static_cast<std::uint16_t>((words[0] >> j & 1u) | (words[1] >> j & 1u) << 1);
  }
  HEED_INLINE static double sum(V a) { return vaddvq_f64(a); }

  HEED_INLINE static V clamp_exponent(V x) { return max(set(-1023.0), x); }
  HEED_INLINE static V fraction(V x) { return vsubq_f64(x, vrndmq_f64(x)); }
  HEED_INLINE static V pow2(V p, V x) {
    const int64x2_t exponent = vaddq_s64(vcvtmq_s64_f64(x), vdupq_n_s64(1023));
    return vmulq_f64(p, vreinterpretq_f64_s64(vshlq_n_s64(exponent, 52)));
  }

  HEED_INLINE static V load_as(const float* p) { return vcvt_f64_f32(vld1_f32(p)); }
  HEED_INLINE static V load_as(const double* p) { return vld1q_f64(p); }
  HEED_INLINE static V load_as(const Half* p) {
    const std::uint16_t lane[4] = {p[0].bits, p[1].bits, 0, 0};
    return vcvt_f64_f32(vget_low_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(lane)))));
  }
  HEED_INLINE static V load_as(const Bfloat* p) {
    const std::uint32_t lane[2] = {std::uint32_t(p[0].bits) << 16, std::uint32_t(p[1].bits) << 16};
    return vcvt_f64_f32(vreinterpret_f32_u32(vld1_u32(lane)));
  }
  HEED_INLINE static V load_as(const Bool* p) {
    const double lane[2] = {double(p[0].byte), double(p[1].byte)};
    return vld1q_f64(lane);
  }

  HEED_INLINE static void store_as(double* p, V x) { vst1q_f64(p, x); }

  HEED_INLINE static void transpose(V* r) {
    const V first = vtrn1q_f64(r[0], r[1]);
    r[1] = vtrn2q_f64(r[0], r[1]);
    r[0] = first;
  }
};

struct Vu {
  using V = uint64x2_t;
  using M = uint64x2_t;
  static constexpr Size lanes = 2;

  HEED_INLINE static V set(std::uint64_t x) { return vdupq_n_u64(x); }
  HEED_INLINE static V count_from(std::uint64_t x) {
    const std::uint64_t lane[2] = {x, x + 1};
    return vld1q_u64(lane);
  }
  HEED_INLINE static V mul(V a, V b) { return vmull_u32(vmovn_u64(a), vmovn_u64(b)); }
  HEED_INLINE static V high(V a) { return vshrq_n_u64(a, 32); }
  HEED_INLINE static V low(V a) { return vandq_u64(a, set(0xffffffffu)); }
  HEED_INLINE static V exclusive_or(V a, V b, V c) { return veorq_u64(veorq_u64(a, b), c); }
  HEED_INLINE static M less(V a, V b) { return vcltq_u64(a, b); }
  HEED_INLINE static V select(M m, V yes, V no) { return vbslq_u64(m, yes, no); }
  HEED_INLINE static V gather(const std::uint64_t* table, V place) {
    const std::uint64_t lane[2] = {table[vgetq_lane_u64(place, 0)], table[vgetq_lane_u64(place, 1)]};
    return vld1q_u64(lane);
  }
  HEED_INLINE static void store_by_lane(std::int32_t* to, const V (&x)[4]) {
    const V front = vorrq_u64(x[0], vshlq_n_u64(x[1], 32));
    const V back = vorrq_u64(x[2], vshlq_n_u64(x[3], 32));
    vst1q_s32(to, vreinterpretq_s32_u64(vtrn1q_u64(front, back)));
    vst1q_s32(to + 4, vreinterpretq_s32_u64(vtrn2q_u64(front, back)));
  }
};
