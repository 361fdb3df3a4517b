// Routing of tokens down a tree of hyperplanes; included inside each instance's target region.
// Nodes are numbered in level order from the root, 0; the children of v are 2 v + 1 and 2 v + 2. Planes are padded with zeros to
// whole vectors. A token's products are summed in one order whichever rows stand beside it and however they are stored.

// Entry i: plane_of[i] . rows[i], for as many rows as a vector has lanes.
template <class X, class S>
HEED_INLINE inline typename X::V route_products(const S* const* rows, const typename X::Scalar* const* plane_of,
                                                Size d) {
  typename X::V part[X::lanes];
#pragma GCC unroll 16
  for (Size i = 0; i < X::lanes; ++i) {
    const S* row = rows[i];
    const typename X::Scalar* plane = plane_of[i];
    typename X::V even = X::zero(), odd = X::zero();
    Size c = 0;
    for (; c + 2 * X::lanes <= d; c += 2 * X::lanes) {
      even = X::fma(X::load_as(row + c), X::load(plane + c), even);
      odd = X::fma(X::load_as(row + c + X::lanes), X::load(plane + c + X::lanes), odd);
    }
    for (; c < d; c += X::lanes) even = X::fma(load_first<X, S>(row + c, d - c), X::load(plane + c), even);
    part[i] = X::add(even, odd);
  }
  X::transpose(part);
#pragma GCC unroll 4
  for (Size half = X::lanes / 2; half > 0; half /= 2) {
#pragma GCC unroll 16
    for (Size i = 0; i < half; ++i) part[i] = X::add(part[i], part[i + half]);
  }
  return part[0];
}

// Rows and planes of the block of tokens that begins at row `first`; lanes behind the last row repeat it.
template <class X, class S>
HEED_INLINE inline void route_block(const S* from, Size row_stride, Size n_rows, const S** rows) {
  for (Size i = 0; i < X::lanes; ++i) rows[i] = from + (i < n_rows ? i : n_rows - 1) * row_stride;
}

// leaf[i]: where row i arrives after `height` decisions, leaves numbered from the left: z = plane . row + bias >= 0 goes to the
// second child, a NaN to the first. Where `lift` is given, z gains lift[node] * extra[i].
template <class X, class S>
void route(const S* from, Size row_stride, Size n_rows, Size d, const typename X::Scalar* planes, Size plane_stride,
           const typename X::Scalar* biases, const typename X::Scalar* lift, const typename X::Scalar* extra,
           Size height, Size* leaf) {
  using T = typename X::Scalar;
  const S* rows[X::lanes];
  const T* plane_of[X::lanes];
  Size node[X::lanes];
  T bias[X::lanes];
  for (Size at = 0; at < n_rows; at += X::lanes, from += X::lanes * row_stride) {
    const Size n = n_rows - at < X::lanes ? n_rows - at : X::lanes;
    route_block<X, S>(from, row_stride, n, rows);
    for (Size i = 0; i < n && at + X::lanes + i < n_rows; ++i) fetch_row(from + (X::lanes + i) * row_stride, d);
    for (Size i = 0; i < X::lanes; ++i) node[i] = 0;
    for (Size level = 0; level < height; ++level) {
      for (Size i = 0; i < X::lanes; ++i) {
        plane_of[i] = planes + node[i] * plane_stride;
        bias[i] = biases[node[i]];
      }
      for (Size i = 0; i < n && lift != nullptr; ++i) bias[i] += lift[node[i]] * extra[at + i];
      const typename X::V z = X::add(route_products<X, S>(rows, plane_of, d), X::load(bias));
      const unsigned first = X::bits(X::less(X::max(z, X::set(-1)), X::zero()));  // max: -1 for NaN
      for (Size i = 0; i < X::lanes; ++i) node[i] = 2 * node[i] + 2 - static_cast<Size>(first >> i & 1u);
    }
    for (Size i = 0; i < n; ++i) leaf[at + i] = node[i] + 1 - (Size(1) << height);
  }
}

// to[i] = plane of node[i] . row i: what `route` compares with minus the bias.
template <class X, class S>
void project(const S* from, Size row_stride, Size n_rows, Size d, const typename X::Scalar* planes, Size plane_stride,
             const Size* node, typename X::Scalar* to) {
  const S* rows[X::lanes];
  const typename X::Scalar* plane_of[X::lanes];
  for (Size at = 0; at < n_rows; at += X::lanes, from += X::lanes * row_stride) {
    const Size n = n_rows - at < X::lanes ? n_rows - at : X::lanes;
    route_block<X, S>(from, row_stride, n, rows);
    for (Size i = 0; i < X::lanes; ++i) plane_of[i] = planes + node[at + (i < n ? i : n - 1)] * plane_stride;
    store_first<X>(to + at, route_products<X, S>(rows, plane_of, d), n);
  }
}
