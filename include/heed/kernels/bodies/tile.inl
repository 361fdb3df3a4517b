// Kernels on one panel of queries against a strip of keys; included inside each instance's target region.
// A panel lies transposed, vector lanes along queries: entry (row, i) of a panel is at [row * panel + i], where a row
// is a feature (queries, outputs) or a key (scores). `first` and `count` name the vectors of the panel a call works on.

// 2^x for x <= 0; 0 where that is below the normal numbers (so for -inf), NaN for NaN. Relative error at most 2e-7
// (float), 3e-16 (double); 2^0 = 1 exactly.
HEED_INLINE inline Vf::V exp2(Vf::V x) {
  x = Vf::clamp_exponent(x);
  const Vf::V f = Vf::fraction(x);
  Vf::V p = Vf::set(1.8671300868354085e-3f);
  p = Vf::fma(p, f, Vf::set(9.017030275305885e-3f));
  p = Vf::fma(p, f, Vf::set(5.579991315011831e-2f));
  p = Vf::fma(p, f, Vf::set(2.4016445013636623e-1f));
  p = Vf::fma(p, f, Vf::set(6.931513118071188e-1f));
  p = Vf::fma(p, f, Vf::set(1.0f));
  return Vf::pow2(p, x);
}

// (2^f - 1) / f on [0, 1), degree 10.
HEED_INLINE inline Vd::V exp2_slope(Vd::V f) {
  Vd::V p = Vd::set(6.1230929168263867e-10);
  p = Vd::fma(p, f, Vd::set(6.6344458662514139e-09));
  p = Vd::fma(p, f, Vd::set(1.0236023803275179e-07));
  p = Vd::fma(p, f, Vd::set(1.3210583477765189e-06));
  p = Vd::fma(p, f, Vd::set(1.5252998899728418e-05));
  p = Vd::fma(p, f, Vd::set(1.5403521219107733e-04));
  p = Vd::fma(p, f, Vd::set(1.333355834393728e-03));
  p = Vd::fma(p, f, Vd::set(9.6181291051517567e-03));
  p = Vd::fma(p, f, Vd::set(5.5504108664980671e-02));
  p = Vd::fma(p, f, Vd::set(2.4022650695909673e-01));
  return Vd::fma(p, f, Vd::set(6.9314718055994529e-01));
}

HEED_INLINE inline Vd::V exp2(Vd::V x) {
  x = Vd::clamp_exponent(x);
  const Vd::V f = Vd::fraction(x);
  return Vd::pow2(Vd::fma(exp2_slope(f), f, Vd::set(1.0)), x);
}

// Scores of R keys: s[r][i] = k_r . q_i; top[i] = max(top[i], s[.][i]). The maximum waits in memory: the accumulators
// need the registers. Asks for the keys behind these, which come next, where they lie in one run of memory.
template <class X, int U, int R>
HEED_INLINE inline void score_rows(const typename X::Scalar* k, Size k_stride, const typename X::Scalar* q, Size d,
                                   Size panel, typename X::Scalar* s, typename X::Scalar* top) {
  typename X::V sum[R][U];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = X::zero();
  }
  const typename X::Scalar* next = k + R * k_stride;
  const Size step = k_stride == d ? R : 0;
  for (Size c = 0; c < d; ++c, q += panel, next += step) {
    __builtin_prefetch(next);
    typename X::V row[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) row[u] = X::load(q + u * X::lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename X::V key = X::set(k[r * k_stride + c]);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = X::fma(key, row[u], sum[r][u]);
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    typename X::V best = X::load(top + u * X::lanes);
    typename X::Scalar* to = s + u * X::lanes;
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r, to += panel) {
      X::store(to, sum[r][u]);
      best = X::max(sum[r][u], best);
    }
    X::store(top + u * X::lanes, best);
  }
}

// How far a kernel has come in asking for the rows ahead.
struct FetchPlace {
  int matrix = 0;
  Size row = 0;
};

// Asks the second level cache for the next `n_rows` of the rows ahead; rows to be written are wanted as owner. As many
// at every call, so that its branches are foreseen.
[[gnu::noinline]] inline void fetch_rows(const Ahead& ahead, Size n_rows, FetchPlace& place) {
  for (; n_rows > 0 && place.matrix < ahead.n; --n_rows) {
    const RowsAhead& rows = ahead.rows[place.matrix];
    const char* row = rows.data + (rows.list == nullptr ? place.row : rows.list[place.row]) * rows.stride;
    const Size first = -(reinterpret_cast<Size>(row) & 63);
    if (rows.written) {
      for (Size at = first; at < rows.width; at += 64) __builtin_prefetch(row + at, 1);
    } else {
      for (Size at = first; at < rows.width; at += 64) __builtin_prefetch(row + at, 0, 2);
    }
    if (++place.row < rows.n) continue;
    place.row = 0;
    ++place.matrix;
  }
}

template <class X, int U>
HEED_INLINE inline void score_strip(const typename X::Scalar* k, Size k_stride, Size n_keys,
                                    const typename X::Scalar* q, Size d, Size panel, typename X::Scalar* s,
                                    typename X::Scalar* top, const Ahead* ahead) {
  constexpr int R = X::rows;
  FetchPlace fetched;
  Size n_ahead = 0;
  for (int x = 0; ahead != nullptr && x < ahead->n; ++x) n_ahead += ahead->rows[x].n;
  const Size at_once = (n_ahead * R + n_keys - 1) / n_keys;  // for R keys
  if (n_keys < R) {
    if (n_ahead > 0) fetch_rows(*ahead, n_ahead, fetched);
    for (Size j = 0; j < n_keys; ++j) score_rows<X, U, 1>(k + j * k_stride, k_stride, q, d, panel, s + j * panel, top);
    return;
  }
  for (Size j = 0; j < n_keys; j += R) {
    const Size from = j + R <= n_keys ? j : n_keys - R;  // the last tile overlaps: the same scores, written again
    if (n_ahead > 0) fetch_rows(*ahead, at_once, fetched);
    score_rows<X, U, R>(k + from * k_stride, k_stride, q, d, panel, s + from * panel, top);
  }
}

// s[j][i] = k_j . q_i for the keys of a strip; top[i] = max(top[i], s[.][i]). Fetches what is `ahead` (null: nothing).
template <class X>
void scores(const typename X::Scalar* k, Size k_stride, Size n_keys, const typename X::Scalar* q, Size d, Size panel,
            Size first, Size count, typename X::Scalar* s, typename X::Scalar* top, const Ahead* ahead) {
  const Size shift = first * X::lanes;
  if (count == 1) {
    score_strip<X, 1>(k, k_stride, n_keys, q + shift, d, panel, s + shift, top + shift, ahead);
  } else if (count == 2) {
    score_strip<X, 2>(k, k_stride, n_keys, q + shift, d, panel, s + shift, top + shift, ahead);
  } else if constexpr (X::vectors >= 3) {
    score_strip<X, 3>(k, k_stride, n_keys, q + shift, d, panel, s + shift, top + shift, ahead);
  }
}

// Moves the running softmax of a panel to a new maximum, c > 0 being the factor from scores to base-2 exponents:
// m = max(m, top); base = m, or 0 where no key was kept yet; correction = 2^(c * (old m - base)); l *= correction.
// Differences are taken before the factor: scores of any size cancel exactly where they are equal.
template <class X>
void advance(Size panel, typename X::Scalar c, const typename X::Scalar* top, typename X::Scalar* m,
             typename X::Scalar* l, typename X::Scalar* base, typename X::Scalar* correction) {
  for (Size i = 0; i < panel; i += X::lanes) {
    const typename X::V before = X::load(m + i);
    const typename X::V now = X::max(X::load(top + i), before);
    const typename X::V from = X::select(X::is_minus_infinity(now), X::zero(), now);
    const typename X::V factor = exp2(X::mul(X::sub(before, from), X::set(c)));
    X::store(m + i, now);
    X::store(base + i, from);
    X::store(correction + i, factor);
    X::store(l + i, X::mul(X::load(l + i), factor));
  }
}

// s[j][i] = 2^(c * (s[j][i] - base[i])); l[i] += their sum, keys in order.
template <class X, int U>
HEED_INLINE inline void weigh_strip(Size n_keys, Size panel, typename X::Scalar c, const typename X::Scalar* base,
                                    typename X::Scalar* s, typename X::Scalar* l) {
  typename X::V sum[U], from[U];
  const typename X::V factor = X::set(c);
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) {
    sum[u] = X::zero();
    from[u] = X::load(base + u * X::lanes);
  }
  for (Size j = 0; j < n_keys; ++j) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      typename X::Scalar* at = s + j * panel + u * X::lanes;
      const typename X::V weight = exp2(X::mul(X::sub(X::load(at), from[u]), factor));
      X::store(at, weight);
      sum[u] = X::add(sum[u], weight);
    }
  }
#pragma GCC unroll 4
  for (int u = 0; u < U; ++u) X::store(l + u * X::lanes, X::add(X::load(l + u * X::lanes), sum[u]));
}

template <class X>
void weigh(Size n_keys, Size panel, Size first, Size count, typename X::Scalar c, const typename X::Scalar* base,
           typename X::Scalar* s, typename X::Scalar* l) {
  const Size shift = first * X::lanes;
  if (count == 1) {
    weigh_strip<X, 1>(n_keys, panel, c, base + shift, s + shift, l + shift);
  } else if (count == 2) {
    weigh_strip<X, 2>(n_keys, panel, c, base + shift, s + shift, l + shift);
  } else if constexpr (X::vectors >= 3) {
    weigh_strip<X, 3>(n_keys, panel, c, base + shift, s + shift, l + shift);
  }
}

// out[c][i] = correction[i] * out[c][i] + sum[c][i] for R columns; without a correction there is nothing yet to add to.
template <class X, int U, int R>
HEED_INLINE inline void join_columns(const typename X::V (&sum)[R][U], Size panel, const typename X::Scalar* correction,
                                     typename X::Scalar* out) {
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r, out += panel) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) {
      typename X::Scalar* to = out + u * X::lanes;
      X::store(to,
               correction == nullptr ? sum[r][u] : X::fma(X::load(correction + u * X::lanes), X::load(to), sum[r][u]));
    }
  }
}

// out[c][i] = correction[i] * out[c][i] + sum_j w[j][i] v[j][c] for R columns of v. The keys are summed before they
// join the rest: rounding grows with the root of a tile and of the number of tiles, not of their product. Asks for the
// columns behind them, which come next, key by key.
template <class X, int U, int R>
HEED_INLINE inline void value_columns(const typename X::Scalar* v, Size v_stride, Size block_stride, Size n_keys,
                                      const typename X::Scalar* w, Size panel, const typename X::Scalar* correction,
                                      typename X::Scalar* out) {
  typename X::V sum[R][U];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = X::zero();
  }
  for (Size j = 0; j < n_keys; ++j, w += panel, v += v_stride) {
    __builtin_prefetch(v + block_stride);
    typename X::V weight[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) weight[u] = X::load(w + u * X::lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename X::V value = X::set(v[r]);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = X::fma(value, weight[u], sum[r][u]);
    }
  }
  join_columns<X, U, R>(sum, panel, correction, out);
}

template <class X, int U>
HEED_INLINE inline void value_strip(const typename X::Scalar* v, Size v_stride, Size block_stride, Size n_keys,
                                    const typename X::Scalar* w, Size d_v, Size panel,
                                    const typename X::Scalar* correction, typename X::Scalar* out) {
  constexpr int R = X::rows;
  Size c = 0;
  for (; c + R <= d_v; c += R, v += block_stride)
    value_columns<X, U, R>(v, v_stride, block_stride, n_keys, w, panel, correction, out + c * panel);
  for (; c < d_v; ++c, ++v)
    value_columns<X, U, 1>(v, v_stride, block_stride, n_keys, w, panel, correction, out + c * panel);
}

// out[c][i] = correction[i] * out[c][i] + sum_j w[j][i] v_jc with v_jc at v[(c / R) * block_stride + j * v_stride + c %
// R], R = rows of a register tile: block_stride = R for rows in place, v_stride = R for packed columns. n_keys may be
// 0. Without a correction out is only written.
template <class X>
void values(const typename X::Scalar* v, Size v_stride, Size block_stride, Size n_keys, const typename X::Scalar* w,
            Size d_v, Size panel, Size first, Size count, const typename X::Scalar* correction,
            typename X::Scalar* out) {
  const Size shift = first * X::lanes;
  if (correction != nullptr) correction += shift;
  if (count == 1) {
    value_strip<X, 1>(v, v_stride, block_stride, n_keys, w + shift, d_v, panel, correction, out + shift);
  } else if (count == 2) {
    value_strip<X, 2>(v, v_stride, block_stride, n_keys, w + shift, d_v, panel, correction, out + shift);
  } else if constexpr (X::vectors >= 3) {
    value_strip<X, 3>(v, v_stride, block_stride, n_keys, w + shift, d_v, panel, correction, out + shift);
  }
}
