// Kernels of the backward pass with bfloat16 operands; panels lie as those of bodies/tile.inl.

// to[t * to_stride + c] = (from(row 2 t, c), from(row 2 t + 1, c)): neighbouring rows in one lane. Whole vectors of
// columns are written, as 0 behind the last column and the last row.
inline void interleave(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                       Size n_columns, Bf16Pair* to, Size to_stride) {
  for (Size i = 0; i < n_rows; i += 2, to += to_stride) {
    const Bfloat* first = row_at(from, row_stride, row_list, i);
    const Bfloat* second = i + 1 < n_rows ? row_at(from, row_stride, row_list, i + 1) : nullptr;
    for (Size c0 = 0; c0 < n_columns; c0 += lanes) {
      const Size columns = n_columns - c0 < lanes ? n_columns - c0 : lanes;
      if (column_stride == 1) {
        store_words(to + c0, load_two(first + c0, second == nullptr ? nullptr : second + c0, columns));
        continue;
      }
      for (Size c = 0; c < lanes; ++c) {
        const Size at = (c0 + c) * column_stride;
        to[c0 + c] = c < columns ? Bf16Pair{first[at], second == nullptr ? Bfloat{0} : second[at]} : Bf16Pair{};
      }
    }
  }
}

// Rows j and j + 1 of a strip, rounded, as pairs in row j / 2 of `to`; an odd last row is paired with 0.
inline void pair_keys(Size n_keys, Size panel, Size first, Size count, const float* s, float* to) {
  for (Size j = 0; j < n_keys; j += 2) {
    for (Size u = first; u < first + count; ++u) {
      const float* at = s + j * panel + u * lanes;
      store_words(to + j / 2 * panel + u * lanes,
                  narrow(Vf::load(at), j + 1 < n_keys ? Vf::load(at + panel) : Vf::zero()));
    }
  }
}

// to[j * to_stride + t] = (s[j][i], s[j][i + 1]), rounded, i = first * lanes + 2 t: neighbouring queries of a strip.
inline void pair_queries(Size n_keys, Size panel, Size first, Size count, const float* s, Bf16Pair* to,
                         Size to_stride) {
  for (Size j = 0; j < n_keys; ++j) {
    const float* at = s + j * panel + first * lanes;
    Bf16Pair* row = to + j * to_stride;
    Size u = 0;
    for (; u + 2 <= count; u += 2, at += 2 * lanes, row += lanes)
      store_words(row, reinterpret_cast<Words>(narrow_runs(Vf::load(at), Vf::load(at + lanes))));
    if (u < count) store_words(row, reinterpret_cast<Words>(narrow_runs(Vf::load(at), Vf::zero())), lanes / 2);
  }
}

template <int U, int R>
HEED_INLINE inline void add_product_tile(const Bf16Pair* a, Size a_stride, const Bf16Pair* b, Size b_stride,
                                         Size n_pairs, float* to, Size to_stride) {
  V sum[R][U];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) sum[r][u] = Vf::load(to + r * to_stride + u * lanes);
  }
  for (Size t = 0; t < n_pairs; ++t, b += b_stride) {
    Words row[U];
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) row[u] = load(b + u * lanes);
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
      const Words factor = set(a + r * a_stride + t);
#pragma GCC unroll 4
      for (int u = 0; u < U; ++u) sum[r][u] = dot(factor, row[u], sum[r][u]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) {
#pragma GCC unroll 4
    for (int u = 0; u < U; ++u) Vf::store(to + r * to_stride + u * lanes, sum[r][u]);
  }
}

template <int U, int R>
HEED_INLINE inline void add_product_strip(const Bf16Pair* a, Size a_stride, Size n_rows, const Bf16Pair* b,
                                          Size b_stride, Size n_pairs, float* to, Size to_stride) {
  Size r = 0;
  for (; r + R <= n_rows; r += R)
    add_product_tile<U, R>(a + r * a_stride, a_stride, b, b_stride, n_pairs, to + r * to_stride, to_stride);
  for (; r < n_rows; ++r)
    add_product_tile<U, 1>(a + r * a_stride, a_stride, b, b_stride, n_pairs, to + r * to_stride, to_stride);
}

// to[r][x] += sum_t a[r][t] . b[t][x] for n_rows rows r, n_pairs pairs t and whole vectors of columns x.
inline void add_products(const Bf16Pair* a, Size a_stride, Size n_rows, const Bf16Pair* b, Size b_stride, Size n_pairs,
                         Size columns, float* to, Size to_stride) {
  Size x = 0;
  for (; x + 4 * lanes <= columns; x += 4 * lanes)
    add_product_strip<4, 6>(a, a_stride, n_rows, b + x, b_stride, n_pairs, to + x, to_stride);
  for (; x < columns; x += lanes)
    add_product_strip<1, 8>(a, a_stride, n_rows, b + x, b_stride, n_pairs, to + x, to_stride);
}
