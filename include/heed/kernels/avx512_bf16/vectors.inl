// What the bfloat16 dot instance adds to the vector types of AVX-512.
// The three instructions are written out: the headers g++ declares them in cannot be had without all of AVX-512 (a
// third of the cost of Eigen/Core), and its builtins changed their types between versions.

using avx512::Vf;
using V = Vf::V;
using Words = __m512i;  // 16 pairs
constexpr Size lanes = Vf::lanes;
typedef short Shorts __attribute__((vector_size(64)));

// sum[i] + a[i].first * b[i].first + a[i].second * b[i].second. Numbers below 1.2e-38 count as 0, and so do products.
HEED_INLINE inline V dot(Words a, Words b, V sum) {
  __asm__("vdpbf16ps {%2, %1, %0|%0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

// Rounded to the nearest bfloat16, ties to even: all of first, then all of second.
HEED_INLINE inline Shorts narrow_runs(V first, V second) {
  Shorts halves;
  __asm__("vcvtne2ps2bf16 {%1, %2, %0|%0, %2, %1}" : "=v"(halves) : "v"(first), "v"(second));
  return halves;
}

// The same as pairs (first[i], second[i]).
HEED_INLINE inline Words narrow(V first, V second) {
  const Shorts halves = narrow_runs(first, second);
#if defined(__clang__)
  const Shorts pairs = __builtin_shufflevector(halves, halves, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23,
                                               8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
#else
  const Shorts order = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                        8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  const Shorts pairs = __builtin_shuffle(halves, order);
#endif
  return reinterpret_cast<Words>(pairs);
}

// One pair, from any address, in all lanes.
HEED_INLINE inline Words set(const Bfloat* p) {
  int pair;
  __builtin_memcpy(&pair, p, sizeof pair);
  return _mm512_set1_epi32(pair);
}
HEED_INLINE inline Words set(const Bf16Pair* p) { return set(&p->first); }

HEED_INLINE inline Words load(const void* p) { return _mm512_loadu_si512(p); }
HEED_INLINE inline void store_words(void* p, Words x) { _mm512_storeu_si512(p, x); }
HEED_INLINE inline __mmask16 first_lanes(Size n) {
  return static_cast<__mmask16>(n >= lanes ? 0xffffu : (1u << n) - 1u);
}
// The first n of 16 pairs.
HEED_INLINE inline void store_words(void* p, Words x, Size n) { _mm512_mask_storeu_epi32(p, first_lanes(n), x); }

// Bf16Pairs of the first n numbers of a run, at most 32; the rest is 0. Reads nothing behind them.
HEED_INLINE inline Words load_run(const Bfloat* p, Size n) {
  if (n >= 2 * lanes) return load(p);
  Words x = _mm512_maskz_loadu_epi32(first_lanes(n / 2), p);
  if (n % 2 != 0) x = _mm512_mask_set1_epi32(x, static_cast<__mmask16>(1u << (n / 2)), p[n - 1].bits);
  return x;
}

// Bf16Pairs of neighbours in two runs of n numbers, at most 16; the rest is 0. A null run counts as zeros.
HEED_INLINE inline Words load_half(const Bfloat* p, Size n) {
  __m256i words = _mm256_setzero_si256();
  if (p != nullptr && n >= lanes) {
    words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  } else if (p != nullptr) {
    __builtin_memcpy(&words, p, static_cast<std::size_t>(n) * sizeof(Bfloat));
  }
  return _mm512_cvtepu16_epi32(words);
}
HEED_INLINE inline Words load_two(const Bfloat* first, const Bfloat* second, Size n) {
  return _mm512_or_si512(load_half(first, n), _mm512_slli_epi32(load_half(second, n), 16));
}

// 16 x 16 pairs, rows to columns; permutations only, so every bit stays.
HEED_INLINE inline void transpose_words(Words* x) {
  V rows[lanes];
#pragma GCC unroll 16
  for (Size i = 0; i < lanes; ++i) rows[i] = _mm512_castsi512_ps(x[i]);
  Vf::transpose(rows);
#pragma GCC unroll 16
  for (Size i = 0; i < lanes; ++i) x[i] = _mm512_castps_si512(rows[i]);
}
