#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace heed_bench {

/// Fills `out` with draws of mean 0 and variance 1: the sum of four 16-bit uniforms of one 64-bit draw, near enough to
/// a normal and about a nanosecond each. The same seed gives the same numbers on every machine.
inline void fill_random(std::span<float> out, std::uint64_t seed) {
  std::uint64_t state = seed * 0x9E3779B97F4A7C15U + 1;
  for (float& value : out) {
    std::uint64_t z = (state += 0x9E3779B97F4A7C15U);  // splitmix64
    z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
    z ^= z >> 31U;
    const auto sum =
        static_cast<std::int64_t>((z & 0xFFFFU) + ((z >> 16U) & 0xFFFFU) + ((z >> 32U) & 0xFFFFU) + (z >> 48U));
    value = static_cast<float>(sum - 2 * 65535) * 2.6429e-5F;  // sqrt(3) / 65536
  }
}

inline std::vector<float> random_values(std::size_t count, std::uint64_t seed) {
  std::vector<float> values(count);
  fill_random(values, seed);
  return values;
}

}  // namespace heed_bench
