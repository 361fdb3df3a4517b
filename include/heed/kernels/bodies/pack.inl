// Kernels that move operands between the caller's layout and a tile; included inside each instance's target region.

template <class S>
HEED_INLINE inline double scalar_of(const S* p) {
  if constexpr (sizeof(S) >= 4) {
    return static_cast<double>(*p);
  } else {
    typename Vf::Scalar lane[Vf::lanes];
    S copies[Vf::lanes] = {*p};
    Vf::store(lane, Vf::load_as(copies));
    return static_cast<double>(lane[0]);
  }
}

// Asks for all lines of a row at once: rows of packed heads lie on different pages, where the hardware does not look
// ahead.
template <class S>
HEED_INLINE inline void fetch_row(const S* row, Size n_columns) {
  for (Size c = 0; c < n_columns; c += 64 / static_cast<Size>(sizeof(S))) __builtin_prefetch(row + c);
}
constexpr Size rows_ahead = 12;

// First `n` of `lanes` entries converted, the rest 0.
template <class X, class S>
HEED_INLINE inline typename X::V load_first(const S* p, Size n) {
  if (n >= X::lanes) return X::load_as(p);
  if constexpr (requires { X::load_first(p, n); }) return X::load_first(p, n);
  S padded[X::lanes] = {};
  for (Size i = 0; i < n; ++i) padded[i] = p[i];
  return X::load_as(padded);
}

template <class X>
HEED_INLINE inline void store_first(typename X::Scalar* p, typename X::V x, Size n) {
  if (n >= X::lanes) {
    X::store(p, x);
  } else if constexpr (requires { X::store_first(p, x, n); }) {
    X::store_first(p, x, n);
  } else {
    typename X::Scalar lane[X::lanes];
    X::store(lane, x);
    for (Size i = 0; i < n; ++i) p[i] = lane[i];
  }
}

// One block: to[c * to_stride + i] = factor * rows[i][c] for up to lanes columns, and 0 for i from n_rows up to lanes.
template <class X, class S>
HEED_INLINE inline void transpose_block(const S* const* rows, Size n_rows, Size column, Size n_columns,
                                        typename X::Scalar* to, Size to_stride, typename X::V factor) {
  typename X::V block[X::lanes];
#pragma GCC unroll 16
  for (Size i = 0; i < X::lanes; ++i)
    block[i] = i < n_rows ? X::mul(load_first<X, S>(rows[i] + column, n_columns), factor) : X::zero();
  X::transpose(block);
#pragma GCC unroll 16
  for (Size c = 0; c < X::lanes; ++c, to += to_stride) {
    if (c < n_columns) X::store(to, block[c]);
  }
}

// to[c * to_stride + i] = factor * from(row i, column c). Rows beyond `n_rows` up to whole vectors are written as 0
// when `pad` (to has room for them) and left alone otherwise. `row_list`, `column_list` name rows and columns; null: 0,
// 1, 2, ...
template <class X, class S>
void transpose(const S* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
               const Size* column_list, Size n_columns, typename X::Scalar* to, Size to_stride,
               typename X::Scalar factor, bool pad) {
  using T = typename X::Scalar;
  constexpr Size W = X::lanes;
  const typename X::V scale = X::set(factor);
  if (row_stride == 1 && row_list == nullptr) {  // already transposed
    for (Size c = 0; c < n_columns; ++c, to += to_stride) {
      const S* column = from + (column_list == nullptr ? c : column_list[c]) * column_stride;
      Size i = 0;
      for (; i + W <= n_rows; i += W) X::store(to + i, X::mul(X::load_as(column + i), scale));
      if (i < n_rows)
        store_first<X>(to + i, X::mul(load_first<X, S>(column + i, n_rows - i), scale), pad ? W : n_rows - i);
    }
    return;
  }
  for (Size i0 = 0; i0 < n_rows; i0 += W, to += W) {
    const Size rows = n_rows - i0 < W ? n_rows - i0 : W;
    const Size written = pad ? W : rows;
    const S* start[W];
    for (Size i = 0; i < W; ++i) {
      const Size row = i0 + (i < rows ? i : 0);
      start[i] = from + (row_list == nullptr ? row : row_list[row]) * row_stride;
    }
    Size c = 0;
    for (Size i = 0; i < rows && column_stride == 1; ++i) fetch_row(start[i], n_columns);
    if (column_stride == 1 && column_list == nullptr) {
      if (rows == W) {
        for (; c + W <= n_columns; c += W) transpose_block<X, S>(start, W, c, W, to + c * to_stride, to_stride, scale);
      }
      for (; (rows == W || pad) && c < n_columns; c += W)
        transpose_block<X, S>(start, rows, c, n_columns - c, to + c * to_stride, to_stride, scale);
    }
    for (; c < n_columns; ++c) {
      const Size column = column_list == nullptr ? c : column_list[c];
      T* at = to + c * to_stride;
      for (Size i = 0; i < rows; ++i) at[i] = static_cast<T>(scalar_of(start[i] + column * column_stride)) * factor;
      for (Size i = rows; i < written; ++i) at[i] = 0;
    }
  }
}

// to[j * to_stride + c] = from(row j, column c), converted: rows that are runs of memory.
template <class X, class S>
void widen(const S* from, Size row_stride, const Size* row_list, Size n_rows, Size n_columns, typename X::Scalar* to,
           Size to_stride) {
  for (Size j = 0; j < n_rows; ++j) {
    const S* row = from + (row_list == nullptr ? j : row_list[j]) * row_stride;
    if (j + rows_ahead < n_rows)
      fetch_row(from + (row_list == nullptr ? j + rows_ahead : row_list[j + rows_ahead]) * row_stride, n_columns);
    typename X::Scalar* at = to + j * to_stride;
    Size c = 0;
    for (; c + X::lanes <= n_columns; c += X::lanes) X::store(at + c, X::load_as(row + c));
    if (c < n_columns) store_first<X>(at + c, load_first<X, S>(row + c, n_columns - c), n_columns - c);
  }
}

// The same for rows of any stride: rows of keys or values as a row-major tile.
template <class X, class S>
void gather(const S* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows, Size n_columns,
            typename X::Scalar* to, Size to_stride) {
  if (column_stride == 1) {
    widen<X, S>(from, row_stride, row_list, n_rows, n_columns, to, to_stride);
  } else {  // a transpose whose rows are the features
    transpose<X, S>(from, column_stride, row_stride, nullptr, n_columns, row_list, n_rows, to, to_stride, 1, false);
  }
}

// to[(c / R) * block_stride + j * R + c % R] = from(row j, column c): rows of values as columns of R, so that a pass
// over R columns reads one run of memory. Columns of `from` are contiguous; `row` has room for a converted row.
template <class X, class S>
void pack_values(const S* from, Size row_stride, const Size* row_list, Size n_rows, Size n_columns,
                 typename X::Scalar* row, typename X::Scalar* to, Size block_stride) {
  using T = typename X::Scalar;
  constexpr Size R = X::rows;
  for (Size j = 0; j < n_rows; ++j) {
    const S* source = from + (row_list == nullptr ? j : row_list[j]) * row_stride;
    if (j + rows_ahead < n_rows)
      fetch_row(from + (row_list == nullptr ? j + rows_ahead : row_list[j + rows_ahead]) * row_stride, n_columns);
    const T* ready = row;
    if constexpr (sizeof(S) == sizeof(T)) {
      ready = reinterpret_cast<const T*>(source);
    } else {
      gather<X, S>(source, 0, 1, nullptr, 1, n_columns, row, n_columns);
    }
    T* at = to + j * R;
    Size c = 0;
    for (; c + R <= n_columns; c += R, at += block_stride) __builtin_memcpy(at, ready + c, R * sizeof(T));
    for (Size r = 0; c < n_columns; ++c, ++r) at[r] = ready[c];
  }
}

// True when every entry of the row-major tile is finite.
template <class X>
bool all_finite(const typename X::Scalar* tile, Size stride, Size n_rows, Size n_columns) {
  bool finite = true;
  for (Size j = 0; j < n_rows; ++j) {
    Size c = 0;
    for (; c + X::lanes <= n_columns; c += X::lanes) finite &= X::all_finite(X::load(tile + j * stride + c));
    if (c < n_columns) finite &= X::all_finite(load_first<X, typename X::Scalar>(tile + j * stride + c, n_columns - c));
  }
  return finite;
}
