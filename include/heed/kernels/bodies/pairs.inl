// Kernels that read what a mask says of the pairs of a tile; included inside each instance's target region.

// True when every additive term of the queries is -inf; lanes behind the last query hold anything.
template <class X>
bool all_masked(Size n_keys, Size panel, Size n_queries, const typename X::Scalar* added) {
  unsigned kept = 0;
  for (Size i = 0; i < n_queries && kept == 0; i += X::lanes) {
    const Size n = n_queries - i < X::lanes ? n_queries - i : X::lanes;
    for (Size j = 0; j < n_keys; ++j)
      kept |= ~X::bits(X::is_minus_infinity(X::load(added + j * panel + i))) & ((1u << n) - 1u);
  }
  return kept == 0;
}

// Bit c of a word: from[column c] is true, for n <= 32 columns.
HEED_INLINE inline std::uint32_t true_columns(const Bool* from, Size column_stride, const Size* column_list, Size n) {
  if (n == 32 && column_stride == 1 && column_list == nullptr) return nonzero_bytes(from);
  std::uint32_t word = 0;
  for (Size c = 0; c < n; ++c)
    word |= from[(column_list == nullptr ? c : column_list[c]) * column_stride].byte != 0 ? 1u << c : 0u;
  return word;
}

// What a boolean mask says of n_rows queries and n_columns keys. `from` is true where a pair may attend, a query a row
// and a key a column, named by lists or, where those are null, 0, 1, 2, ... Returns its census: bit 0 set when some
// pair may not attend, bit 1 when some may; where both are, bit l of to[j * vectors + u] tells whether query u * lanes
// + l may attend to key j, 0 behind the last query.
template <class X>
int lane_masks(const Bool* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
               const Size* column_list, Size n_columns, std::uint16_t* to) {
  constexpr Size W = X::lanes, word_bits = 32;
  const Size vectors = (n_rows + W - 1) / W;
  const bool along_rows = row_stride == 1 && column_stride != 1 && row_list == nullptr;
  const auto row_of = [&](Size i) { return from + (row_list == nullptr ? i : row_list[i]) * row_stride; };
  const auto word_of = [&](Size i, Size c, Size n) {
    if (column_list != nullptr) return true_columns(row_of(i), column_stride, column_list + c, n);
    return true_columns(row_of(i) + c * column_stride, column_stride, nullptr, n);
  };
  const auto word_size = [&](Size c) { return n_columns - c < word_bits ? n_columns - c : word_bits; };
  const auto census = [](std::uint32_t kept, std::uint32_t masked) {
    return (masked != 0 ? 1 : 0) | (kept != 0 ? 2 : 0);
  };
  std::uint32_t kept = 0, masked = 0;
  for (Size i = 0; i < n_rows && !along_rows; ++i) {
    if (i + rows_ahead < n_rows && column_stride == 1) fetch_row(row_of(i + rows_ahead), n_columns);
    for (Size c = 0; c < n_columns; c += word_bits) {
      const Size n = word_size(c);
      const std::uint32_t word = word_of(i, c, n);
      kept |= word;
      masked |= ~word & (n == word_bits ? ~0u : (1u << n) - 1u);
    }
  }
  if (!along_rows && census(kept, masked) != 3) return census(kept, masked);  // no bit is looked at
  for (Size u = 0; u < vectors; ++u, ++to) {
    const Size rows = n_rows - u * W < W ? n_rows - u * W : W;
    if (along_rows) {  // a column is a run of memory
      for (Size j = 0; j < n_columns; ++j) {
        const Bool* column = from + (column_list == nullptr ? j : column_list[j]) * column_stride + u * W;
        const unsigned all = (1u << rows) - 1u, zero = X::bits(X::is_zero(load_first<X, Bool>(column, rows))) & all;
        to[j * vectors] = static_cast<std::uint16_t>(~zero & all);
        kept |= ~zero & all;
        masked |= zero;
      }
      continue;
    }
    for (Size c = 0; c < n_columns; c += word_bits) {
      std::uint32_t words[W] = {};
      for (Size l = 0; l < rows; ++l) words[l] = word_of(u * W + l, c, word_size(c));
      X::transpose_bits(words, word_size(c), to + c * vectors, vectors);
    }
  }
  return census(kept, masked);
}
