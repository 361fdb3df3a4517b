// Kernels that bring operands to 8 bits (int8_panel_kernels.hpp).

using F = Vf::V;
using I = Vi::V;
constexpr Size lanes = Vf::lanes;

HEED_INLINE inline __mmask16 first_lanes(Size n) {
  return static_cast<__mmask16>(n >= lanes ? 0xffffu : (1u << n) - 1u);
}

// The lowest bytes of four lanes in one, a first.
HEED_INLINE inline I join_bytes(I a, I b, I c, I d) {
  const I low = _mm512_set1_epi32(255);
  const I front = _mm512_or_si512(_mm512_and_si512(a, low), _mm512_slli_epi32(_mm512_and_si512(b, low), 8));
  return _mm512_or_si512(front,
                         _mm512_or_si512(_mm512_slli_epi32(_mm512_and_si512(c, low), 16), _mm512_slli_epi32(d, 24)));
}

// The scale of numbers up to `top`, and its inverse: 127 steps to either side. Below 1e-34 all numbers are next to 0.
constexpr float least_top = 1e-34f;
HEED_INLINE inline F scale_of(F top) { return Vf::mul(Vf::max(top, Vf::set(least_top)), Vf::set(1.0f / 127)); }
HEED_INLINE inline F steps_of(F top) { return Vf::div(Vf::set(127.0f), Vf::max(top, Vf::set(least_top))); }
HEED_INLINE inline float scale_of(float top) { return (top > least_top ? top : least_top) * (1.0f / 127); }
HEED_INLINE inline float steps_of(float top) { return 127.0f / (top > least_top ? top : least_top); }

// q: d x panel, transposed.
inline void pack_queries(const float* q, Size d, Size panel, Int8Panel to) {
  const I half = Vi::set(128);
  for (Size i = 0; i < panel; i += lanes) {
    F top = Vf::zero(), spoiled = Vf::zero();
    for (Size c = 0; c < d; ++c) {
      const F x = Vf::load(q + c * panel + i);
      top = Vf::max(Vf::abs(x), top);
      spoiled = Vf::fma(x, Vf::zero(), spoiled);
    }
    const F steps = steps_of(top);
    Vf::store(to.scale + i, Vf::add(scale_of(top), spoiled));
    for (Size c = 0; c < d; c += 4) {
      I bytes[4];
#pragma GCC unroll 4
      for (Size b = 0; b < 4; ++b) {
        bytes[b] = half;
        if (c + b < d) bytes[b] = Vi::add(half, Vi::from_float(Vf::mul(Vf::load(q + (c + b) * panel + i), steps)));
      }
      _mm512_storeu_si512(to.bytes + c * panel + 4 * i, join_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
  }
}

// The bits of |x|, whose order as whole numbers is that of the numbers, Inf and NaN behind all others.
HEED_INLINE inline I size_bits(F x) { return _mm512_and_si512(_mm512_castps_si512(x), _mm512_set1_epi32(0x7fffffff)); }

// The largest of such bits as a number; Inf where one is Inf or NaN.
HEED_INLINE inline float largest_of(I bits) {
  const unsigned most = _mm512_reduce_max_epu32(bits), infinite = 0x7f800000u;
  const unsigned word = most < infinite ? most : infinite;
  float number;
  __builtin_memcpy(&number, &word, sizeof number);
  return number;
}

// to[j] = the largest |number| of key j; Inf where one is not finite.
inline void largest(const float* k, Size stride, Size n, Size d, float* to) {
  for (Size j = 0; j < n; ++j, k += stride) {
    I top = Vi::zero();
    for (Size c = 0; c < d; c += lanes)
      top = _mm512_max_epu32(size_bits(_mm512_maskz_loadu_ps(first_lanes(d - c), k + c)), top);
    to[j] = largest_of(top);
  }
}

// Whole numbers of columns c and on of one row of keys; those behind its end are left out.
HEED_INLINE inline void store_key(const Int8KeyRows& to, Size row, Size c, I whole, I& sum) {
  sum = Vi::add(sum, whole);
  _mm512_mask_cvtepi32_storeu_epi8(to.bytes + row * to.stride + c, first_lanes(to.stride - c), whole);
}

// Columns c and on of a key less `part` of the mean; 0 behind the last.
HEED_INLINE inline F less_mean(const float* key, const float* mean, F part, Size c, Size d) {
  const __mmask16 mask = first_lanes(d - c);
  return Vf::sub(_mm512_maskz_loadu_ps(mask, key + c), Vf::mul(part, _mm512_maskz_loadu_ps(mask, mean + c)));
}

HEED_INLINE inline float largest_less_mean(const float* key, const float* mean, float part, Size d) {
  I most = Vi::zero();
  for (Size c = 0; c < d; c += lanes)
    most = _mm512_max_epu32(size_bits(less_mean(key, mean, Vf::set(part), c, d)), most);
  return largest_of(most);
}

// Keys less their mean, which is that of keys weighted by share[j]; a share of 0 leaves a key out. top[j] is the
// largest number of key j. mean: d numbers to work in, padded to whole vectors.
inline void pack_keys(const float* k, Size stride, Size n, Size d, const float* top, const float* share, float* mean,
                      Int8KeyRows to) {
  I top_of_mean = Vi::zero();
  for (Size c = 0; c < d; c += lanes) {
    const __mmask16 mask = first_lanes(d - c);
    F sum = Vf::zero();
    for (Size j = 0; j < n; ++j) {
      if (share[j] != 0) sum = Vf::fma(_mm512_maskz_loadu_ps(mask, k + j * stride + c), Vf::set(share[j]), sum);
    }
    Vf::store(mean + c, sum);
    top_of_mean = _mm512_max_epu32(size_bits(sum), top_of_mean);
  }
  const float most_of_mean = largest_of(top_of_mean);
  const F mean_steps = Vf::set(254 * steps_of(most_of_mean));  // 32258 of them
  to.scale[0] = to.scale[1] = scale_of(most_of_mean) / 254;
  I upper_sum = Vi::zero(), lower_sum = Vi::zero();
  for (Size c = 0; c < d; c += lanes) {
    const I whole = Vi::from_float(Vf::mul(Vf::load(mean + c), mean_steps));
    const I upper = Vi::template shift_right<8>(Vi::add(whole, Vi::set(128)));
    store_key(to, 0, c, upper, upper_sum);
    store_key(to, 1, c, _mm512_sub_epi32(whole, _mm512_slli_epi32(upper, 8)), lower_sum);
    Vf::store(mean + c, Vf::mul(Vi::to_float(whole), Vf::set(to.scale[0])));  // what keys are counted from
  }
  to.offset[0] = -128 * _mm512_reduce_add_epi32(upper_sum);
  to.offset[1] = -128 * _mm512_reduce_add_epi32(lower_sum);
  for (Size j = 0; j < n; ++j, k += stride) {
    const float apart = largest_less_mean(k, mean, 1, d);
    const bool centred = apart < top[j];
    const float most = centred ? apart : top[j], part = centred ? 1.0f : 0.0f;
    const bool finite = most < __builtin_inff();
    const F steps = Vf::set(steps_of(most));
    to.of_mean[2 + j] = part;
    to.scale[2 + j] = finite ? scale_of(most) : __builtin_nanf("");
    I sum = Vi::zero();
    for (Size c = 0; c < d; c += lanes) {
      const F x = Vf::mul(less_mean(k, mean, Vf::set(part), c, d), steps);
      store_key(to, 2 + j, c, finite ? Vi::from_float(x) : Vi::zero(), sum);
    }
    to.offset[2 + j] = -128 * _mm512_reduce_add_epi32(sum);
  }
}

// Rows of values as words, with a scale for each; the last quad of keys is filled up with 0. True when all numbers are
// finite.
inline bool pack_values(const float* v, Size stride, Size n, Size d_v, Int8ValueWords to) {
  constexpr Size columns = Int8ValueWords::columns;
  bool all_finite = true;
  for (Size j = 0; j < n; j += 4) {
    const Size n_rows = n - j < 4 ? n - j : 4;
    F steps[4] = {Vf::zero(), Vf::zero(), Vf::zero(), Vf::zero()};
    for (Size b = 0; b < n_rows; ++b) {
      I top = Vi::zero();
      for (Size c = 0; c < d_v; c += lanes) {
        const I size = size_bits(_mm512_maskz_loadu_ps(first_lanes(d_v - c), v + (j + b) * stride + c));
        const __mmask16 finite = _mm512_cmplt_epi32_mask(size, _mm512_set1_epi32(0x7f800000));
        all_finite &= finite == 0xffff;
        top = _mm512_mask_max_epu32(top, finite, size, top);
      }
      const float most = largest_of(top);
      to.scale[j + b] = scale_of(most);
      steps[b] = Vf::set(steps_of(most));
    }
    for (Size c = 0; c < d_v; c += lanes) {
      I bytes[4];
#pragma GCC unroll 4
      for (Size b = 0; b < 4; ++b) {
        bytes[b] = Vi::zero();
        if (b >= n_rows) continue;
        const F x = _mm512_maskz_loadu_ps(first_lanes(d_v - c), v + (j + b) * stride + c);
        bytes[b] = _mm512_maskz_cvtps_epi32(Vf::is_zero(Vf::mul(x, Vf::zero())), Vf::mul(x, steps[b]));
      }
      const I words = join_bytes(bytes[0], bytes[1], bytes[2], bytes[3]);
      std::int32_t* at = to.words + c / columns * to.block_stride + j / 4 * columns;
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), _mm512_castsi512_si256(words));
      if (d_v - c > columns)
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(at + to.block_stride), _mm512_extracti64x4_epi64(words, 1));
    }
  }
  return all_finite;
}
