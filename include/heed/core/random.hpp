#pragma once
#include <cstdint>

#include "heed/core/types.hpp"

namespace heed {

namespace detail {

/// Draws 4 block .. 4 block + 3 of a stream.
inline void philox_block(std::uint64_t seed, std::uint64_t stream, std::uint64_t block, std::uint32_t* draws) {
  std::uint32_t c0 = static_cast<std::uint32_t>(block), c1 = static_cast<std::uint32_t>(block >> 32);
  std::uint32_t c2 = static_cast<std::uint32_t>(stream), c3 = static_cast<std::uint32_t>(stream >> 32);
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xd2511f53u} * c0, b = std::uint64_t{0xcd9e8d57u} * c2;
    c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(a);
    k0 += 0x9e3779b9u;
    k1 += 0xbb67ae85u;
  }
  draws[0] = c0;
  draws[1] = c1;
  draws[2] = c2;
  draws[3] = c3;
}

}  // namespace detail

/// Random numbers by counting: draw t of stream s is a function of (seed, s, t) alone, so neither the order of calls
/// nor threads matter. A stream names what is drawn for (a token of a head); streams and seeds are independent.
///
/// Threads one generator per thread: it counts its own draws. Making one costs nothing.
/// Source  Salmon, Moraes, Dror, Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox-4x32, 10 rounds).
class CounterRng {
 public:
  CounterRng(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  /// Uniform over all 32-bit numbers.
  std::uint32_t next_u32() {
    if (used_ == 4) refill();
    return block_[used_++];
  }
  /// Uniform in [0, 1), a multiple of 2^-53.
  double uniform() {
    const std::uint64_t high = next_u32(), low = next_u32();
    return static_cast<double>(((high << 32) | low) >> 11) * 0x1p-53;
  }
  /// Uniform in 0 .. n - 1, without bias; n >= 1.
  Index below(Index n) {
    const auto range = static_cast<std::uint64_t>(n);
    const std::uint64_t biased = (0 - range) % range;  // draws below it would favour the small remainders
    for (;;) {
      const std::uint64_t high = next_u32(), draw = high << 32 | next_u32();
      if (draw >= biased) return static_cast<Index>(draw % range);
    }
  }

 private:
  void refill() {
    detail::philox_block(seed_, stream_, blocks_++, block_);
    used_ = 0;
  }

  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t blocks_ = 0;
  std::uint32_t block_[4] = {};
  int used_ = 4;
};

}  // namespace heed
