// Kernels for few queries against many keys, vector lanes along features; included inside each instance's target
// region. Every key and value row is read once for up to four queries: the work is bound by memory, so rows are asked
// for ahead. How far, in entries: about 12 KiB of rows (on Zen 5 4 KiB and 40 KiB both take 4 to 9% longer). Asking
// beyond the last row does no harm.
template <class S>
HEED_INLINE inline Size entries_ahead(Size stride, Size n_columns) {
  const Size rows = 12288 / (n_columns * static_cast<Size>(sizeof(S)) + 1) + 1;
  return rows * stride;
}

template <class S>
HEED_INLINE inline void fetch_ahead(const S* row, Size ahead, Size n_columns) {
  const char* at = reinterpret_cast<const char*>(row) + ahead * static_cast<Size>(sizeof(S));
  for (Size b = 0; b < n_columns * static_cast<Size>(sizeof(S)); b += 64) __builtin_prefetch(at + b);
}

// sum[r * Q + g] += lanes of k_r times lanes of q_g, of up to a vector of columns from k on.
template <class X, class S, int Q, int K>
HEED_INLINE inline void add_row_products(const S* k, Size k_stride, Size n_columns, const typename X::Scalar* q,
                                         Size q_stride, typename X::V* sum) {
  typename X::V row[Q];
#pragma GCC unroll 4
  for (int g = 0; g < Q; ++g) row[g] = X::load(q + g * q_stride);
#pragma GCC unroll 16
  for (int r = 0; r < K; ++r) {
    const typename X::V key = load_first<X, S>(k + r * k_stride, n_columns);
#pragma GCC unroll 4
    for (int g = 0; g < Q; ++g) sum[r * Q + g] = X::fma(key, row[g], sum[r * Q + g]);
  }
}

// Scores of K keys, summed across lanes at once: every key is summed in the same order, alone or with others.
template <class X, class S, int Q, int K>
HEED_INLINE inline void row_scores_group(const S* k, Size k_stride, Size ahead, const typename X::Scalar* q,
                                         Size q_stride, Size d, typename X::Scalar* s, Size s_stride) {
  constexpr int lanes = static_cast<int>(X::lanes), n_sums = (Q * K + lanes - 1) / lanes * lanes;
  typename X::V sum[n_sums];
#pragma GCC unroll 16
  for (int x = 0; x < n_sums; ++x) sum[x] = X::zero();
  Size c = 0;
  for (; c + lanes <= d; c += lanes) {
    if (c % (64 / static_cast<Size>(sizeof(S))) == 0) {
#pragma GCC unroll 16
      for (int r = 0; r < K; ++r) __builtin_prefetch(k + r * k_stride + c + ahead);
    }
    add_row_products<X, S, Q, K>(k + c, k_stride, lanes, q + c, q_stride, sum);
  }
  if (c < d) add_row_products<X, S, Q, K>(k + c, k_stride, d - c, q + c, q_stride, sum);  // q is padded with zeros
  typename X::Scalar score[n_sums];
#pragma GCC unroll 4
  for (int x = 0; x < n_sums; x += lanes) X::store(score + x, row_sums<X>(sum + x));
#pragma GCC unroll 16
  for (int r = 0; r < K; ++r) {
#pragma GCC unroll 4
    for (int g = 0; g < Q; ++g) s[g * s_stride + r] = score[r * Q + g];
  }
}

template <class X, class S, int Q>
HEED_INLINE inline void row_scores_typed(const S* k, Size k_stride, Size n_keys, const typename X::Scalar* q,
                                         Size q_stride, Size d, typename X::Scalar* s, Size s_stride) {
  constexpr int K = X::lanes > Q ? static_cast<int>(X::lanes) / Q : 1;
  const Size ahead = entries_ahead<S>(k_stride, d);
  if (n_keys < K) {
    for (Size j = 0; j < n_keys; ++j)
      row_scores_group<X, S, Q, 1>(k + j * k_stride, k_stride, ahead, q, q_stride, d, s + j, s_stride);
    return;
  }
  for (Size j = 0; j < n_keys; j += K) {
    const Size from = j + K <= n_keys ? j : n_keys - K;  // the last group overlaps: the same scores, written again
    row_scores_group<X, S, Q, K>(k + from * k_stride, k_stride, ahead, q, q_stride, d, s + from, s_stride);
  }
}

// s[g][j] = q_g . k_j.
template <class X, class S>
void row_scores(const S* k, Size k_stride, Size n_keys, const typename X::Scalar* q, Size q_stride, Size n_q, Size d,
                typename X::Scalar* s, Size s_stride) {
  for (; n_q >= 4; n_q -= 4, q += 4 * q_stride, s += 4 * s_stride) {
    row_scores_typed<X, S, 4>(k, k_stride, n_keys, q, q_stride, d, s, s_stride);
  }
  for (; n_q >= 1; --n_q, q += q_stride, s += s_stride)
    row_scores_typed<X, S, 1>(k, k_stride, n_keys, q, q_stride, d, s, s_stride);
}

// Largest entry of s[0 .. n), at least `floor`; s has room for whole vectors, and the rest is set to -inf.
template <class X>
typename X::Scalar row_top(Size n, typename X::Scalar* s, typename X::Scalar floor) {
  for (Size j = n; j % X::lanes != 0; ++j) s[j] = -static_cast<typename X::Scalar>(__builtin_inff());
  typename X::V best = X::set(floor);
  for (Size j = 0; j < n; j += X::lanes) best = X::max(X::load(s + j), best);
  typename X::Scalar lane[X::lanes], top = floor;
  X::store(lane, best);
  for (Size i = 0; i < X::lanes; ++i) top = top < lane[i] ? lane[i] : top;
  return top;
}

// s[j] = 2^(c * (s[j] - base)); returns their sum.
template <class X>
typename X::Scalar row_weigh(Size n, typename X::Scalar c, typename X::Scalar base, typename X::Scalar* s) {
  const typename X::V factor = X::set(c), from = X::set(base);
  typename X::V total = X::zero();
  for (Size j = 0; j < n; j += X::lanes) {  // row_top left -inf behind the last entry: weight 0
    const typename X::V weight = exp2(X::mul(X::sub(X::load(s + j), from), factor));
    X::store(s + j, weight);
    total = X::add(total, weight);
  }
  return X::sum(total);
}

template <class X, class S, int Q, int C>
HEED_INLINE inline void row_values_block(const S* v, Size v_stride, Size n_keys, const typename X::Scalar* w,
                                         Size w_stride, Size columns, const typename X::Scalar* correction,
                                         typename X::Scalar* out, Size out_stride) {
  typename X::V sum[Q][C];
#pragma GCC unroll 4
  for (int g = 0; g < Q; ++g) {
#pragma GCC unroll 8
    for (int u = 0; u < C; ++u) sum[g][u] = X::zero();
  }
  const Size ahead = entries_ahead<S>(v_stride, columns);
  for (Size j = 0; j < n_keys; ++j) {
    typename X::V weight[Q];
    fetch_ahead(v + j * v_stride, ahead, columns);
#pragma GCC unroll 4
    for (int g = 0; g < Q; ++g) weight[g] = X::set(w[g * w_stride + j]);
#pragma GCC unroll 8
    for (int u = 0; u < C; ++u) {
      const typename X::V value = load_first<X, S>(v + j * v_stride + u * X::lanes, columns - u * X::lanes);
#pragma GCC unroll 4
      for (int g = 0; g < Q; ++g) sum[g][u] = X::fma(weight[g], value, sum[g][u]);
    }
  }
#pragma GCC unroll 4
  for (int g = 0; g < Q; ++g) {
#pragma GCC unroll 8
    for (int u = 0; u < C; ++u) {
      typename X::Scalar* at = out + g * out_stride + u * X::lanes;
      X::store(at, X::fma(X::set(correction[g]), X::load(at), sum[g][u]));
    }
  }
}

template <class X, class S, int Q>
HEED_INLINE inline void row_values_typed(const S* v, Size v_stride, Size n_keys, const typename X::Scalar* w,
                                         Size w_stride, Size d_v, const typename X::Scalar* correction,
                                         typename X::Scalar* out, Size out_stride) {
  // Of one query 8 sums, so that none waits for the last; of four as many as there are registers for.
  constexpr int C = Q == 1 ? 8 : X::vectors * X::rows < 24 ? 2 : 4;
  Size c = 0;
  for (; c + C * X::lanes <= d_v; c += C * X::lanes) {
    row_values_block<X, S, Q, C>(v + c, v_stride, n_keys, w, w_stride, C * X::lanes, correction, out + c, out_stride);
  }
  if constexpr (C > 4) {
    for (; c + 4 * X::lanes <= d_v; c += 4 * X::lanes)
      row_values_block<X, S, Q, 4>(v + c, v_stride, n_keys, w, w_stride, 4 * X::lanes, correction, out + c, out_stride);
  }
  for (; c < d_v; c += X::lanes) {
    row_values_block<X, S, Q, 1>(v + c, v_stride, n_keys, w, w_stride, d_v - c, correction, out + c, out_stride);
  }
}

template <class X, class S, int C>
HEED_INLINE inline void add_rows_block(const S* from, Size row_stride, const Size* list, Size n_rows, Size columns,
                                       const typename X::Scalar* w, typename X::Scalar* to) {
  typename X::V sum[C];
#pragma GCC unroll 4
  for (int u = 0; u < C; ++u) sum[u] = load_first<X, typename X::Scalar>(to + u * X::lanes, columns - u * X::lanes);
  for (Size r = 0; r < n_rows; ++r) {
    const S* row = from + (list == nullptr ? r : list[r]) * row_stride;
    if (r + rows_ahead < n_rows)
      fetch_row(from + (list == nullptr ? r + rows_ahead : list[r + rows_ahead]) * row_stride, columns);
    const typename X::V weight = X::set(w == nullptr ? typename X::Scalar(1) : w[r]);
#pragma GCC unroll 4
    for (int u = 0; u < C; ++u)
      sum[u] = X::fma(weight, load_first<X, S>(row + u * X::lanes, columns - u * X::lanes), sum[u]);
  }
#pragma GCC unroll 4
  for (int u = 0; u < C; ++u) store_first<X>(to + u * X::lanes, sum[u], columns - u * X::lanes);
}

// to[c] += sum_r w[r] * from(row r, c), rows in order; rows are those of `list` (null: 0, 1, 2, ...), weights 1 where w
// is null.
template <class X, class S>
void add_rows(const S* from, Size row_stride, const Size* list, Size n_rows, Size n_columns,
              const typename X::Scalar* w, typename X::Scalar* to) {
  Size c = 0;
  for (; c + 4 * X::lanes <= n_columns; c += 4 * X::lanes)
    add_rows_block<X, S, 4>(from + c, row_stride, list, n_rows, 4 * X::lanes, w, to + c);
  for (; c < n_columns; c += X::lanes)
    add_rows_block<X, S, 1>(from + c, row_stride, list, n_rows, n_columns - c, w, to + c);
}

// out[g][c] = correction[g] * out[g][c] + sum_j w[g][j] v[j][c]; rows of out have room for whole vectors.
template <class X, class S>
void row_values(const S* v, Size v_stride, Size n_keys, const typename X::Scalar* w, Size w_stride, Size n_q, Size d_v,
                const typename X::Scalar* correction, typename X::Scalar* out, Size out_stride) {
  for (; n_q >= 4; n_q -= 4, w += 4 * w_stride, correction += 4, out += 4 * out_stride) {
    row_values_typed<X, S, 4>(v, v_stride, n_keys, w, w_stride, d_v, correction, out, out_stride);
  }
  for (; n_q >= 1; --n_q, w += w_stride, ++correction, out += out_stride) {
    row_values_typed<X, S, 1>(v, v_stride, n_keys, w, w_stride, d_v, correction, out, out_stride);
  }
}
