#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "heed/core/types.hpp"

namespace heed {

/// Random numbers as a pure function of (seed, stream, index): draws of one stream do not depend on what other streams drew,
/// on threads or on the machine. Copies go on from where the original stands.
///
/// Cost    about ten nanoseconds for four draws; 48 bytes.
/// Source  Salmon, Moraes, Dror, Shaw 2011 (Philox-4x32-10).
class CounterRng {
 public:
  CounterRng(std::uint64_t seed, std::uint64_t stream) : seed_(seed), stream_(stream) {}

  /// 32 random bits.
  std::uint32_t next_u32() {
    if (used_ == block_.size()) {
      block_ = block(seed_, stream_, index_++);
      used_ = 0;
    }
    return block_[used_++];
  }

  /// In [0, 1), a multiple of 2^-53.
  double uniform() {
    const std::uint64_t high = next_u32() >> 5, low = next_u32() >> 6;
    return static_cast<double>(high << 26 | low) * 0x1p-53;
  }

  /// In 0 .. n - 1, each equally likely; n >= 1.
  Index below(Index n) {
    const auto range = static_cast<std::uint64_t>(n);
    const std::uint64_t biased = (0 - range) % range;  // draws below it would favour the small remainders
    for (;;) {
      const std::uint64_t high = next_u32(), draw = high << 32 | next_u32();
      if (draw >= biased) return static_cast<Index>(draw % range);
    }
  }

 private:
  using Block = std::array<std::uint32_t, 4>;

  static Block block(std::uint64_t seed, std::uint64_t stream, std::uint64_t index) {
    Block x{static_cast<std::uint32_t>(index), static_cast<std::uint32_t>(index >> 32),
            static_cast<std::uint32_t>(stream), static_cast<std::uint32_t>(stream >> 32)};
    auto key_low = static_cast<std::uint32_t>(seed), key_high = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
      const std::uint64_t a = std::uint64_t{0xD2511F53u} * x[0], b = std::uint64_t{0xCD9E8D57u} * x[2];
      x = {static_cast<std::uint32_t>(b >> 32) ^ x[1] ^ key_low, static_cast<std::uint32_t>(b),
           static_cast<std::uint32_t>(a >> 32) ^ x[3] ^ key_high, static_cast<std::uint32_t>(a)};
      key_low += 0x9E3779B9u;
      key_high += 0xBB67AE85u;
    }
    return x;
  }

  std::uint64_t seed_;
  std::uint64_t stream_;
  std::uint64_t index_ = 0;
  Block block_{};
  std::size_t used_ = 4;
};

}  // namespace heed
