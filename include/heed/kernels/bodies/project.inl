// Kernels that make value rows from chosen rows of a weight matrix, and that reduce columns of softmax weights;
// included inside each instance's target region.

// sum[t][u] += y_t[k * y_stride] * row vector u for N tokens.
template <class X, int N, int C>
HEED_INLINE inline void encode_step(const typename X::Scalar* row, const typename X::Scalar* const (&y)[N], Size k,
                                    typename X::V (&sum)[N][C]) {
  typename X::V weight[C];
#pragma GCC unroll 4
  for (int u = 0; u < C; ++u) weight[u] = X::load(row + u * X::lanes);
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
    const typename X::V entry = X::set(y[t][k]);
#pragma GCC unroll 4
    for (int u = 0; u < C; ++u) sum[t][u] = X::fma(entry, weight[u], sum[t][u]);
  }
}

// N tokens and C vectors of columns of encode. P samples are in flight: a single token alone has too few chains to hide
// the latency of a fused multiply-add.
template <class X, int N, int C, int P>
HEED_INLINE inline void encode_block(const typename X::Scalar* w, Size w_stride, const std::int32_t* list, Size n,
                                     const typename X::Scalar* const (&y)[N], Size y_stride,
                                     typename X::Scalar* const* out, Size column) {
  typename X::V sum[P][N][C];
#pragma GCC unroll 4
  for (int p = 0; p < P; ++p) {
#pragma GCC unroll 8
    for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
      for (int u = 0; u < C; ++u) sum[p][t][u] = p == 0 ? X::load(out[t] + column + u * X::lanes) : X::zero();
    }
  }
  w += column;
  Size s = 0;
  for (; s + P <= n; s += P) {
#pragma GCC unroll 4
    for (int p = 0; p < P; ++p) encode_step<X, N, C>(w + list[s + p] * w_stride, y, list[s + p] * y_stride, sum[p]);
  }
  for (; s < n; ++s) encode_step<X, N, C>(w + list[s] * w_stride, y, list[s] * y_stride, sum[0]);
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) {
#pragma GCC unroll 4
    for (int u = 0; u < C; ++u) {
#pragma GCC unroll 4
      for (int p = 1; p < P; ++p) sum[0][t][u] = X::add(sum[0][t][u], sum[p][t][u]);
      X::store(out[t] + column + u * X::lanes, sum[0][t][u]);
    }
  }
}

template <class X, int N, int C, int P>
HEED_INLINE inline void encode_tokens(const typename X::Scalar* w, Size w_stride, const std::int32_t* list, Size n,
                                      const typename X::Scalar* const* y, Size y_stride, Size columns,
                                      typename X::Scalar* const* out) {
  const typename X::Scalar* own[N];
#pragma GCC unroll 8
  for (int t = 0; t < N; ++t) own[t] = y[t];
  Size c = 0;
  for (; c + C * X::lanes <= columns; c += C * X::lanes)
    encode_block<X, N, C, P>(w, w_stride, list, n, own, y_stride, out, c);
  for (; c < columns; c += X::lanes) encode_block<X, N, 1, P>(w, w_stride, list, n, own, y_stride, out, c);
}

// Tokens one call takes, and vectors of columns at a time: what leaves registers for the weights and an entry.
inline constexpr Size encode_limit = 6;
template <class X>
inline constexpr int encode_vectors = X::rows* X::vectors >= 24 ? 4 : 2;

// out[t][c] += sum over s < n of y_t[list[s] * y_stride] w[list[s]][c] for n_tokens tokens that share a list. `columns`
// is a whole number of vectors; rows of w and out have room for them.
template <class X>
void encode(const typename X::Scalar* w, Size w_stride, const std::int32_t* list, Size n,
            const typename X::Scalar* const* y, Size y_stride, Size n_tokens, Size columns,
            typename X::Scalar* const* out) {
  constexpr int C = encode_vectors<X>;
  switch (n_tokens) {
    case 1: return encode_tokens<X, 1, 4, 2>(w, w_stride, list, n, y, y_stride, columns, out);
    case 2: return encode_tokens<X, 2, 4, 1>(w, w_stride, list, n, y, y_stride, columns, out);
    case 3: return encode_tokens<X, 3, C, 1>(w, w_stride, list, n, y, y_stride, columns, out);
    case 4: return encode_tokens<X, 4, C, 1>(w, w_stride, list, n, y, y_stride, columns, out);
    case 5: return encode_tokens<X, 5, C, 1>(w, w_stride, list, n, y, y_stride, columns, out);
    case 6: return encode_tokens<X, 6, C, 1>(w, w_stride, list, n, y, y_stride, columns, out);
    default: return;
  }
}

// size[k] = |x[k]| norms[k]; returns the sum of the sizes. size and norms have room for whole vectors; the sizes behind
// n are set to -1, below every floor.
template <class X>
typename X::Scalar products(Size n, const typename X::Scalar* x, const typename X::Scalar* norms,
                            typename X::Scalar* size) {
  typename X::V even = X::zero(), odd = X::zero();
  Size k = 0;
  for (; k + 2 * X::lanes <= n; k += 2 * X::lanes) {
    const typename X::V first = X::mul(X::abs(X::load(x + k)), X::load(norms + k));
    const typename X::V second = X::mul(X::abs(X::load(x + k + X::lanes)), X::load(norms + k + X::lanes));
    X::store(size + k, first);
    X::store(size + k + X::lanes, second);
    even = X::add(even, first);
    odd = X::add(odd, second);
  }
  for (; k < n; k += X::lanes) {
    const typename X::V entry = load_first<X, typename X::Scalar>(x + k, n - k);  // 0 behind n
    const typename X::V product = X::mul(X::abs(entry), X::load(norms + k));
    X::store(size + k, product);
    even = X::add(even, product);
  }
  for (k = n; k % X::lanes != 0; ++k) size[k] = -1;
  return X::sum(X::add(even, odd));
}

// x[k] - mean[k] for a vector of entries, 0 behind n; mean may be null.
template <class X>
HEED_INLINE inline typename X::V centred(Size n, const typename X::Scalar* x, const typename X::Scalar* mean, Size k) {
  const typename X::V entry = load_first<X, typename X::Scalar>(x + k, n - k);
  return mean == nullptr ? entry : X::sub(entry, load_first<X, typename X::Scalar>(mean + k, n - k));
}

// y[k] = x[k] - mean[k]; y has room for whole vectors.
template <class X>
void centre(Size n, const typename X::Scalar* x, const typename X::Scalar* mean, typename X::Scalar* y) {
  for (Size k = 0; k < n; k += X::lanes) X::store(y + k, centred<X>(n, x, mean, k));
}

// Sum of (x[k] - mean[k])^2; mean may be null.
template <class X>
typename X::Scalar square(Size n, const typename X::Scalar* x, const typename X::Scalar* mean) {
  typename X::V even = X::zero(), odd = X::zero();
  Size k = 0;
  for (; k + X::lanes < n; k += 2 * X::lanes) {
    const typename X::V first = centred<X>(n, x, mean, k), second = centred<X>(n, x, mean, k + X::lanes);
    even = X::fma(first, first, even);
    odd = X::fma(second, second, odd);
  }
  if (k < n) {
    const typename X::V last = centred<X>(n, x, mean, k);
    even = X::fma(last, last, even);
  }
  return X::sum(X::add(even, odd));
}

// How many sizes are >= floor; sizes lie in whole vectors.
template <class X>
Size count_above(Size n, const typename X::Scalar* size, typename X::Scalar floor) {
  const typename X::V least = X::set(floor), one = X::set(1);
  typename X::V below[2] = {X::zero(), X::zero()};
  Size k = 0;
  for (; k + 2 * X::lanes <= n; k += 2 * X::lanes) {
    below[0] = X::add(below[0], X::select(X::less(X::load(size + k), least), one, X::zero()));
    below[1] = X::add(below[1], X::select(X::less(X::load(size + k + X::lanes), least), one, X::zero()));
  }
  for (; k < n; k += X::lanes)
    below[0] = X::add(below[0], X::select(X::less(X::load(size + k), least), one, X::zero()));
  return k - static_cast<Size>(X::sum(X::add(below[0], below[1])));
}

// Places of the sizes >= floor, ascending, counted from `first`; returns how many. `list` has room for a whole vector
// more.
template <class X>
Size list_above(Size n, const typename X::Scalar* size, typename X::Scalar floor, Size first, std::int32_t* list) {
  const typename X::V least = X::set(floor);
  constexpr unsigned all = (1u << X::lanes) - 1u;
  Size found = 0;
  for (Size k = 0; k < n; k += X::lanes) {
    const auto below = X::less(X::load(size + k), least);
    unsigned kept = all & ~X::bits(below);
    if constexpr (requires { X::store_places(list, below, k); }) {
      X::store_places(list + found, static_cast<typename X::M>(kept), first + k);
      found += __builtin_popcount(kept);
    } else {
      for (; kept != 0; kept &= kept - 1) list[found++] = static_cast<std::int32_t>(first + k) + __builtin_ctz(kept);
    }
  }
  return found;
}

// top[j][lane] = max(top, w[j][i]) and squares[j][lane] += w[j][i]^2 over the queries i of that lane. A weight that is
// NaN counts as 0: its query's whole answer is NaN, whatever the key's importance.
template <class X>
void fold(Size n_keys, Size panel, Size count, const typename X::Scalar* weights, typename X::Scalar* top,
          typename X::Scalar* squares) {
  for (Size j = 0; j < n_keys; ++j, weights += panel, top += X::lanes, squares += X::lanes) {
    typename X::V best = X::load(top), sum = X::load(squares);
    for (Size i = 0; i < count * X::lanes; i += X::lanes) {
      const typename X::V given = X::load(weights + i);
      const typename X::V weight = X::select(X::less(given, X::set(2)), given, X::zero());
      best = X::max(best, weight);
      sum = X::fma(weight, weight, sum);
    }
    X::store(top, best);
    X::store(squares, sum);
  }
}

// to[k * stride + t] = rows[t][k]: tokens side by side; a null row is left out.
template <class X>
void interleave(Size n, const typename X::Scalar* const* rows, Size n_rows, typename X::Scalar* to, Size stride) {
  const typename X::V one = X::set(1);
  for (Size first = 0; first < n_rows; first += X::lanes) {
    const typename X::Scalar* start[X::lanes];
    bool whole = first + X::lanes <= n_rows;
    for (Size t = 0; t < X::lanes && whole; ++t) {
      start[t] = rows[first + t];
      whole = start[t] != nullptr;
    }
    Size k = 0;
    for (; whole && k + X::lanes <= n; k += X::lanes)
      transpose_block<X, typename X::Scalar>(start, X::lanes, k, X::lanes, to + k * stride + first, stride, one);
    for (; k < n; ++k) {
      for (Size t = first; t < n_rows && t < first + X::lanes; ++t) {
        if (rows[t] != nullptr) to[k * stride + t] = rows[t][k];
      }
    }
  }
}

// x[c] *= factor, in whole vectors.
template <class X>
void multiply(Size n, typename X::Scalar factor, typename X::Scalar* x) {
  const typename X::V scale = X::set(factor);
  for (Size c = 0; c < n; c += X::lanes) X::store(x + c, X::mul(X::load(x + c), scale));
}

// to[c] = base[c] + factor * sum[c] for n columns.
template <class X>
void finish_row(Size n, const typename X::Scalar* sum, typename X::Scalar factor, const typename X::Scalar* base,
                typename X::Scalar* to) {
  const typename X::V scale = X::set(factor);
  for (Size c = 0; c < n; c += X::lanes) {
    const typename X::V start = load_first<X, typename X::Scalar>(base + c, n - c);
    store_first<X>(to + c, X::fma(scale, load_first<X, typename X::Scalar>(sum + c, n - c), start), n - c);
  }
}
