// Vector types of the portable instance: 16-byte vectors of the compiler (SSE2 on x86-64). README.md says what each
// member means.

typedef int Int4 __attribute__((vector_size(16)));
typedef long long Long2 __attribute__((vector_size(16)));

HEED_INLINE inline std::uint32_t nonzero_bytes(const Bool* p) {
  std::uint32_t word = 0;
  for (int i = 0; i < 32; ++i) word |= p[i].byte != 0 ? 1u << i : 0u;
  return word;
}

template <class T, class I, int W>
struct Portable {
  using Scalar = T;
  typedef T V __attribute__((vector_size(16)));
  using M = I;  // all bits of a lane set or clear
  static constexpr Size lanes = W;
  static constexpr int vectors = 2;
  static constexpr int rows = 4;

  HEED_INLINE static V zero() { return V{}; }
  HEED_INLINE static V set(T x) { return x - V{}; }
  HEED_INLINE static V load(const T* p) {
    V x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  HEED_INLINE static V load_each(const T* p, const std::int32_t* at) {
    V x;
    for (int i = 0; i < W; ++i) x[i] = p[at[i]];
    return x;
  }
  HEED_INLINE static void store(T* p, V x) { __builtin_memcpy(p, &x, sizeof x); }
  HEED_INLINE static V fma(V a, V b, V c) { return a * b + c; }
  HEED_INLINE static V add(V a, V b) { return a + b; }
  HEED_INLINE static V sub(V a, V b) { return a - b; }
  HEED_INLINE static V mul(V a, V b) { return a * b; }
  HEED_INLINE static V div(V a, V b) { return a / b; }
  HEED_INLINE static V select(M m, V yes, V no) {
    return reinterpret_cast<V>((reinterpret_cast<I>(yes) & m) | (reinterpret_cast<I>(no) & ~m));
  }
  HEED_INLINE static M mask_of(unsigned lanes_set) {
    M m;
    for (int i = 0; i < W; ++i) m[i] = (lanes_set >> i & 1u) != 0 ? -1 : 0;
    return m;
  }
  HEED_INLINE static void transpose_bits(const std::uint32_t* words, Size n, std::uint16_t* to, Size stride) {
    for (Size j = 0; j < n; ++j) {
      unsigned lanes_set = 0;
      for (int i = 0; i < W; ++i) lanes_set |= (words[i] >> j & 1u) << i;
      to[j * stride] = static_cast<std::uint16_t>(lanes_set);
    }
  }
  HEED_INLINE static M less(V a, V b) { return reinterpret_cast<M>(a < b); }
  HEED_INLINE static V min(V a, V b) { return select(less(a, b), a, b); }
  HEED_INLINE static V max(V a, V b) { return select(less(b, a), a, b); }
  HEED_INLINE static T sum(V a) {
    T total = a[0];
    for (int i = 1; i < W; ++i) total += a[i];
    return total;
  }
  HEED_INLINE static T largest(V a) {
    T most = a[0];
    for (int i = 1; i < W; ++i) most = most < a[i] ? a[i] : most;
    return most;
  }
  HEED_INLINE static unsigned bits(M m) {
    unsigned set = 0;
    for (int i = 0; i < W; ++i) set |= m[i] != 0 ? 1u << i : 0u;
    return set;
  }
  // The largest integer at most x, for |x| < 2^30: truncation, less one where that rounded up. Some number for NaN.
  HEED_INLINE static V floor(V x) {
    x = select(reinterpret_cast<M>(x == x), x, zero());
    V whole;
    for (int i = 0; i < W; ++i) whole[i] = static_cast<T>(static_cast<int>(x[i]));
    return whole - select(less(x, whole), set(1), zero());
  }
  HEED_INLINE static V fraction(V x) { return x - floor(x); }
  HEED_INLINE static V load_as(const T* p) { return load(p); }
  template <class S>
  HEED_INLINE static V load_as(const S* p) {
    V x = {};
    for (int i = 0; i < W; ++i) x[i] = widened(p[i]);
    return x;
  }
  HEED_INLINE static T widened(float x) { return static_cast<T>(x); }
  HEED_INLINE static T widened(double x) { return static_cast<T>(x); }
  HEED_INLINE static T widened(Bool x) { return static_cast<T>(x.byte); }
  HEED_INLINE static T widened(Bfloat x) {
    const std::uint32_t wide = static_cast<std::uint32_t>(x.bits) << 16;
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    return static_cast<T>(value);
  }
  HEED_INLINE static T widened(Half x) {
    const std::uint32_t sign = (x.bits & 0x8000u) << 16, rest = x.bits & 0x7fffu;
    std::uint32_t wide = sign | ((rest + (112u << 10)) << 13);  // normal numbers: exponent bias 15 to 127
    if (rest >= 0x7c00u) wide = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
    float value;
    __builtin_memcpy(&value, &wide, sizeof value);
    if (rest < 0x400u) value = (sign != 0 ? -1.0f : 1.0f) * static_cast<float>(rest) * 5.9604644775390625e-8f;  // 2^-24
    return static_cast<T>(value);
  }
  HEED_INLINE static void store_as(T* p, V x) { store(p, x); }
  template <class S>
  HEED_INLINE static void store_as(S* p, V x) {
    for (int i = 0; i < W; ++i) p[i] = narrowed(p, static_cast<float>(x[i]));
  }
  HEED_INLINE static std::uint32_t bits_of(float x) {
    std::uint32_t bits;
    __builtin_memcpy(&bits, &x, sizeof bits);
    return bits;
  }
  // To nearest, ties to even; NaN stays NaN.
  HEED_INLINE static Bfloat narrowed(const Bfloat*, float x) {
    const std::uint32_t bits = bits_of(x), nearest = bits + 0x7fffu + (bits >> 16 & 1u);
    return {static_cast<std::uint16_t>((x != x ? bits | 0x400000u : nearest) >> 16)};
  }
  HEED_INLINE static Half narrowed(const Half*, float x) {
    const std::uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    std::uint32_t word;
    if (rest > 0x7f800000u) {
      word = 0x7e00u;
    } else if (rest >= 0x477ff000u) {  // 65520 and more round to infinity
      word = 0x7c00u;
    } else if (rest < 0x38800000u) {  // subnormal: a multiple of 2^-24, rounded by adding 2^23 of them
      word = bits_of((x < 0 ? -x : x) * 16777216.0f + 8388608.0f) & 0x7ffu;
    } else {  // exponent bias 127 to 15
      word = (rest - (112u << 23) + 0xfffu + (rest >> 13 & 1u)) >> 13;
    }
    return {static_cast<std::uint16_t>(sign | word)};
  }
  HEED_INLINE static void transpose(V* r) {
    T t[W][W];
    for (int i = 0; i < W; ++i) {
      for (int c = 0; c < W; ++c) t[c][i] = r[i][c];
    }
    for (int i = 0; i < W; ++i) r[i] = load(t[i]);
  }
};

struct Vf : Portable<float, Int4, 4> {
  HEED_INLINE static V abs(V a) { return reinterpret_cast<V>(reinterpret_cast<Int4>(a) & 0x7fffffff); }
  HEED_INLINE static M is_minus_infinity(V a) { return reinterpret_cast<Int4>(a) == static_cast<int>(0xff800000u); }
  HEED_INLINE static M is_zero(V a) { return reinterpret_cast<Int4>(abs(a)) == 0; }
  HEED_INLINE static bool all_finite(V a) { return bits((reinterpret_cast<Int4>(a) & 0x7f800000) == 0x7f800000) == 0; }
  HEED_INLINE static V clamp_exponent(V x) { return max(set(-127.0f), x); }
  HEED_INLINE static V pow2(V p, V x) {
    const V whole = floor(x);
    Int4 exponent;
    for (int i = 0; i < 4; ++i) exponent[i] = static_cast<int>(whole[i]) + 127;
    return p * reinterpret_cast<V>(exponent << 23);
  }
};

struct Vd : Portable<double, Long2, 2> {
  HEED_INLINE static V abs(V a) { return reinterpret_cast<V>(reinterpret_cast<Long2>(a) & 0x7fffffffffffffffll); }
  HEED_INLINE static M is_minus_infinity(V a) {
    return reinterpret_cast<Long2>(a) == static_cast<long long>(0xfff0000000000000ull);
  }
  HEED_INLINE static M is_zero(V a) { return reinterpret_cast<Long2>(abs(a)) == 0; }
  HEED_INLINE static bool all_finite(V a) {
    return bits((reinterpret_cast<Long2>(a) & 0x7ff0000000000000ll) == 0x7ff0000000000000ll) == 0;
  }
  HEED_INLINE static V clamp_exponent(V x) { return max(set(-1023.0), x); }
  HEED_INLINE static V pow2(V p, V x) {
    const V whole = floor(x);
    Long2 exponent;
    for (int i = 0; i < 2; ++i) exponent[i] = static_cast<long long>(whole[i]) + 1023;
    return p * reinterpret_cast<V>(exponent << 52);
  }
};

// Whole numbers below 2^32, one in each 64-bit lane; what stands in the upper half does not matter but to shifts and
// `less`.
struct Vu {
  using V = std::uint64_t;
  using M = bool;
  static constexpr Size lanes = 1;

  HEED_INLINE static V set(std::uint64_t x) { return x; }
  HEED_INLINE static V count_from(std::uint64_t x) { return x; }
  HEED_INLINE static V mul(V a, V b) { return low(a) * low(b); }
  HEED_INLINE static V high(V a) { return a >> 32; }
  HEED_INLINE static V low(V a) { return a & 0xffffffffu; }
  HEED_INLINE static V exclusive_or(V a, V b, V c) { return a ^ b ^ c; }
  HEED_INLINE static M less(V a, V b) { return a < b; }
  HEED_INLINE static V select(M m, V yes, V no) { return m ? yes : no; }
  HEED_INLINE static V gather(const std::uint64_t* table, V place) { return table[place]; }
  // to[4 lane + e] = x[e] of that lane.
  HEED_INLINE static void store_by_lane(std::int32_t* to, const V (&x)[4]) {
    for (int e = 0; e < 4; ++e) to[e] = static_cast<std::int32_t>(x[e]);
  }
};
