// Routing of tokens down a tree of hyperplanes; included inside each instance's target region.
// Nodes are numbered in level order from the root, 0; the children of v are 2 v + 1 and 2 v + 2. Planes are padded with
// zeros to whole vectors. A token's products are summed in one order whichever rows stand beside it and however they
// are stored.

// Adds plane . row over the row's whole vectors to two sums, in one order; what is left of a row joins the odd one.
template <class X, class S>
HEED_INLINE inline void add_products(const S* row, const typename X::Scalar* plane, Size whole, typename X::V& even,
                                     typename X::V& odd) {
  Size c = 0;
#pragma GCC unroll 2
  for (; c + 4 * X::lanes <= whole; c += 4 * X::lanes) {
    even = X::fma(X::load_as(row + c), X::load(plane + c), even);
    odd = X::fma(X::load_as(row + c + X::lanes), X::load(plane + c + X::lanes), odd);
    even = X::fma(X::load_as(row + c + 2 * X::lanes), X::load(plane + c + 2 * X::lanes), even);
    odd = X::fma(X::load_as(row + c + 3 * X::lanes), X::load(plane + c + 3 * X::lanes), odd);
  }
  for (; c < whole; c += X::lanes) even = X::fma(X::load_as(row + c), X::load(plane + c), even);
}

// As many rows as a vector has lanes, each of `Vectors` whole vectors: copied once for all levels, converted and where
// cache lines begin. Lanes behind the last row repeat it.
template <class X, class S, int Vectors>
struct RouteBlock {
  alignas(64) typename X::Scalar rows[X::lanes][Vectors * X::lanes];

  HEED_INLINE void begin(const S* from, Size row_stride, Size n_rows, Size) {
    for (Size i = 0; i < X::lanes; ++i) {
      const S* row = from + (i < n_rows ? i : n_rows - 1) * row_stride;
#pragma GCC unroll 8
      for (Size c = 0; c < Vectors * X::lanes; c += X::lanes) X::store(rows[i] + c, X::load_as(row + c));
    }
  }

  // Entry i: plane of node[i] . row i.
  HEED_INLINE typename X::V products(const typename X::Scalar* planes, Size plane_stride, const std::int32_t* node,
                                     Size) const {
    typename X::V part[X::lanes];
#pragma GCC unroll 16
    for (Size i = 0; i < X::lanes; ++i) {
      typename X::V even = X::zero(), odd = X::zero();
      add_products<X>(rows[i], planes + node[i] * plane_stride, Vectors * X::lanes, even, odd);
      part[i] = X::add(even, odd);
    }
    return row_sums<X>(part);
  }
};

// The same for rows of any width, in place: where each begins, and its last entries padded with zeros.
template <class X, class S>
struct RouteBlock<X, S, 0> {
  const S* rows[X::lanes];
  typename X::Scalar tails[X::lanes][X::lanes];

  HEED_INLINE void begin(const S* from, Size row_stride, Size n_rows, Size d) {
    for (Size i = 0; i < X::lanes; ++i) rows[i] = from + (i < n_rows ? i : n_rows - 1) * row_stride;
    const Size rest = d % X::lanes;
    for (Size i = 0; i < X::lanes && rest > 0; ++i) X::store(tails[i], load_first<X, S>(rows[i] + (d - rest), rest));
  }

  HEED_INLINE typename X::V products(const typename X::Scalar* planes, Size plane_stride, const std::int32_t* node,
                                     Size d) const {
    typename X::V part[X::lanes];
    const Size whole = d - d % X::lanes;
#pragma GCC unroll 16
    for (Size i = 0; i < X::lanes; ++i) {
      const typename X::Scalar* plane = planes + node[i] * plane_stride;
      typename X::V even = X::zero(), odd = X::zero();
      add_products<X>(rows[i], plane, whole, even, odd);
      if (whole < d) odd = X::fma(X::load(tails[i]), X::load(plane + whole), odd);
      part[i] = X::add(even, odd);
    }
    return row_sums<X>(part);
  }
};

// products + lift[node] * extra, what is added rounded first: fused it would be a number of its own on some machines
// only, and medians found without a fused product would send their own key astray. `extra` is read to whole vectors.
template <class X>
HEED_INLINE inline typename X::V add_lift(typename X::V products, const typename X::Scalar* lift,
                                          const std::int32_t* node, const typename X::Scalar* extra) {
  return X::add(products, X::fma(X::load_each(lift, node), X::load(extra), X::zero()));
}

// leaf[i]: where row i arrives after `height` decisions, leaves numbered from the left: z >= 0 goes to the second
// child, a NaN to the first; z = plane . row + bias, and (plane . row + lift[node] * extra[i]) + bias where `lift` is
// given.
template <class X, class S, int Vectors>
HEED_INLINE inline void route_rows(const S* from, Size row_stride, Size n_rows, Size d,
                                   const typename X::Scalar* planes, Size plane_stride,
                                   const typename X::Scalar* biases, const typename X::Scalar* lift,
                                   const typename X::Scalar* extra, Size height, Size* leaf) {
  using T = typename X::Scalar;
  // Blocks take turns, so that one's decisions overlap another's products.
  constexpr Size W = X::lanes, n_blocks = Vectors == 8 ? 2 : 4;
  RouteBlock<X, S, Vectors> blocks[n_blocks];
  alignas(64) std::int32_t node[n_blocks * W];
  alignas(64) T bias[n_blocks * W];
  alignas(64) T z[W];
  const Size a_turn = height > 0 ? (W + height - 1) / height : 0;
  for (Size at = 0; at < n_rows; at += n_blocks * W, from += n_blocks * W * row_stride) {
    const Size n = n_rows - at < n_blocks * W ? n_rows - at : n_blocks * W;
    for (Size b = 0; b * W < n; ++b) blocks[b].begin(from + b * W * row_stride, row_stride, n - b * W, d);
    for (Size i = 0; i < n_blocks * W; ++i) {
      node[i] = 0;
      bias[i] = height > 0 ? biases[0] : T(0);
    }
    Size next = n;  // of the rows behind these, asked for in turns; asking beyond the last row does no harm
    for (Size level = 0; level < height; ++level) {
      for (Size b = 0; b < n; b += W) {
        typename X::V products = blocks[b / W].products(planes, plane_stride, node + b, d);
        if (lift != nullptr) products = add_lift<X>(products, lift, node + b, extra + at + b);
        X::store(z, X::add(products, X::load(bias + b)));
        for (Size i = 0; i < W; ++i) node[b + i] = 2 * node[b + i] + 1 + (z[i] >= 0 ? 1 : 0);  // NaN: the first
        for (const Size last = next + a_turn; next < last; ++next) fetch_row(from + next * row_stride, d);
        if (level + 1 < height) X::store(bias + b, X::load_each(biases, node + b));
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

// to[i]: what `route` compares with minus the bias of node[i], for row i.
template <class X, class S>
void project(const S* from, Size row_stride, Size n_rows, Size d, const typename X::Scalar* planes, Size plane_stride,
             const typename X::Scalar* lift, const typename X::Scalar* extra, const Size* node,
             typename X::Scalar* to) {
  RouteBlock<X, S, 0> block;
  std::int32_t node_of[X::lanes];
  for (Size at = 0; at < n_rows; at += X::lanes, from += X::lanes * row_stride) {
    const Size n = n_rows - at < X::lanes ? n_rows - at : X::lanes;
    block.begin(from, row_stride, n, d);
    for (Size i = 0; i < X::lanes; ++i) node_of[i] = static_cast<std::int32_t>(node[at + (i < n ? i : n - 1)]);
    typename X::V products = block.products(planes, plane_stride, node_of, d);
    if (lift != nullptr) products = add_lift<X>(products, lift, node_of, extra + at);
    store_first<X>(to + at, products, n);
  }
}
