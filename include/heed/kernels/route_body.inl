// Routing of tokens down a tree of hyperplanes; included inside each instance's target region.
// Nodes are numbered in level order from the root, 0; the children of v are 2 v + 1 and 2 v + 2. Planes are padded with zeros to
// whole vectors. A token's products are summed in one order whichever rows stand beside it and however they are stored.

// Entry i: the sum of part[i], lanes added in one order for every i.
template <class X>
HEED_INLINE inline typename X::V row_sums(typename X::V* part) {
  if constexpr (requires {
                  X::template merge<1>(part[0], part[1]);
                }) {  // every step halves the vectors: half the shuffles
#pragma GCC unroll 8
    for (int i = 0; i < X::lanes / 2; ++i) part[i] = X::template merge<1>(part[2 * i], part[2 * i + 1]);
#pragma GCC unroll 4
    for (int i = 0; i < X::lanes / 4; ++i) part[i] = X::template merge<2>(part[2 * i], part[2 * i + 1]);
#pragma GCC unroll 2
    for (int i = 0; i < X::lanes / 8; ++i) part[i] = X::template merge<4>(part[2 * i], part[2 * i + 1]);
    if constexpr (X::lanes == 16) part[0] = X::template merge<8>(part[0], part[1]);
    return part[0];
  } else {
    X::transpose(part);
    typename X::V sum = part[0];
#pragma GCC unroll 16
    for (int i = 1; i < X::lanes; ++i) sum = X::add(sum, part[i]);
    return sum;
  }
}

// As many rows as a vector has lanes: where each begins, and its last entries, fewer than a vector, padded with zeros.
template <class X, class S>
struct RouteBlock {
  const S* rows[X::lanes];
  typename X::Scalar tails[X::lanes][X::lanes];

  // Lanes behind the last row repeat it.
  HEED_INLINE void begin(const S* from, Size row_stride, Size n_rows, Size d) {
    for (Size i = 0; i < X::lanes; ++i) rows[i] = from + (i < n_rows ? i : n_rows - 1) * row_stride;
    const Size rest = d % X::lanes;
    for (Size i = 0; i < X::lanes && rest > 0; ++i) X::store(tails[i], load_first<X, S>(rows[i] + (d - rest), rest));
  }

  // Entry i: plane_of[i] . row i. Vectors: how many make up a row, 0 where that is to be seen; the sums are the same.
  template <int Vectors>
  HEED_INLINE typename X::V products(const typename X::Scalar* const* plane_of, Size d) const {
    typename X::V part[X::lanes];
    const Size whole = Vectors > 0 ? Vectors * X::lanes : d - d % X::lanes;
#pragma GCC unroll 16
    for (Size i = 0; i < X::lanes; ++i) {
      const S* row = rows[i];
      const typename X::Scalar* plane = plane_of[i];
      typename X::V even = X::zero(), odd = X::zero();
      Size c = 0;
#pragma GCC unroll 2
      for (; c + 4 * X::lanes <= whole; c += 4 * X::lanes) {
        even = X::fma(X::load_as(row + c), X::load(plane + c), even);
        odd = X::fma(X::load_as(row + c + X::lanes), X::load(plane + c + X::lanes), odd);
        even = X::fma(X::load_as(row + c + 2 * X::lanes), X::load(plane + c + 2 * X::lanes), even);
        odd = X::fma(X::load_as(row + c + 3 * X::lanes), X::load(plane + c + 3 * X::lanes), odd);
      }
      for (; c < whole; c += X::lanes) even = X::fma(X::load_as(row + c), X::load(plane + c), even);
      if (Vectors == 0 && whole < d) odd = X::fma(X::load(tails[i]), X::load(plane + whole), odd);
      part[i] = X::add(even, odd);
    }
    return row_sums<X>(part);
  }
};

// leaf[i]: where row i arrives after `height` decisions, leaves numbered from the left: z = plane . row + bias >= 0 goes to the
// second child, a NaN to the first. Where `lift` is given, z gains lift[node] * extra[i].
template <class X, class S, int Vectors>
HEED_INLINE inline void route_rows(const S* from, Size row_stride, Size n_rows, Size d,
                                   const typename X::Scalar* planes, Size plane_stride,
                                   const typename X::Scalar* biases, const typename X::Scalar* lift,
                                   const typename X::Scalar* extra, Size height, Size* leaf) {
  using T = typename X::Scalar;
  constexpr Size W = X::lanes, n_blocks = 4;  // blocks take turns, so that one's decisions overlap another's products
  RouteBlock<X, S> blocks[n_blocks];
  const T* plane_of[n_blocks * W];
  Size node[n_blocks * W];
  T bias[n_blocks * W];
  for (Size at = 0; at < n_rows; at += n_blocks * W, from += n_blocks * W * row_stride) {
    const Size n = n_rows - at < n_blocks * W ? n_rows - at : n_blocks * W;
    for (Size b = 0; b * W < n; ++b) blocks[b].begin(from + b * W * row_stride, row_stride, n - b * W, d);
    const Size ahead = row_stride == d ? 0 : 2 * n_blocks * W;  // rows that follow one another the hardware sees coming
    for (Size i = n_blocks * W; i < ahead && at + i < n_rows; ++i) fetch_row(from + i * row_stride, d);
    for (Size i = 0; i < n_blocks * W; ++i) {
      node[i] = 0;
      plane_of[i] = planes;
      bias[i] = height > 0 ? biases[0] : T(0);
    }
    for (Size level = 0; level < height; ++level) {
      for (Size i = 0; i < n && lift != nullptr; ++i) bias[i] += lift[node[i]] * extra[at + i];
      for (Size b = 0; b < n; b += W) {
        const typename X::V z = X::add(blocks[b / W].template products<Vectors>(plane_of + b, d), X::load(bias + b));
        const unsigned first = X::bits(X::less(X::max(z, X::set(-1)), X::zero()));  // max: -1 for NaN
        for (Size i = 0; i < W; ++i) {
          const Size child = 2 * node[b + i] + 2 - static_cast<Size>(first >> i & 1u);
          node[b + i] = child;
          if (level + 1 == height) continue;
          plane_of[b + i] = planes + child * plane_stride;
          bias[b + i] = biases[child];
        }
      }
    }
    for (Size i = 0; i < n; ++i) leaf[at + i] = node[i] + 1 - (Size(1) << height);
  }
}

template <class X, class S>
void route(const S* from, Size row_stride, Size n_rows, Size d, const typename X::Scalar* planes, Size plane_stride,
           const typename X::Scalar* biases, const typename X::Scalar* lift, const typename X::Scalar* extra,
           Size height, Size* leaf) {
  if (d == 4 * X::lanes) {
    route_rows<X, S, 4>(from, row_stride, n_rows, d, planes, plane_stride, biases, lift, extra, height, leaf);
  } else if (d == 8 * X::lanes) {
    route_rows<X, S, 8>(from, row_stride, n_rows, d, planes, plane_stride, biases, lift, extra, height, leaf);
  } else {
    route_rows<X, S, 0>(from, row_stride, n_rows, d, planes, plane_stride, biases, lift, extra, height, leaf);
  }
}

// to[i] = plane of node[i] . row i: what `route` compares with minus the bias.
template <class X, class S>
void project(const S* from, Size row_stride, Size n_rows, Size d, const typename X::Scalar* planes, Size plane_stride,
             const Size* node, typename X::Scalar* to) {
  RouteBlock<X, S> block;
  const typename X::Scalar* plane_of[X::lanes];
  for (Size at = 0; at < n_rows; at += X::lanes, from += X::lanes * row_stride) {
    const Size n = n_rows - at < X::lanes ? n_rows - at : X::lanes;
    block.begin(from, row_stride, n, d);
    for (Size i = 0; i < X::lanes; ++i) plane_of[i] = planes + node[at + (i < n ? i : n - 1)] * plane_stride;
    store_first<X>(to + at, block.template products<0>(plane_of, d), n);
  }
}
