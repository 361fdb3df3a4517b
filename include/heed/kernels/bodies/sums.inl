// Sums across lanes of several vectors at once; included inside each instance's target region.

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
