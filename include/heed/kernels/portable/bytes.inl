// Lanes of four bytes of the portable instance; README.md says what each member means.
struct Vi {
  typedef std::int32_t V __attribute__((vector_size(16)));
  static constexpr Size lanes = 4;

  HEED_INLINE static V zero() { return V{}; }
  HEED_INLINE static V set(std::int32_t x) { return V{x, x, x, x}; }
  HEED_INLINE static V load(const void* p) {
    V x;
    __builtin_memcpy(&x, p, sizeof x);
    return x;
  }
  HEED_INLINE static V add(V a, V b) { return a + b; }
  template <int bits>
  HEED_INLINE static V shift_add(V a, V b) {
    return (a << bits) + b;
  }
  template <int bits>
  HEED_INLINE static V shift_right(V a) {
    return a >> bits;
  }
  HEED_INLINE static V low_bits(V a, std::int32_t mask) { return a & set(mask); }
  HEED_INLINE static V low_nibbles(V a) { return a & set(0x0f0f0f0f); }
  HEED_INLINE static V high_nibbles(V a) { return (a >> 4) & set(0x0f0f0f0f); }
  // Bytes in lanes of 16 bits, the even ones and the odd: a product of 127 and 128 fits.
  HEED_INLINE static V dot(V sum, V a, V b) {
    typedef std::int16_t Short8 __attribute__((vector_size(16)));
    const Short8 low = {255, 255, 255, 255, 255, 255, 255, 255};
    const Short8 u = reinterpret_cast<Short8>(a), s = reinterpret_cast<Short8>(b);
    const Short8 even = (u & low) * ((s << 8) >> 8), odd = ((u >> 8) & low) * (s >> 8), both = even + odd;
    const V pairs = reinterpret_cast<V>(both);
    return sum + ((pairs << 16) >> 16) + (pairs >> 16);
  }
  HEED_INLINE static Vf::V to_float(V a) { return __builtin_convertvector(a, Vf::V); }
  HEED_INLINE static V from_float(Vf::V a) { return __builtin_convertvector(a + Vf::set(0.5f), V); }
  HEED_INLINE static void store_bytes(unsigned char* to, V a) {
    for (int i = 0; i < 4; ++i) to[i] = static_cast<unsigned char>(a[i]);
  }
};
