// Kernels that move bfloat16 operands between the caller's layout and pairs, bit for bit. `row_list` names rows; null:
// 0, 1, 2, ...

HEED_INLINE inline const Bfloat* row_at(const Bfloat* from, Size row_stride, const Size* row_list, Size i) {
  return from + (row_list == nullptr ? i : row_list[i]) * row_stride;
}

// Numbers c and c + 1 of a row of n.
HEED_INLINE inline Bf16Pair pair_at(const Bfloat* row, Size column_stride, Size c, Size n) {
  return {row[c * column_stride], c + 1 < n ? row[(c + 1) * column_stride] : Bfloat{0}};
}

// Bf16Pairs t .. t + 15 of up to 16 rows from row i0 on, turned: x[t'][i]. Rows behind the last and numbers behind a
// row's end are 0.
HEED_INLINE inline void turn_block(const Bfloat* from, Size row_stride, const Size* row_list, Size i0, Size rows,
                                   Size t, Size n_columns, Words* x) {
#pragma GCC unroll 16
  for (Size i = 0; i < lanes; ++i) {
    x[i] = i < rows ? load_run(row_at(from, row_stride, row_list, i0 + i) + 2 * t, n_columns - 2 * t)
                    : _mm512_setzero_si512();
  }
  transpose_words(x);
}

// to[t * to_stride + i] = pair t of row i, numbers 2 t and 2 t + 1 of n_columns; rows up to whole vectors are written,
// as 0.
inline void transpose(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                      Size n_columns, Bf16Pair* to, Size to_stride) {
  const Size n_pairs = (n_columns + 1) / 2;
  for (Size i0 = 0; i0 < n_rows; i0 += lanes, to += lanes) {
    const Size rows = n_rows - i0 < lanes ? n_rows - i0 : lanes;
    if (column_stride == 1) {
      for (Size i = 0; i < rows; ++i) avx512::fetch_row(row_at(from, row_stride, row_list, i0 + i), n_columns);
      for (Size t0 = 0; t0 < n_pairs; t0 += lanes) {
        Words x[lanes];
        turn_block(from, row_stride, row_list, i0, rows, t0, n_columns, x);
        for (Size t = t0; t < n_pairs && t < t0 + lanes; ++t) store_words(to + t * to_stride, x[t - t0]);
      }
    } else if (row_stride == 1 && row_list == nullptr) {
      for (Size t = 0; t < n_pairs; ++t) {
        const Bfloat* column = from + i0 + 2 * t * column_stride;
        store_words(to + t * to_stride,
                    load_two(column, 2 * t + 1 < n_columns ? column + column_stride : nullptr, rows));
      }
    } else {
      for (Size t = 0; t < n_pairs; ++t) {
        for (Size i = 0; i < lanes; ++i) {
          to[t * to_stride + i] =
              i < rows ? pair_at(row_at(from, row_stride, row_list, i0 + i), column_stride, 2 * t, n_columns)
                       : Bf16Pair{};
        }
      }
    }
  }
}

// to[j * to_stride + t] = pair t of row j: rows of keys as a row-major tile.
inline void gather(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                   Size n_columns, Bf16Pair* to, Size to_stride) {
  const Size n_pairs = (n_columns + 1) / 2;
  if (row_stride == 1 && row_list == nullptr && column_stride != 1) {
    for (Size j0 = 0; j0 < n_rows; j0 += lanes) {
      const Size rows = n_rows - j0 < lanes ? n_rows - j0 : lanes;
      for (Size t0 = 0; t0 < n_pairs; t0 += lanes) {
        Words x[lanes];
        for (Size t = t0; t < t0 + lanes; ++t) {
          const Bfloat* column = from + j0 + 2 * t * column_stride;
          x[t - t0] = t < n_pairs ? load_two(column, 2 * t + 1 < n_columns ? column + column_stride : nullptr, rows)
                                  : _mm512_setzero_si512();
        }
        transpose_words(x);
        for (Size j = 0; j < rows; ++j) store_words(to + (j0 + j) * to_stride + t0, x[j], n_pairs - t0);
      }
    }
    return;
  }
  for (Size j = 0; j < n_rows; ++j, to += to_stride) {
    const Bfloat* row = row_at(from, row_stride, row_list, j);
    if (column_stride == 1) {
      if (j + avx512::rows_ahead < n_rows)
        avx512::fetch_row(row_at(from, row_stride, row_list, j + avx512::rows_ahead), n_columns);
      for (Size t = 0; t < n_pairs; t += lanes)
        store_words(to + t, load_run(row + 2 * t, n_columns - 2 * t), n_pairs - t);
    } else {
      for (Size t = 0; t < n_pairs; ++t) to[t] = pair_at(row, column_stride, 2 * t, n_columns);
    }
  }
}

// The lower half of x to one block of columns, the upper half to the next where there is one.
HEED_INLINE inline void store_blocks(Bf16Pair* to, Size block_stride, Words x, bool two) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(x));
  if (two) _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + block_stride), _mm512_extracti64x4_epi64(x, 1));
}

// to[(c / R) * block_stride + t * R + c % R] = (from(row 2 t, c), from(row 2 t + 1, c)), R = rows of a register tile:
// rows of values as columns of R, so that a pass over R columns reads one run of memory. The last block is filled up
// with 0.
inline void pack_values(const Bfloat* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
                        Size n_columns, Bf16Pair* to, Size block_stride) {
  constexpr Size R = Vf::rows;
  static_assert(2 * R == lanes);
  const Size n_pairs = (n_rows + 1) / 2;
  if (row_stride == 1 && row_list == nullptr && column_stride != 1) {  // a column is a run of pairs
    for (Size c0 = 0; c0 < n_columns; c0 += lanes, to += 2 * block_stride) {
      const Size columns = n_columns - c0 < lanes ? n_columns - c0 : lanes;
      for (Size t0 = 0; t0 < n_pairs; t0 += lanes) {
        Words x[lanes];
        turn_block(from + c0 * column_stride, column_stride, nullptr, 0, columns, t0, n_rows, x);
        for (Size t = t0; t < n_pairs && t < t0 + lanes; ++t)
          store_blocks(to + t * R, block_stride, x[t - t0], columns > R);
      }
    }
    return;
  }
  for (Size t = 0; t < n_pairs; ++t, to += R) {
    const Bfloat* first = row_at(from, row_stride, row_list, 2 * t);
    const Bfloat* second = 2 * t + 1 < n_rows ? row_at(from, row_stride, row_list, 2 * t + 1) : nullptr;
    if (column_stride == 1) {
      for (Size j = 2 * t + avx512::rows_ahead; j < n_rows && j < 2 * t + avx512::rows_ahead + 2; ++j) {
        avx512::fetch_row(row_at(from, row_stride, row_list, j), n_columns);
      }
    }
    for (Size c0 = 0; c0 < n_columns; c0 += lanes) {
      const Size columns = n_columns - c0 < lanes ? n_columns - c0 : lanes;
      Bf16Pair* at = to + c0 / R * block_stride;
      if (column_stride == 1) {
        store_blocks(at, block_stride, load_two(first + c0, second == nullptr ? nullptr : second + c0, columns),
                     columns > R);
      } else {
        for (Size c = 0; c < (columns > R ? lanes : R); ++c) {
          const Size from_at = (c0 + c) * column_stride;
          at[c / R * block_stride + c % R] =
              c < columns ? Bf16Pair{first[from_at], second == nullptr ? Bfloat{0} : second[from_at]} : Bf16Pair{};
        }
      }
    }
  }
}

// Which numbers of 16 pairs are NaN or infinite, as masks of their bits.
HEED_INLINE inline Words not_finite(Words x) {
  const Words low = _mm512_set1_epi32(0x7f80), high = _mm512_set1_epi32(0x7f800000);
  const __mmask16 first = _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, low), low);
  const __mmask16 second = _mm512_cmpeq_epi32_mask(_mm512_and_si512(x, high), high);
  return _mm512_or_si512(_mm512_maskz_set1_epi32(first, 0xffff),
                         _mm512_maskz_set1_epi32(second, static_cast<int>(0xffff0000u)));
}

// True when none of n pairs holds NaN or Inf.
inline bool all_finite(const Bf16Pair* from, Size n) {
  bool finite = true;
  for (Size t = 0; t < n; t += lanes) {
    const Words bad = not_finite(_mm512_maskz_loadu_epi32(first_lanes(n - t), from + t));
    finite &= _mm512_test_epi32_mask(bad, bad) == 0;
  }
  return finite;
}

// A copy of n pairs with 0 for NaN and Inf.
inline void clean(const Bf16Pair* from, Size n, Bf16Pair* to) {
  for (Size t = 0; t < n; t += lanes) {
    const Words x = _mm512_maskz_loadu_epi32(first_lanes(n - t), from + t);
    store_words(to + t, _mm512_andnot_si512(not_finite(x), x), n - t);
  }
}
