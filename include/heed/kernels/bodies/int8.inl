// Kernels on pages of 8-bit keys and values (int8_kernels.hpp), vector lanes along keys for scores and along columns
// for values; included inside each instance's target region. Products are of whole numbers and exact, so that only
// what is float is rounded: one key or many at a time, wide lanes or narrow, the sums are the same.

// Pages are asked for this many ahead: about 12 KiB, as in row.inl.
HEED_INLINE inline Size pages_ahead(Size bytes) { return 12288 / bytes + 1; }

// Asks the second level cache: a page is computed on in less time than its lines take, and the first level has too few
// requests under way (Zen 5, 16384 keys of 12 heads: 2.4x the time).
HEED_INLINE inline void fetch_bytes(const unsigned char* from, Size n) {
  for (Size b = 0; b < n; b += 64) __builtin_prefetch(from + b, 0, 2);
}

HEED_INLINE inline std::int32_t four_bytes(const void* from) {
  std::int32_t word;
  __builtin_memcpy(&word, from, sizeof word);
  return word;
}

HEED_INLINE inline const Bfloat* bfloats(const unsigned char* from) { return reinterpret_cast<const Bfloat*>(from); }

// Pages whose sums across lanes are made before their products, so that neither waits for the other.
constexpr Size pages_at_once = 8;

// q . mean key of each page.
template <class X>
HEED_INLINE inline void mean_scores(const Bfloat* means, Size d_padded, Size n_pages, const float* q, float* to) {
  for (Size p = 0; p < n_pages; ++p, means += d_padded) {
    typename X::V sum = X::zero();
    // Behind a mean lies the next, which is finite: its columns meet the zeros q is padded with.
    for (Size c = 0; c < d_padded; c += X::lanes) sum = X::fma(X::load_as(means + c), X::load(q + c), sum);
    to[p] = X::sum(sum);
  }
}

// to[u] lane i: sum over columns of nibble * byte of the query, for key u * lanes + i of 16 or more of one plane.
template <class I, int vectors>
HEED_INLINE inline void nibble_products(const unsigned char* plane, Size d_padded, Size first, const std::int8_t* q,
                                        typename I::V* to) {
  typename I::V even[vectors], odd[vectors];
#pragma GCC unroll 4
  for (int u = 0; u < vectors; ++u) even[u] = odd[u] = I::zero();
  for (Size c = 0; c < d_padded; c += 8) {
    const typename I::V low = I::set(four_bytes(q + c)), high = I::set(four_bytes(q + c + 4));
#pragma GCC unroll 4
    for (int u = 0; u < vectors; ++u) {
      const Size key = first + u * I::lanes;
      const typename I::V nibbles =
          I::load(plane + (key / Int8Layout::group * d_padded + c) * 8 + 4 * (key % Int8Layout::group));
      even[u] = I::dot(even[u], I::low_nibbles(nibbles), low);
      odd[u] = I::dot(odd[u], I::high_nibbles(nibbles), high);
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < vectors; ++u) to[u] = I::add(even[u], odd[u]);
}

// The same of 16 high + low.
template <class I, int vectors>
HEED_INLINE inline void byte_products(const unsigned char* high, const unsigned char* low, Size d_padded, Size first,
                                      const std::int8_t* q, typename I::V* to) {
  if constexpr (requires { I::dot_bytes; }) {
    typename I::V even[vectors], odd[vectors];
#pragma GCC unroll 4
    for (int u = 0; u < vectors; ++u) even[u] = odd[u] = I::zero();
    for (Size c = 0; c < d_padded; c += 8) {
      const typename I::V near = I::set(four_bytes(q + c)), next = I::set(four_bytes(q + c + 4));
#pragma GCC unroll 4
      for (int u = 0; u < vectors; ++u) {
        const Size key = first + u * I::lanes;
        const Size at = (key / Int8Layout::group * d_padded + c) * 8 + 4 * (key % Int8Layout::group);
        const typename I::V upper = I::load(high + at), lower = I::load(low + at);
        even[u] = I::dot_bytes(even[u], I::join_low(upper, lower), near);
        odd[u] = I::dot_bytes(odd[u], I::join_high(upper, lower), next);
      }
    }
#pragma GCC unroll 4
    for (int u = 0; u < vectors; ++u) to[u] = I::add(even[u], odd[u]);
  } else {
    typename I::V upper[vectors];
    nibble_products<I, vectors>(high, d_padded, first, q, upper);
    nibble_products<I, vectors>(low, d_padded, first, q, to);
#pragma GCC unroll 4
    for (int u = 0; u < vectors; ++u) to[u] = I::template shift_add<4>(upper[u], to[u]);
  }
}

// s[g][32 p + j] = q_g . k of key j of page p.
template <class X, class I>
void int8_scores(const Int8Layout& given, Int8PagesView pages, Size n_pages, const Int8Query* queries, Size n_q,
                 float* s, Size s_stride) {
  constexpr int vectors = 2;
  const Int8Layout layout = given;
  const Size ahead = pages_ahead(layout.near_bytes + layout.values);
  for (Size first = 0; first < n_pages; first += pages_at_once) {
    const Size n = n_pages - first < pages_at_once ? n_pages - first : pages_at_once;
    const unsigned char *near = pages.near_pages + first * layout.near_bytes,
                        *far = pages.far_pages + first * layout.far_bytes;
    for (Size g = 0; g < n_q; ++g) {
      const Int8Query query = queries[g];
      float base[pages_at_once];
      mean_scores<X>(pages.mean_keys + first * layout.d_padded, layout.d_padded, n, query.q, base);
      const typename X::V factor = X::set(query.scale);
      const typename I::V offset = I::set(-128 * query.sum);
      float* to = s + g * s_stride + first * Int8Layout::keys;
      for (Size p = 0; p < n; ++p) {
        const unsigned char *high = near + p * layout.near_bytes, *low = far + p * layout.far_bytes;
        if (g == 0) {
          fetch_bytes(high + ahead * layout.near_bytes, layout.near_bytes);
          fetch_bytes(low + ahead * layout.far_bytes, layout.values);
        }
        for (Size j = 0; j < Int8Layout::keys; j += vectors * X::lanes) {
          typename I::V sums[vectors];
          byte_products<I, vectors>(high, low, layout.d_padded, j, query.bytes, sums);
#pragma GCC unroll 2
          for (int u = 0; u < vectors; ++u) {
            const Size key = j + u * X::lanes;
            const typename X::V scales = X::mul(X::load_as(bfloats(high + layout.key_scales) + key), factor);
            X::store(to + p * Int8Layout::keys + key,
                     X::fma(I::to_float(I::add(sums[u], offset)), scales, X::set(base[p])));
          }
        }
      }
    }
  }
}

// Weights of `keys` keys as whole numbers of 14 bits in two bytes a key, in units of a power of two: the largest of the
// weights times their scales has the first bit.
template <Size keys>
struct WholeWeights {
  float unit;  // 0: all are nothing
  unsigned char upper[keys], lower[keys];
};

template <class X, class I, Size keys>
HEED_INLINE inline void make_whole(const unsigned char* scales, const float* w, WholeWeights<keys>& to) {
  constexpr Size n = keys / X::lanes;
  typename X::V scaled[n], top = X::zero();
#pragma GCC unroll 8
  for (Size u = 0; u < n; ++u) {
    scaled[u] = X::mul(X::load(w + u * X::lanes), X::load_as(bfloats(scales) + u * X::lanes));
    top = X::max(scaled[u], top);
  }
  const float most = X::largest(top);
  to.unit = 0;
  if (!(most > 1e-34f)) return;
  std::uint32_t bits;
  __builtin_memcpy(&bits, &most, sizeof bits);
  const std::uint32_t exponent = bits >> 23;  // of 2^(exponent - 127) <= most
  const std::uint32_t unit = (exponent - 13) << 23, inverse = (254 + 13 - exponent) << 23;
  float up;
  __builtin_memcpy(&to.unit, &unit, sizeof unit);
  __builtin_memcpy(&up, &inverse, sizeof inverse);
  const typename X::V factor = X::set(up), limit = X::set(16383.0f);
#pragma GCC unroll 8
  for (Size u = 0; u < n; ++u) {
    const typename I::V whole = I::from_float(X::min(X::mul(scaled[u], factor), limit));
    I::store_bytes(to.upper + u * X::lanes, I::template shift_right<7>(whole));
    I::store_bytes(to.lower + u * X::lanes, I::low_bits(whole, 127));
  }
}

// out[c] += the weights times column c of as many values, which begin at `values`.
template <class X, class I, Size keys>
HEED_INLINE inline void add_values(const unsigned char* values, Size d_v, Size quad_bytes,
                                   const WholeWeights<keys>& weights, float* out) {
  constexpr Size n_quads = keys / Int8Layout::quad;
  typename I::V upper_weights[n_quads], lower_weights[n_quads];
#pragma GCC unroll 8
  for (Size b = 0; b < n_quads; ++b) {
    upper_weights[b] = I::set(four_bytes(weights.upper + 4 * b));
    lower_weights[b] = I::set(four_bytes(weights.lower + 4 * b));
  }
  const typename X::V unit = X::set(weights.unit);
  for (Size c = 0; c < d_v; c += X::lanes) {
    const unsigned char* at = values + 4 * c;
    typename I::V upper = I::zero(), lower = I::zero();
#pragma GCC unroll 8
    for (Size b = 0; b < n_quads; ++b, at += quad_bytes) {
      const typename I::V value = I::load(at);
      upper = I::dot(upper, upper_weights[b], value);
      lower = I::dot(lower, lower_weights[b], value);
    }
    X::store(out + c, X::fma(unit, I::to_float(I::template shift_add<7>(upper, lower)), X::load(out + c)));
  }
}

// out[g][c] = correction[g] * out[g][c] + sum of w[g][32 p + j] * value (j, c) of page p; rows of out have room for
// whole vectors. Sums of a page are exact but for the weights: |error| < 2^-14 of the page's largest weight times
// scale, a key; one below 1e-34 is 0.
template <class X, class I>
void int8_values(const Int8Layout& given, Int8PagesView pages, Size n_pages, const float* w, Size w_stride, Size n_q,
                 const float* correction, float* out, Size out_stride) {
  const Int8Layout layout = given;
  for (Size g = 0; g < n_q; ++g) {
    for (Size c = 0; c < layout.d_v; c += X::lanes)
      X::store(out + g * out_stride + c, X::mul(X::set(correction[g]), X::load(out + g * out_stride + c)));
  }
  const Size ahead = pages_ahead(layout.far_bytes - layout.values), quad_bytes = 4 * layout.v_padded;
  WholeWeights<Int8Layout::keys> weights[pages_at_once];
  for (Size first = 0; first < n_pages; first += pages_at_once) {
    const Size n = n_pages - first < pages_at_once ? n_pages - first : pages_at_once;
    const unsigned char* far = pages.far_pages + first * layout.far_bytes;
    for (Size g = 0; g < n_q; ++g) {
      const float* own = w + g * w_stride + first * Int8Layout::keys;
      for (Size p = 0; p < n; ++p)
        make_whole<X, I>(far + p * layout.far_bytes + layout.value_scales, own + p * Int8Layout::keys, weights[p]);
      for (Size p = 0; p < n; ++p) {
        const unsigned char* values = far + p * layout.far_bytes + layout.values;
        if (g == 0) fetch_bytes(values + ahead * layout.far_bytes, layout.far_bytes - layout.values);
        if (weights[p].unit != 0) add_values<X, I>(values, layout.d_v, quad_bytes, weights[p], out + g * out_stride);
      }
    }
  }
}
