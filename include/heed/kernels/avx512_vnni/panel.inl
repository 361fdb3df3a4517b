// Kernels on one panel of queries with operands of 8 bits (int8_panel_kernels.hpp); see bodies/tile.inl for the layout
// of a panel. Products are of whole numbers and exact: what is rounded is the operands.

// Vi::dot_bytes, written out: g++ 12 moves the accumulators of its intrinsic from register to register, which costs a
// register tile half its speed.
HEED_INLINE inline I dot(I sum, I a, I b) {
  __asm__("vpdpbusd {%2, %1, %0|%0, %1, %2}" : "+v"(sum) : "v"(a), "v"(b));
  return sum;
}

// Sums of R rows of keys: sum[r][u] = the products of row r and the queries of vector u, whole.
template <int U, int R>
HEED_INLINE inline void key_sums(const std::int8_t* k, Size stride, const std::int32_t* offset, const unsigned char* q,
                                 Size d, Size panel, I (&sum)[R][U]) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = Vi::set(offset[r]);
  }
  for (Size c = 0; c < d; c += 4, q += 4 * panel) {
    I row[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) row[u] = Vi::load(q + 4 * u * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const I key = Vi::set(four_bytes(k + r * stride + c));
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = dot(sum[r][u], row[u], key);
    }
  }
}

template <int U, int R>
HEED_INLINE inline void score_rows(const Int8KeyRows& keys, Size j, const unsigned char* q, Size d, Size panel,
                                   const F (&scale)[U], const F (&mean)[U], float* s, float* top) {
  I sum[R][U];
  const Size row = 2 + j;
  key_sums<U, R>(keys.bytes + row * keys.stride, keys.stride, keys.offset + row, q, d, panel, sum);
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    F best = Vf::load(top + u * lanes);
    float* to = s + u * lanes;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r, to += panel) {
      const F centre = Vf::mul(mean[u], Vf::set(keys.of_mean[row + r]));
      const F score = Vf::fma(Vf::mul(Vi::to_float(sum[r][u]), scale[u]), Vf::set(keys.scale[row + r]), centre);
      Vf::store(to, score);
      best = Vf::max(score, best);
    }
    Vf::store(top + u * lanes, best);
  }
}

template <int U>
HEED_INLINE inline void score_strip(const Int8KeyRows& keys, Size from, Size n_keys, const unsigned char* q,
                                    const float* q_scale, Size d, Size panel, float* s, float* top) {
  constexpr int R = Vf::rows;
  F scale[U], mean[U];
  I sum[2][U];
  key_sums<U, 2>(keys.bytes, keys.stride, keys.offset, q, d, panel, sum);
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    scale[u] = Vf::load(q_scale + u * lanes);
    const F whole = Vf::fma(Vi::to_float(sum[0][u]), Vf::set(256.0f), Vi::to_float(sum[1][u]));
    // 2^15 is about the largest whole number: neither product overflows before the score does.
    mean[u] = Vf::mul(Vf::mul(Vf::mul(whole, Vf::set(0x1p-15f)), scale[u]), Vf::set(keys.scale[0] * 0x1p15f));
  }
  if (n_keys < R) {
    for (Size j = 0; j < n_keys; ++j) score_rows<U, 1>(keys, from + j, q, d, panel, scale, mean, s + j * panel, top);
    return;
  }
  for (Size j = 0; j < n_keys; j += R) {
    const Size at = j + R <= n_keys ? j : n_keys - R;  // the last tile overlaps: the same scores, written again
    score_rows<U, R>(keys, from + at, q, d, panel, scale, mean, s + at * panel, top);
  }
}

// s[j][i] = k_(from + j) . q_i; top[i] = max(top[i], s[.][i]).
inline void panel_scores(Int8KeyRows keys, Size from, Size n_keys, Int8Panel q, Size d, Size panel, Size first,
                         Size count, float* s, float* top) {
  const Size shift = first * lanes;
  const unsigned char* bytes = q.bytes + 4 * shift;
  if (count == 1) {
    score_strip<1>(keys, from, n_keys, bytes, q.scale + shift, d, panel, s + shift, top + shift);
  } else if (count == 2) {
    score_strip<2>(keys, from, n_keys, bytes, q.scale + shift, d, panel, s + shift, top + shift);
  } else {
    score_strip<3>(keys, from, n_keys, bytes, q.scale + shift, d, panel, s + shift, top + shift);
  }
}

// 2^x for x <= 0; 0 for -inf, NaN for NaN. Relative error at most 1.1e-4, a thirtieth of half a step of 255; 2^0 = 1.
HEED_INLINE inline F rough_exp2(F x) {
  const F f = Vf::fraction(x);
  F p = Vf::fma(Vf::set(7.826797e-2f), f, Vf::set(2.2630768e-1f));
  p = Vf::fma(p, f, Vf::set(6.9542435e-1f));
  p = Vf::fma(p, f, Vf::set(1.0f));
  return Vf::pow2(p, x);
}

template <int U>
HEED_INLINE inline void weigh_block(Size n_keys, Size panel, float c, const float* base, const float* value_scale,
                                    float* s, float* words, float* l, float* gain) {
  F from[U], top[U], sum[U];
  const F factor = Vf::set(c);
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    from[u] = Vf::load(base + u * lanes);
    top[u] = sum[u] = Vf::zero();
  }
  for (Size j = 0; j < n_keys; ++j) {
    const F scale = Vf::set(value_scale[j]);
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      float* at = s + j * panel + u * lanes;
      const F weight = rough_exp2(Vf::mul(Vf::sub(Vf::load(at), from[u]), factor)), part = Vf::mul(weight, scale);
      sum[u] = Vf::add(sum[u], weight);
      top[u] = Vf::max(part, top[u]);
      Vf::store(at, part);
    }
  }
  F steps[U];
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    const F most = Vf::max(top[u], Vf::set(1e-36f));
    Vf::store(l + u * lanes, Vf::add(Vf::load(l + u * lanes), sum[u]));
    Vf::store(gain + u * lanes, Vf::mul(most, Vf::set(1.0f / 255)));
    steps[u] = Vf::div(Vf::set(255.0f), most);
  }
  for (Size j = 0; j < n_keys; j += 4, words += panel) {
    const Size n = n_keys - j < 4 ? n_keys - j : 4;
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      I bytes[4];
#pragma GCC unroll 4
      for (Size b = 0; b < 4; ++b) {
        bytes[b] = Vi::zero();
        if (b < n) bytes[b] = Vi::from_float(Vf::mul(Vf::load(s + (j + b) * panel + u * lanes), steps[u]));
      }
      _mm512_storeu_si512(words + u * lanes, join_bytes(bytes[0], bytes[1], bytes[2], bytes[3]));
    }
  }
}

// The weights 2^(c * (s[j][i] - base[i])) of keys of one block, each times the scale of its values, as bytes in units
// of gain[i]: 255 is the largest of a query. Four keys make a word, row j / 4 of `words`, which may begin where `s`
// does; s is written. l[i] += the weights before they are rounded.
inline void panel_weigh(Size n_keys, Size panel, Size first, Size count, float c, const float* base,
                        const float* value_scale, float* s, float* words, float* l, float* gain) {
  const Size at = first * lanes;
  if (count == 1) {
    weigh_block<1>(n_keys, panel, c, base + at, value_scale, s + at, words + at, l + at, gain + at);
  } else if (count == 2) {
    weigh_block<2>(n_keys, panel, c, base + at, value_scale, s + at, words + at, l + at, gain + at);
  } else {
    weigh_block<3>(n_keys, panel, c, base + at, value_scale, s + at, words + at, l + at, gain + at);
  }
}

// R columns of out: see panel_values.
template <int U, int R>
HEED_INLINE inline void value_columns(const std::int32_t* v, Size n_quads, const float* w, Size panel,
                                      const float* gain, const float* correction, float* out) {
  I sum[R][U];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = Vi::zero();
  }
  for (Size t = 0; t < n_quads; ++t, w += panel, v += Int8ValueWords::columns) {
    I weight[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) weight[u] = Vi::load(w + u * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const I value = Vi::set(v[r]);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = dot(sum[r][u], weight[u], value);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r, out += panel) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      float* to = out + u * lanes;
      const F term = Vf::mul(Vi::to_float(sum[r][u]), Vf::load(gain + u * lanes));
      Vf::store(to, correction == nullptr ? term : Vf::fma(Vf::load(correction + u * lanes), Vf::load(to), term));
    }
  }
}

template <int U>
HEED_INLINE inline void value_strip(const std::int32_t* v, Size block_stride, Size n_quads, const float* w, Size d_v,
                                    Size panel, const float* gain, const float* correction, float* out) {
  constexpr int R = Int8ValueWords::columns;
  Size c = 0;
  for (; c + R <= d_v; c += R, v += block_stride)
    value_columns<U, R>(v, n_quads, w, panel, gain, correction, out + c * panel);
  for (; c < d_v; ++c, ++v) value_columns<U, 1>(v, n_quads, w, panel, gain, correction, out + c * panel);
}

// out[c][i] = correction[i] * out[c][i] + sum_j w_ji v_jc over quads of keys of one block: weights as panel_weigh
// leaves them, values as pack_values lays them. Without a correction out is only written.
inline void panel_values(const std::int32_t* v, Size block_stride, Size n_quads, const float* w, Size d_v, Size panel,
                         Size first, Size count, const float* gain, const float* correction, float* out) {
  const Size shift = first * lanes;
  if (correction != nullptr) correction += shift;
  if (count == 1) {
    value_strip<1>(v, block_stride, n_quads, w + shift, d_v, panel, gain + shift, correction, out + shift);
  } else if (count == 2) {
    value_strip<2>(v, block_stride, n_quads, w + shift, d_v, panel, gain + shift, correction, out + shift);
  } else {
    value_strip<3>(v, block_stride, n_quads, w + shift, d_v, panel, gain + shift, correction, out + shift);
  }
}
