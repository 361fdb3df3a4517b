#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "heed/core/types.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/kernels/int8_kernels.hpp"

namespace heed::detail {

/// x as bfloat16 bits: to nearest even, or away from 0 for scales, so that what they divide stays within 127.
inline std::uint16_t bfloat_nearest(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}
inline std::uint16_t bfloat_upwards(float x) {
  return static_cast<std::uint16_t>((std::bit_cast<std::uint32_t>(x) + 0xffffu) >> 16);
}
/// The largest bfloat16 number in place of what is past it.
inline float within_bfloat(double x) { return static_cast<float>(std::clamp(x, -0x1.fep127, 0x1.fep127)); }

/// Number i of those that begin at `to`.
inline void put_number(unsigned char* to, Index i, std::uint16_t bits) { std::memcpy(to + 2 * i, &bits, sizeof bits); }

/// Mean and mean square of what is left of column c of a page.
struct PageMoments {
  float mean;
  double square;
};
inline PageMoments moments_of(const float* rows, Index width, Index c) {
  double sum = 0, square = 0;
  for (Index j = 0; j < Int8Layout::keys; ++j) sum += static_cast<double>(rows[j * width + c]);
  const std::uint16_t bits = bfloat_nearest(within_bfloat(sum / Int8Layout::keys));
  const float mean = std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
  for (Index j = 0; j < Int8Layout::keys; ++j) {
    const double rest = static_cast<double>(rows[j * width + c]) - static_cast<double>(mean);
    square += rest * rest;
  }
  return {mean, square / Int8Layout::keys};
}

/// Writes the keys of a page and what its statistics say of them. The bytes of the planes must be 0.
inline void close_keys(const Int8Layout& layout, const float* keys, Bfloat* mean_key, unsigned char* near,
                       unsigned char* far, PageStatistics& statistics) {
  const Index d = layout.d;
  double scale_square = 0, spread = 0;
  double most[Int8Layout::keys] = {};
  for (Index c = 0; c < d; ++c) {
    const PageMoments of = moments_of(keys, d, c);
    mean_key[c].bits = bfloat_nearest(of.mean);
    spread += of.square;
    for (Index j = 0; j < Int8Layout::keys; ++j) {
      most[j] = std::max(most[j], std::abs(static_cast<double>(keys[j * d + c]) - static_cast<double>(of.mean)));
    }
  }
  for (Index j = 0; j < Int8Layout::keys; ++j) {
    put_number(near + layout.key_scales, j, bfloat_upwards(static_cast<float>(most[j] / 127.0)));
    const double scale = static_cast<double>(Int8Rows::number(near + layout.key_scales, j));
    scale_square += scale * scale / Int8Layout::keys;
    const Index row = j / Int8Layout::group * layout.d_padded * 8 + j % Int8Layout::group * 4;
    for (Index c = 0; c < layout.d_padded; ++c) {
      int whole = 128;
      if (c < d && scale > 0) {
        const double rest = static_cast<double>(keys[j * d + c]) - static_cast<double>(Int8Rows::number(mean_key, c));
        whole += static_cast<int>(std::nearbyint(std::clamp(rest / scale, -127.0, 127.0)));
      }
      const Index at = row + c / 8 * 64 + c % 4;
      const int shift = c % 8 < 4 ? 0 : 4;
      near[at] = static_cast<unsigned char>(near[at] | (whole >> 4) << shift);
      far[at] = static_cast<unsigned char>(far[at] | (whole & 15) << shift);
    }
  }
  statistics.key_scale_square = within_bfloat(scale_square);
  statistics.key_spread = within_bfloat(spread);
}

/// Writes the values of a page and what its statistics say of them.
inline void close_values(const Int8Layout& layout, const float* values, Bfloat* mean_value, unsigned char* far,
                         PageStatistics& statistics) {
  const Index d_v = layout.d_v;
  double spread = 0, square = 0, scale_square = 0;
  for (Index c = 0; c < d_v; ++c) {
    const PageMoments of = moments_of(values, d_v, c);
    mean_value[c].bits = bfloat_nearest(of.mean);
    spread += of.square;
    square += static_cast<double>(of.mean) * static_cast<double>(of.mean);
  }
  for (Index j = 0; j < Int8Layout::keys; ++j) {
    float most = 0;
    for (Index c = 0; c < d_v; ++c) most = std::max(most, std::abs(values[j * d_v + c]));
    put_number(far + layout.value_scales, j, bfloat_upwards(most / 127.0f));
    const double scale = static_cast<double>(Int8Rows::number(far + layout.value_scales, j));
    scale_square += scale * scale / Int8Layout::keys;
    unsigned char* row = far + layout.values + j / Int8Layout::quad * 4 * layout.v_padded + j % Int8Layout::quad;
    for (Index c = 0; c < d_v && scale > 0; ++c) {
      const double whole = std::nearbyint(std::clamp(static_cast<double>(values[j * d_v + c]) / scale, -127.0, 127.0));
      row[4 * c] = static_cast<unsigned char>(static_cast<std::int8_t>(whole));
    }
  }
  statistics.spread = within_bfloat(spread);
  statistics.mean_value_square = within_bfloat(square);
  statistics.value_scale_square = within_bfloat(scale_square);
}

}  // namespace heed::detail
