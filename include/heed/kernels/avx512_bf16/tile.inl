// Kernels on one panel of queries against a strip of keys with bfloat16 operands; see bodies/tile.inl for the layout of
// a panel.

// Scores of R keys: s[r][i] = k_r . q_i; top[i] = max(top[i], s[.][i]). The maximum waits in memory: the accumulators
// need the registers.
template <int U, int R>
HEED_INLINE inline void score_rows(const Bfloat* k, Size k_stride, const Bf16Pair* q, Size n_pairs, Size panel,
                                   float* s, float* top) {
  V sum[R][U];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = Vf::zero();
  }
  for (Size t = 0; t < n_pairs; ++t, q += panel) {
    Words row[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) row[u] = load(q + u * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Words key = set(k + r * k_stride + 2 * t);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = dot(key, row[u], sum[r][u]);
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    V best = Vf::load(top + u * lanes);
    float* to = s + u * lanes;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r, to += panel) {
      Vf::store(to, sum[r][u]);
      best = Vf::max(sum[r][u], best);
    }
    Vf::store(top + u * lanes, best);
  }
}

template <int U>
HEED_INLINE inline void score_strip(const Bfloat* k, Size k_stride, Size n_keys, const Bf16Pair* q, Size n_pairs,
                                    Size panel, float* s, float* top) {
  constexpr int R = Vf::rows;
  if (n_keys < R) {
    for (Size j = 0; j < n_keys; ++j)
      score_rows<U, 1>(k + j * k_stride, k_stride, q, n_pairs, panel, s + j * panel, top);
    return;
  }
  for (Size j = 0; j < n_keys; j += R) {
    const Size from = j + R <= n_keys ? j : n_keys - R;  // the last tile overlaps: the same scores, written again
    score_rows<U, R>(k + from * k_stride, k_stride, q, n_pairs, panel, s + from * panel, top);
  }
}

// s[j][i] = k_j . q_i for the keys of a strip; top[i] = max(top[i], s[.][i]). Rows of keys are pairs: 2 * n_pairs
// numbers each, k_stride numbers apart, at any address.
inline void scores(const Bfloat* k, Size k_stride, Size n_keys, const Bf16Pair* q, Size n_pairs, Size panel, Size first,
                   Size count, float* s, float* top) {
  const Size shift = first * lanes;
  if (count == 1) {
    score_strip<1>(k, k_stride, n_keys, q + shift, n_pairs, panel, s + shift, top + shift);
  } else if (count == 2) {
    score_strip<2>(k, k_stride, n_keys, q + shift, n_pairs, panel, s + shift, top + shift);
  } else {
    score_strip<3>(k, k_stride, n_keys, q + shift, n_pairs, panel, s + shift, top + shift);
  }
}

template <int U>
HEED_INLINE inline void weigh_strip(Size n_keys, Size panel, float c, const float* base, float* s, float* l) {
  V sum[U], from[U];
  const V factor = Vf::set(c);
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    sum[u] = Vf::zero();
    from[u] = Vf::load(base + u * lanes);
  }
  float* to = s;
  Size j = 0;
  for (; j + 2 <= n_keys; j += 2, to += panel) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const float* at = s + j * panel + u * lanes;
      const V first = avx512::exp2(Vf::mul(Vf::sub(Vf::load(at), from[u]), factor));
      const V second = avx512::exp2(Vf::mul(Vf::sub(Vf::load(at + panel), from[u]), factor));
      store_words(to + u * lanes, narrow(first, second));
      sum[u] = Vf::add(Vf::add(sum[u], first), second);
    }
  }
  if (j < n_keys) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      const V weight = avx512::exp2(Vf::mul(Vf::sub(Vf::load(s + j * panel + u * lanes), from[u]), factor));
      store_words(to + u * lanes, narrow(weight, Vf::zero()));
      sum[u] = Vf::add(sum[u], weight);
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) Vf::store(l + u * lanes, Vf::add(Vf::load(l + u * lanes), sum[u]));
}

// The weights w_j = 2^(c * (s[j][i] - base[i])), rounded, of keys j and j + 1 as pairs in place of row j / 2; l[i] +=
// their sum, keys in order, before rounding. With the sum of the rounded weights the error of lse would be 60 to 500
// times as large (1e-6 becomes 1e-4 to 1e-3), and that of a bfloat16 out the same within 5%.
inline void weigh(Size n_keys, Size panel, Size first, Size count, float c, const float* base, float* s, float* l) {
  const Size shift = first * lanes;
  if (count == 1) {
    weigh_strip<1>(n_keys, panel, c, base + shift, s + shift, l + shift);
  } else if (count == 2) {
    weigh_strip<2>(n_keys, panel, c, base + shift, s + shift, l + shift);
  } else {
    weigh_strip<3>(n_keys, panel, c, base + shift, s + shift, l + shift);
  }
}

// out[c][i] = correction[i] * out[c][i] + sum_j w[j][i] v[j][c] for R columns of v.
template <int U, int R>
HEED_INLINE inline void value_columns(const Bf16Pair* v, Size n_pairs, const float* w, Size panel,
                                      const float* correction, float* out) {
  V sum[R][U];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = Vf::zero();
  }
  for (Size t = 0; t < n_pairs; ++t, w += panel, v += Vf::rows) {
    Words weight[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) weight[u] = load(w + u * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Words value = set(v + r);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = dot(value, weight[u], sum[r][u]);
    }
  }
  avx512::join_columns<Vf, U, R>(sum, panel, correction, out);
}

template <int U>
HEED_INLINE inline void value_strip(const Bf16Pair* v, Size block_stride, Size n_pairs, const float* w, Size d_v,
                                    Size panel, const float* correction, float* out) {
  constexpr int R = Vf::rows;
  Size c = 0;
  for (; c + R <= d_v; c += R, v += block_stride)
    value_columns<U, R>(v, n_pairs, w, panel, correction, out + c * panel);
  for (; c < d_v; ++c, ++v) value_columns<U, 1>(v, n_pairs, w, panel, correction, out + c * panel);
}

// out[c][i] = correction[i] * out[c][i] + sum_j w[j][i] v_jc over pairs of keys: weights as `weigh` leaves them, values
// as `pack_values` lays them, from an even key on.
inline void values(const Bf16Pair* v, Size block_stride, Size n_pairs, const float* w, Size d_v, Size panel, Size first,
                   Size count, const float* correction, float* out) {
  const Size shift = first * lanes;
  if (correction != nullptr) correction += shift;
  if (count == 1) {
    value_strip<1>(v, block_stride, n_pairs, w + shift, d_v, panel, correction, out + shift);
  } else if (count == 2) {
    value_strip<2>(v, block_stride, n_pairs, w + shift, d_v, panel, correction, out + shift);
  } else {
    value_strip<3>(v, block_stride, n_pairs, w + shift, d_v, panel, correction, out + shift);
  }
}
