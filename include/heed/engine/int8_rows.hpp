#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/kernels/int8_kernels.hpp"

namespace heed::detail {

/// Tokens of one key/value head of an 8-bit cache, in three runs: the first few in float (attention sinks), pages of
/// 32, the newest in float. Reads what others own.
struct Int8Rows {
  static constexpr Index n_first = 4;

  Int8Layout layout{};
  Index size = 0;     ///< tokens
  Index n_pages = 0;  ///< they follow the first n_first tokens
  Int8PagesView pages{};
  const float *first_keys = nullptr, *first_values = nullptr;  ///< n_first x d, x d_v
  const float *last_keys = nullptr, *last_values = nullptr;    ///< those behind the pages
  /// Sums over pages, r what is left of a key and u of a value: row c is r_c r, then r_c u, each moment_width wide.
  /// Null for wide keys.
  const float* moments = nullptr;
  double squared_scales = 0;  ///< of the keys those sums are of
  /// Of the columns of a page's keys: d_padded numbers a page. Null for wide keys.
  const Bfloat* variances = nullptr;

  static constexpr Index widest_moments = 256;
  static Index moment_width(Index d) { return (d + 15) / 16 * 16; }

  Index first_end() const { return std::min(size, n_first); }
  /// End of the tokens in pages, and begin of the newest.
  Index pages_end() const { return first_end() + n_pages * Int8Layout::keys; }

  Int8PagesView pages_from(Index page) const { return pages.from(layout, page); }

  /// Key `j` as the float numbers it stands for.
  void widen_key(Index j, float* to) const {
    if (const float* row = float_row(j, first_keys, last_keys, layout.d)) {
      std::copy_n(row, layout.d, to);
      return;
    }
    const Index page = (j - n_first) / Int8Layout::keys, slot = (j - n_first) % Int8Layout::keys;
    const Int8PagesView of = pages_from(page);
    const unsigned char *near = of.near_pages, *far = of.far_pages;
    const float scale = number(near + layout.key_scales, slot);
    const Index row = slot / Int8Layout::group * layout.d_padded * 8 + slot % Int8Layout::group * 4;
    for (Index c = 0; c < layout.d; ++c) {
      const Index at = row + c / 8 * 64 + c % 4;
      const int shift = c % 8 < 4 ? 0 : 4, high = near[at] >> shift & 15, low = far[at] >> shift & 15;
      to[c] = number(of.mean_keys, c) + scale * static_cast<float>(16 * high + low - 128);
    }
  }
  /// Value `j`.
  void widen_value(Index j, float* to) const {
    if (const float* row = float_row(j, first_values, last_values, layout.d_v)) {
      std::copy_n(row, layout.d_v, to);
      return;
    }
    const Index page = (j - n_first) / Int8Layout::keys, slot = (j - n_first) % Int8Layout::keys;
    const unsigned char* far = pages_from(page).far_pages;
    const float scale = number(far + layout.value_scales, slot);
    const unsigned char* row = far + layout.values + slot / Int8Layout::quad * 4 * layout.v_padded + slot % 4;
    for (Index c = 0; c < layout.d_v; ++c) to[c] = scale * static_cast<float>(static_cast<std::int8_t>(row[4 * c]));
  }

  /// Number `i` of the bfloat16 ones that begin at `from`.
  static float number(const unsigned char* from, Index i) {
    Bfloat x;
    std::memcpy(&x, from + 2 * i, sizeof x);
    return number(&x, 0);
  }
  static float number(const Bfloat* from, Index i) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(from[i].bits) << 16);
  }

 private:
  // The row of token j where it is held in float, else null.
  const float* float_row(Index j, const float* first, const float* last, Index width) const {
    if (j < first_end()) return first + j * width;
    return j >= pages_end() ? last + (j - pages_end()) * width : nullptr;
  }
};

}  // namespace heed::detail
