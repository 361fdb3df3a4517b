// Kernels that read what a mask says of the pairs of a tile; included inside each instance's target region.

// Bit c of a word: from[column c] is true, for n <= 32 columns.
HEED_INLINE inline std::uint32_t true_columns(const Bool* from, Size column_stride, const Size* column_list, Size n) {
  if (n == 32 && column_stride == 1 && column_list == nullptr) return nonzero_bytes(from);
  std::uint32_t word = 0;
  for (Size c = 0; c < n; ++c)
    word |= from[(column_list == nullptr ? c : column_list[c]) * column_stride].byte != 0 ? 1u << c : 0u;
  return word;
}

// Bit l of to[j * vectors + u]: query u * lanes + l may attend to key j; 0 behind the last query. `from` is true there, a query a row and a key
// a column, named by lists or, where those are null, 0, 1, 2, ... Returns its census: bit 0 set
// when some pair may not attend, bit 1 when some may.
template <class X>
int lane_masks(const Bool* from, Size row_stride, Size column_stride, const Size* row_list, Size n_rows,
               const Size* column_list, Size n_columns, std::uint16_t* to) {
  constexpr Size W = X::lanes, word_bits = 32;
  const Size vectors = (n_rows + W - 1) / W;
  const bool along_rows = row_stride == 1 && column_stride != 1 && row_list == nullptr;
  std::uint32_t kept = 0, masked = 0;
  for (Size u = 0; u < vectors; ++u, ++to) {
    const Size rows = n_rows - u * W < W ? n_rows - u * W : W;
    if (along_rows && rows == W) {  // a column is a run of memory
      for (Size j = 0; j < n_columns; ++j) {
        const Bool* column = from + (column_list == nullptr ? j : column_list[j]) * column_stride + u * W;
        const unsigned zero = X::bits(X::is_zero(X::load_as(column))), set = ~zero & ((1u << W) - 1u);
        to[j * vectors] = static_cast<std::uint16_t>(set);
        kept |= set;
        masked |= zero;
      }
      continue;
    }
    for (Size c = 0; c < n_columns; c += word_bits) {
      const Size n = n_columns - c < word_bits ? n_columns - c : word_bits;
      const std::uint32_t all = n == word_bits ? ~0u : (1u << n) - 1u;
      const Bool* corner = from + (column_list == nullptr ? c * column_stride : 0);
      std::uint32_t words[W] = {};
      for (Size l = 0; l < rows; ++l) {
        const Size row = u * W + l;
        words[l] = true_columns(corner + (row_list == nullptr ? row : row_list[row]) * row_stride, column_stride,
                                column_list == nullptr ? nullptr : column_list + c, n);
        kept |= words[l];
        masked |= ~words[l] & all;
      }
      X::transpose_bits(words, n, to + c * vectors, vectors);
    }
  }
  return (masked != 0 ? 1 : 0) | (kept != 0 ? 2 : 0);
}
