// Kernels of the backward pass; included inside each instance's target region. Panels lie as those of tile.inl.

// Scores of a strip to weights and to the gradients of scores, both 0 where the score is -inf, whatever else holds NaN:
//   s[j][i] = w = 2^min(most, c * (s[j][i] - base[i]) + shift[i]),  d[j][i] = w * (d[j][i] - mean[i]).
// With most = 0 no weight passes 1, however much of a huge base its rounding took.
template <class X>
void gradients(Size n_keys, Size panel, Size first, Size count, typename X::Scalar c, typename X::Scalar most,
               const typename X::Scalar* base, const typename X::Scalar* shift, const typename X::Scalar* mean,
               typename X::Scalar* s, typename X::Scalar* d) {
  using V = typename X::V;
  const V factor = X::set(c), limit = X::set(most);
  for (Size u = first; u < first + count; ++u) {
    const Size lane = u * X::lanes;
    const V from = X::load(base + lane), more = X::load(shift + lane), less = X::load(mean + lane);
    for (Size j = 0; j < n_keys; ++j) {
      typename X::Scalar *at = s + j * panel + lane, *to = d + j * panel + lane;
      const V score = X::load(at), weight = exp2(X::min(limit, X::fma(X::sub(score, from), factor, more)));
      const auto masked = X::is_minus_infinity(score);
      X::store(at, X::select(masked, X::zero(), weight));
      X::store(to, X::select(masked, X::zero(), X::mul(weight, X::sub(X::load(to), less))));
    }
  }
}

// The softcap's share of the chain: d[j][i] *= 1 - tanh^2(x), x = raw[j][i] * scale / cap, factor = 2 log2(e) scale /
// cap.
template <class X>
void bend(Size n_keys, Size panel, Size first, Size count, typename X::Scalar factor, const typename X::Scalar* raw,
          typename X::Scalar* d) {
  using V = typename X::V;
  const V by = X::set(factor), one = X::set(1);
  for (Size u = first; u < first + count; ++u) {
    for (Size j = 0; j < n_keys; ++j) {
      const Size at = j * panel + u * X::lanes;
      const V t = tanh_of<X>(X::mul(X::load(raw + at), by)), slope = X::sub(one, X::mul(t, t)), given = X::load(d + at);
      X::store(d + at,
               X::select(X::is_zero(given), given, X::mul(given, slope)));  // a masked pair's raw score may be NaN
    }
  }
}

// to[row][c] += factor * rows[t][c] for n_rows rows t: row t of `to`, or row list[t].
template <class X>
void add_rows(const typename X::Scalar* rows, Size stride, Size n_rows, Size n_columns, typename X::Scalar factor,
              typename X::Scalar* to, Size row_stride, Size column_stride, const Size* list) {
  const typename X::V by = X::set(factor);
  for (Size t = 0; t < n_rows; ++t, rows += stride) {
    typename X::Scalar* row = to + (list == nullptr ? t : list[t]) * row_stride;
    Size c = 0;
    for (; column_stride == 1 && c + X::lanes <= n_columns; c += X::lanes)
      X::store(row + c, X::fma(by, X::load(rows + c), X::load(row + c)));
    if (c == n_columns) continue;
    typename X::Scalar sum[X::lanes];  // the rest by whole vectors too: every layout gives the same bits
    for (; c < n_columns; c += X::lanes) {
      const Size n = n_columns - c < X::lanes ? n_columns - c : X::lanes;
      typename X::Scalar added[X::lanes];
      for (Size e = 0; e < X::lanes; ++e) {
        sum[e] = e < n ? row[(c + e) * column_stride] : 0;
        added[e] = e < n ? rows[c + e] : 0;
      }
      X::store(sum, X::fma(by, X::load(added), X::load(sum)));
      for (Size e = 0; e < n; ++e) row[(c + e) * column_stride] = sum[e];
    }
  }
}

template <class X, int U, int R>
HEED_INLINE inline void add_product_tile(const typename X::Scalar* a, Size a_stride, const typename X::Scalar* b,
                                         Size b_stride, Size n, typename X::Scalar* to, Size to_stride) {
  typename X::V sum[R][U];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = X::load(to + r * to_stride + u * X::lanes);
  }
  for (Size c = 0; c < n; ++c, b += b_stride) {
    typename X::V row[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) row[u] = X::load(b + u * X::lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const typename X::V factor = X::set(a[r * a_stride + c]);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = X::fma(factor, row[u], sum[r][u]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) X::store(to + r * to_stride + u * X::lanes, sum[r][u]);
  }
}

template <class X, int U, int R>
HEED_INLINE inline void add_product_strip(const typename X::Scalar* a, Size a_stride, Size n_rows,
                                          const typename X::Scalar* b, Size b_stride, Size n, typename X::Scalar* to,
                                          Size to_stride) {
  Size r = 0;
  for (; r + R <= n_rows; r += R)
    add_product_tile<X, U, R>(a + r * a_stride, a_stride, b, b_stride, n, to + r * to_stride, to_stride);
  for (; r + 2 <= n_rows; r += 2)
    add_product_tile<X, U, 2>(a + r * a_stride, a_stride, b, b_stride, n, to + r * to_stride, to_stride);
  for (; r < n_rows; ++r)
    add_product_tile<X, U, 1>(a + r * a_stride, a_stride, b, b_stride, n, to + r * to_stride, to_stride);
}

// to[r][x] += sum_c a[r][c] b[c][x] for n_rows rows r, n terms c and whole vectors of columns x. Rows of `to` are
// summed in registers: where they overlap in a register tile's tail they are smaller tiles, never summed twice.
template <class X>
void add_products(const typename X::Scalar* a, Size a_stride, Size n_rows, const typename X::Scalar* b, Size b_stride,
                  Size n, Size columns, typename X::Scalar* to, Size to_stride) {
  constexpr bool many = X::vectors * X::rows >= 24;  // registers
  constexpr int U = many ? 4 : 2, R = many ? 6 : 4;
  Size x = 0;
  for (; x + U * X::lanes <= columns; x += U * X::lanes)
    add_product_strip<X, U, R>(a, a_stride, n_rows, b + x, b_stride, n, to + x, to_stride);
  for (; x < columns; x += X::lanes)
    add_product_strip<X, 1, 8>(a, a_stride, n_rows, b + x, b_stride, n, to + x, to_stride);
}
