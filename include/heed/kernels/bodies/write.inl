// The kernel that ends a panel; included inside each instance's target region.

template <class X, class S>
HEED_INLINE inline void store_first_as(S* p, typename X::V x, Size n) {
  if (n >= X::lanes) {
    X::store_as(p, x);
  } else if constexpr (requires { X::store_first(p, x, n); }) {
    X::store_first(p, x, n);
  } else {
    S lane[X::lanes];
    X::store_as(lane, x);
    for (Size i = 0; i < n; ++i) p[i] = lane[i];
  }
}

// One block of contiguous columns: row[i] gets block of out, a lane of `inverse` for each row. Rows behind the last
// repeat it and are written before it.
template <class X, class S>
HEED_INLINE inline void write_block(const typename X::Scalar* out, Size panel, typename X::M empty,
                                    typename X::V inverse, S* const* row, Size column) {
  typename X::V block[X::lanes];
#pragma GCC unroll 16
  for (Size c = 0; c < X::lanes; ++c) block[c] = X::select(empty, X::zero(), X::mul(X::load(out + c * panel), inverse));
  X::transpose(block);
#pragma GCC unroll 16
  for (Size i = X::lanes - 1; i >= 0; --i) X::store_as(row[i] + column, block[i]);
}

// Row i of `to`, or row list[i], gets out[c * panel + i] / l[i] for c < n_columns, and 0 where l[i] = 0, rounded to the
// nearest S.
template <class X, class S>
void write_rows(const typename X::Scalar* out, Size panel, const typename X::Scalar* l, Size n_rows, Size n_columns,
                S* to, Size row_stride, Size column_stride, const Size* list) {
  constexpr Size W = X::lanes;
  for (Size i0 = 0; i0 < n_rows; i0 += W) {
    const Size rows = n_rows - i0 < W ? n_rows - i0 : W;
    const typename X::V sum = X::load(l + i0);
    const typename X::M empty = X::is_zero(sum);
    const typename X::V inverse = X::div(X::set(1), sum);
    S* row[W];
    for (Size i = 0; i < W; ++i) {
      const Size at = i0 + (i < rows ? i : rows - 1);
      row[i] = to + (list == nullptr ? at : list[at]) * row_stride;
      for (Size c = 0; column_stride == 1 && c < n_columns; c += 64 / static_cast<Size>(sizeof(S)))
        __builtin_prefetch(row[i] + c, 1);
    }
    Size c0 = 0;
    for (; column_stride == 1 && c0 + W <= n_columns; c0 += W)
      write_block<X, S>(out + c0 * panel + i0, panel, empty, inverse, row, c0);
    for (; c0 < n_columns; c0 += W) {
      const Size columns = n_columns - c0 < W ? n_columns - c0 : W;
      const typename X::Scalar* from = out + c0 * panel + i0;
      typename X::V block[W];
      for (Size c = 0; c < W; ++c) {
        const Size there = c < columns ? c : 0;
        block[c] = X::select(empty, X::zero(), X::mul(X::load(from + there * panel), inverse));
      }
      if (column_stride != 1 && row_stride == 1 && list == nullptr) {
        for (Size c = 0; c < columns; ++c) store_first_as<X>(row[0] + (c0 + c) * column_stride, block[c], rows);
        continue;
      }
      X::transpose(block);
      for (Size i = 0; i < rows; ++i) {
        if (column_stride == 1) {
          store_first_as<X>(row[i] + c0, block[i], columns);
        } else {
          S lane[W];
          X::store_as(lane, block[i]);
          for (Size c = 0; c < columns; ++c) row[i][(c0 + c) * column_stride] = lane[c];
        }
      }
    }
  }
}

// Outputs are stored as what is summed, or as 16-bit floats summed in float.
template <class X, class S>
constexpr auto writer() {
  using Writer = decltype(StorageKernels<typename X::Scalar, S>::write_rows);
  if constexpr (sizeof(S) == sizeof(typename X::Scalar) || (sizeof(S) == 2 && sizeof(typename X::Scalar) == 4)) {
    return static_cast<Writer>(&write_rows<X, S>);
  } else {
    return static_cast<Writer>(nullptr);
  }
}
