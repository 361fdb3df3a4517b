// Kernels on pages of 8-bit keys and values (int8_kernels.hpp), vector lanes along keys for scores and along columns
// for values; included inside each instance's target region. Products are of whole numbers and exact, so that only
// what is float is rounded: one key or many at a time, wide lanes or narrow, the sums are the same.

// Pages are asked for this many ahead: about 12 KiB, as in row.inl.
HEED_INLINE inline Size pages_ahead(Size bytes) { return 12288 / bytes + 1; }

HEED_INLINE inline void fetch_bytes(const unsigned char* from, Size n) {
  for (Size b = 0; b < n; b += 64) __builtin_prefetch(from + b);
}

HEED_INLINE inline std::int32_t four_bytes(const void* from) {
  std::int32_t word;
  __builtin_memcpy(&word, from, sizeof word);
  return word;
}

HEED_INLINE inline const Bfloat* bfloats(const unsigned char* from) { return reinterpret_cast<const Bfloat*>(from); }

// q . mean of a page.
template <class X>
HEED_INLINE inline float mean_score(const Int8Layout& layout, const unsigned char* near, const float* q) {
  typename X::V sum = X::zero();
  for (Size c = 0; c < layout.d_padded; c += X::lanes) {
    // Means are followed by variances, whose columns meet the zeros q is padded with.
    sum = X::fma(X::load_as(bfloats(near + layout.mean_key) + c), X::load(q + c), sum);
  }
  return X::sum(sum);
}

// Lane i: sum over columns of high nibble * byte of the query, for keys first, first + 1, ... of a page.
template <class I>
HEED_INLINE inline typename I::V high_products(const Int8Layout& layout, const unsigned char* near, Size first,
                                               const std::int8_t* q) {
  typename I::V even = I::zero(), odd = I::zero();
  const unsigned char* at =
      near + first / Int8Layout::group * (layout.d_padded * 8) + 4 * (first % Int8Layout::group);
  for (Size c = 0; c < layout.d_padded; c += 8, at += 64) {
    const typename I::V nibbles = I::load(at);
    even = I::dot(even, I::low_nibbles(nibbles), I::set(four_bytes(q + c)));
    odd = I::dot(odd, I::high_nibbles(nibbles), I::set(four_bytes(q + c + 4)));
  }
  return I::add(even, odd);
}

// The same of 16 high + low.
template <class I>
HEED_INLINE inline typename I::V whole_products(const Int8Layout& layout, const unsigned char* near,
                                                const unsigned char* far, Size first, const std::int8_t* q) {
  if constexpr (requires { I::dot_bytes; }) {
    typename I::V even = I::zero(), odd = I::zero();
    const Size offset = first / Int8Layout::group * (layout.d_padded * 8) + 4 * (first % Int8Layout::group);
    const unsigned char *high = near + offset, *low = far + offset;
    for (Size c = 0; c < layout.d_padded; c += 8, high += 64, low += 64) {
      const typename I::V upper = I::load(high), lower = I::load(low);
      even = I::dot_bytes(even, I::join_low(upper, lower), I::set(four_bytes(q + c)));
      odd = I::dot_bytes(odd, I::join_high(upper, lower), I::set(four_bytes(q + c + 4)));
    }
    return I::add(even, odd);
  } else {
    return I::template shift_add<4>(high_products<I>(layout, near, first, q), high_products<I>(layout, far, first, q));
  }
}

// s[g][32 p + j] = q_g . k of key j of page p.
template <class X, class I>
void int8_scores(const Int8Layout& layout, Int8PagesView pages, Size n_pages, const Int8Query* queries, Size n_q,
                 float* s, Size s_stride) {
  const Size ahead = pages_ahead(layout.near_bytes + layout.values);
  for (Size p = 0; p < n_pages; ++p) {
    const unsigned char *near = pages.near_ + p * layout.near_bytes, *far = pages.far_ + p * layout.far_bytes;
    fetch_bytes(near + ahead * layout.near_bytes, layout.near_bytes);
    fetch_bytes(far + ahead * layout.far_bytes, layout.values);
    for (Size g = 0; g < n_q; ++g) {
      const Int8Query& query = queries[g];
      const typename X::V base = X::set(mean_score<X>(layout, near, query.q)), factor = X::set(query.scale);
      const typename I::V offset = I::set(-128 * query.sum);
#pragma GCC unroll 2
      for (Size j = 0; j < Int8Layout::keys; j += X::lanes) {
        const typename I::V sums = I::add(whole_products<I>(layout, near, far, j, query.bytes), offset);
        const typename X::V scales = X::mul(X::load_as(bfloats(near + layout.key_scales) + j), factor);
        X::store(s + g * s_stride + p * Int8Layout::keys + j, X::fma(I::to_float(sums), scales, base));
      }
    }
  }
}

// Weights as whole numbers of 14 bits in two bytes a key, in units of the largest weight of the page times its scale.
struct PageWeights {
  float unit;
  unsigned char upper[Int8Layout::keys], lower[Int8Layout::keys];
};

// False where all are nothing.
template <class X, class I>
HEED_INLINE inline bool weigh_page(const unsigned char* scales, const float* w, PageWeights& to) {
  constexpr Size n = Int8Layout::keys / X::lanes;
  typename X::V scaled[n], top = X::zero();
#pragma GCC unroll 8
  for (Size u = 0; u < n; ++u) {
    scaled[u] = X::mul(X::load(w + u * X::lanes), X::load_as(bfloats(scales) + u * X::lanes));
    top = X::max(scaled[u], top);
  }
  float lane[X::lanes], most = 0;
  X::store(lane, top);
  for (Size i = 0; i < X::lanes; ++i) most = most < lane[i] ? lane[i] : most;
  if (!(most > 1e-34f)) return false;
  to.unit = most * (1.0f / 16383.0f);
  const typename X::V factor = X::set(16383.0f / most);
#pragma GCC unroll 8
  for (Size u = 0; u < n; ++u) {
    const typename I::V whole = I::from_float(X::mul(scaled[u], factor));
    I::store_bytes(to.upper + u * X::lanes, I::template shift_right<7>(whole));
    I::store_bytes(to.lower + u * X::lanes, I::low_bits(whole, 127));
  }
  return true;
}

// out[g][c] = correction[g] * out[g][c] + sum of w[g][32 p + j] * value (j, c) of page p; rows of out have room for
// whole vectors. Sums of a page are exact but for the weights, of 14 bits: |error| < 2^-14 of the page's largest
// weight times scale, a key.
template <class X, class I>
void int8_values(const Int8Layout& layout, Int8PagesView pages, Size n_pages, const float* w, Size w_stride, Size n_q,
                 const float* correction, float* out, Size out_stride) {
  constexpr Size n_quads = Int8Layout::keys / Int8Layout::quad;
  for (Size g = 0; g < n_q; ++g) {
    for (Size c = 0; c < layout.d_v; c += X::lanes)
      X::store(out + g * out_stride + c, X::mul(X::set(correction[g]), X::load(out + g * out_stride + c)));
  }
  const Size ahead = pages_ahead(layout.far_bytes - layout.values);
  for (Size p = 0; p < n_pages; ++p) {
    const unsigned char* far = pages.far_ + p * layout.far_bytes;
    fetch_bytes(far + ahead * layout.far_bytes + layout.values, layout.far_bytes - layout.values);
    for (Size g = 0; g < n_q; ++g) {
      PageWeights weights;
      if (!weigh_page<X, I>(far + layout.value_scales, w + g * w_stride + p * Int8Layout::keys, weights)) continue;
      const typename X::V unit = X::set(weights.unit);
      for (Size c = 0; c < layout.d_v; c += X::lanes) {
        typename I::V upper = I::zero(), lower = I::zero();
        const unsigned char* at = far + layout.values + 4 * c;
#pragma GCC unroll 8
        for (Size b = 0; b < n_quads; ++b, at += 4 * layout.v_padded) {
          const typename I::V value = I::load(at);
          upper = I::dot(upper, I::set(four_bytes(weights.upper + 4 * b)), value);
          lower = I::dot(lower, I::set(four_bytes(weights.lower + 4 * b)), value);
        }
        float* to = out + g * out_stride + c;
        X::store(to, X::fma(unit, I::to_float(I::template shift_add<7>(upper, lower)), X::load(to)));
      }
    }
  }
}

template <class X, class I>
inline constexpr Int8Kernels int8_table = {&int8_scores<X, I>, &int8_values<X, I>};
