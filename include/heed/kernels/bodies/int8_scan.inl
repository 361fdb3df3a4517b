// Kernels of decoding to a tolerance on pages of 8-bit keys and values: a look at the high planes alone, what it says
// of pages, and groups of keys in full; included behind int8.inl.

// What the high planes alone say: s[g][32 p + j] = q_g . k with 7.5 for every low nibble, base[g][p] = q_g . mean.
template <class X, class I>
void int8_scan(const Int8Layout& given, Int8PagesView pages, Size n_pages, const Int8Query* queries, Size n_q, float* s,
               Size s_stride, float* base, Size base_stride) {
  constexpr int vectors = 2;
  const Int8Layout layout = given;
  const Size ahead = pages_ahead(layout.near_bytes);
  for (Size first = 0; first < n_pages; first += pages_at_once) {
    const Size n = n_pages - first < pages_at_once ? n_pages - first : pages_at_once;
    const unsigned char* near = pages.near_pages + first * layout.near_bytes;
    for (Size g = 0; g < n_q; ++g) {
      const Int8Query query = queries[g];
      float* means = base + g * base_stride + first;
      mean_scores<X>(pages.mean_keys + first * layout.d_padded, layout.d_padded, n, query.q, means);
      const typename X::V factor = X::set(query.scale), offset = X::set(-120.5f * static_cast<float>(query.sum));
      float* to = s + g * s_stride + first * Int8Layout::keys;
      for (Size p = 0; p < n; ++p) {
        const unsigned char* high = near + p * layout.near_bytes;
        if (g == 0) fetch_bytes(high + ahead * layout.near_bytes, layout.near_bytes);
        for (Size j = 0; j < Int8Layout::keys; j += vectors * X::lanes) {
          typename I::V sums[vectors];
          nibble_products<I, vectors>(high, layout.d_padded, j, query.bytes, sums);
#pragma GCC unroll 2
          for (int u = 0; u < vectors; ++u) {
            const Size key = j + u * X::lanes;
            const typename X::V scales = X::mul(X::load_as(bfloats(high + layout.key_scales) + key), factor);
            const typename X::V rest = X::fma(X::set(16.0f), I::to_float(sums[u]), offset);
            X::store(to + p * Int8Layout::keys + key, X::fma(rest, scales, X::set(means[p])));
          }
        }
      }
    }
  }
}

// PageSums of weights w = 2^(c * (s - top)), t = s - base[p].
template <class X, class I>
void int8_weigh_pages(Size n_pages, float c, float top, const float* s, const float* base, PageSums* to) {
  constexpr Size at_once = X::lanes / 4;  // pages whose sums fill a vector
  static_assert(sizeof(PageSums) == 4 * sizeof(float));
  const typename X::V factor = X::set(c), from = X::set(top);
  for (Size first = 0; first < n_pages; first += at_once) {
    typename X::V part[X::lanes];
#pragma GCC unroll 4
    for (Size p = 0; p < at_once; ++p) {
      typename X::V* sums = part + 4 * p;
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) sums[i] = X::zero();
      if (first + p >= n_pages) continue;
      const typename X::V mean = X::set(base[first + p]);
#pragma GCC unroll 2
      for (Size half = 0; half < 2; ++half) {
        for (Size j = 0; j < Int8Layout::group; j += X::lanes, s += X::lanes) {
          const typename X::V score = X::load(s), w = exp2(X::mul(X::sub(score, from), factor));
          sums[0] = X::add(sums[0], w);
          sums[1] = X::fma(w, X::sub(score, mean), sums[1]);
          sums[2 + half] = X::fma(w, w, sums[2 + half]);
        }
      }
    }
    float all[X::lanes];
    X::store(all, row_sums<X>(part));
    const Size n = n_pages - first < at_once ? n_pages - first : at_once;
    __builtin_memcpy(to + first, all, static_cast<std::size_t>(n) * sizeof(PageSums));
  }
}

// Scores of the keys of n groups of 16, group i the half i % 2 of page i / 2: `rough` as the scan has them, `fine` with
// both nibbles; base[p] = q . mean of page p.
template <class X, class I>
void int8_group_scores(const Int8Layout& given, Int8PagesView pages, const Size* groups, Size n,
                       const Int8Query& given_query, const float* base, float* rough, float* fine) {
  constexpr int vectors = Int8Layout::group / X::lanes < 2 ? 1 : 2;
  constexpr Size groups_ahead = 4;
  const Int8Layout layout = given;
  const Int8Query query = given_query;
  const Size plane = layout.d_padded * 8;
  const typename X::V factor = X::set(query.scale), offset = X::set(-120.5f * static_cast<float>(query.sum));
  const typename I::V whole_offset = I::set(-128 * query.sum);
  for (Size i = 0; i < n; ++i) {
    if (i + groups_ahead < n) {
      const Size page = groups[i + groups_ahead] / 2, half = groups[i + groups_ahead] % 2;
      fetch_bytes(pages.near_pages + page * layout.near_bytes + half * plane, plane);
      fetch_bytes(pages.far_pages + page * layout.far_bytes + half * plane, plane);
      fetch_bytes(pages.far_pages + page * layout.far_bytes + layout.values + half * 16 * layout.v_padded,
                  16 * layout.v_padded);
    }
    const Size page = groups[i] / 2, first = groups[i] % 2 * Int8Layout::group;
    const unsigned char *high = pages.near_pages + page * layout.near_bytes,
                        *low = pages.far_pages + page * layout.far_bytes;
    const typename X::V mean = X::set(base[page]);
    for (Size j = 0; j < Int8Layout::group; j += vectors * X::lanes) {
      typename I::V upper[vectors], sums[vectors];
      nibble_products<I, vectors>(high, layout.d_padded, first + j, query.bytes, upper);
      byte_products<I, vectors>(high, low, layout.d_padded, first + j, query.bytes, sums);
#pragma GCC unroll 2
      for (int u = 0; u < vectors; ++u) {
        const Size key = j + u * X::lanes;
        const typename X::V scales = X::mul(X::load_as(bfloats(high + layout.key_scales) + first + key), factor);
        const typename X::V rest = X::fma(X::set(16.0f), I::to_float(upper[u]), offset);
        X::store(rough + i * Int8Layout::group + key, X::fma(rest, scales, mean));
        X::store(fine + i * Int8Layout::group + key, X::fma(I::to_float(I::add(sums[u], whole_offset)), scales, mean));
      }
    }
  }
}

// out[c] += sum of w[16 i + j] * value (j, c) over the keys of n groups; out has room for whole vectors.
template <class X, class I>
void int8_group_values(const Int8Layout& given, Int8PagesView pages, const Size* groups, Size n, const float* w,
                       float* out) {
  const Int8Layout layout = given;
  const Size quad_bytes = 4 * layout.v_padded;
  for (Size i = 0; i < n; ++i) {
    const Size first = groups[i] % 2 * Int8Layout::group;
    const unsigned char* far = pages.far_pages + groups[i] / 2 * layout.far_bytes;
    WholeWeights<Int8Layout::group> weights;
    make_whole<X, I>(far + layout.value_scales + 2 * first, w + i * Int8Layout::group, weights);
    if (weights.unit == 0) continue;
    add_values<X, I>(far + layout.values + first / Int8Layout::quad * quad_bytes, layout.d_v, quad_bytes, weights, out);
  }
}

template <class X, class I>
inline constexpr Int8Kernels int8_table = {&int8_scores<X, I>,      &int8_values<X, I>,       &int8_scan<X, I>,
                                           &int8_weigh_pages<X, I>, &int8_group_scores<X, I>, &int8_group_values<X, I>};
