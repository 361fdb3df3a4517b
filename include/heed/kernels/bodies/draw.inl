// Random draws in bulk; included inside each instance's target region.

// list[s] = the index that draw s of (seed, stream) takes from an alias table of n cells, for s < count and up to a
// whole vector of blocks more: the draws of CounterRng (Philox-4x32, 10 rounds) and the choice of draw_cell, a block of
// four draws in each lane. A cell is its threshold, and its alias 32 bits up.
template <class U>
void draw(std::uint64_t seed, std::uint64_t stream, const std::uint64_t* cells, Size n, Size count,
          std::int32_t* list) {
  const typename U::V factor0 = U::set(0xd2511f53u), factor1 = U::set(0xcd9e8d57u);
  const typename U::V size = U::set(static_cast<std::uint64_t>(n));
  for (Size s = 0; s < count; s += 4 * U::lanes) {
    const typename U::V block = U::count_from(static_cast<std::uint64_t>(s / 4));
    typename U::V c[4] = {block, U::high(block), U::set(stream), U::set(stream >> 32)};
    std::uint32_t key0 = static_cast<std::uint32_t>(seed), key1 = static_cast<std::uint32_t>(seed >> 32);
#pragma GCC unroll 10
    for (int round = 0; round < 10; ++round) {
      const typename U::V a = U::mul(factor0, c[0]), b = U::mul(factor1, c[2]);
      c[0] = U::exclusive_or(U::high(b), c[1], U::set(key0));
      c[1] = b;
      c[2] = U::exclusive_or(U::high(a), c[3], U::set(key1));
      c[3] = a;
      key0 += 0x9e3779b9u;
      key1 += 0xbb67ae85u;
    }
#pragma GCC unroll 4
    for (int e = 0; e < 4; ++e) {
      const typename U::V place = U::mul(c[e], size), cell = U::high(place), chosen = U::gather(cells, cell);
      c[e] = U::select(U::less(U::low(place), U::low(chosen)), cell, U::high(chosen));
    }
    U::store_by_lane(list + s, c);
  }
}
