#pragma once
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "heed/core/types.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/select.hpp"

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

/// Owns the tokens of one key/value head of an 8-bit cache: see Int8Rows for how they lie. A page is closed from the
/// oldest 32 of 96 float tokens and never changed again, so that the bytes depend on the tokens alone and not on how
/// they came.
class Int8Head {
 public:
  static constexpr Index most_last = 96;  ///< with so many newest tokens the oldest 32 go to a page

  Int8Head(Index d, Index d_v) : layout_(d, d_v) {}

  Index size() const { return n_first_ + n_pages_ * Int8Layout::keys + n_last_; }

  /// Makes room for `capacity` tokens. May throw std::bad_alloc; then nothing has changed.
  void reserve(Index capacity) {
    const Index pages = std::max<Index>(0, capacity - Int8Rows::n_first) / Int8Layout::keys;
    near_.reserve(lines_of(pages * layout_.near_bytes));
    far_.reserve(lines_of(pages * layout_.far_bytes));
    mean_keys_.reserve(static_cast<std::size_t>(pages * layout_.d_padded + vector_room));
    mean_values_.reserve(static_cast<std::size_t>(pages * layout_.v_padded + vector_room));
    statistics_.reserve(static_cast<std::size_t>(pages));
    if (floats_.empty()) {
      floats_.resize(static_cast<std::size_t>((Int8Rows::n_first + most_last) * (layout_.d + layout_.d_v)));
    }
    if (moments_.empty() && layout_.d <= Int8Rows::widest_moments) {
      moments_.resize(static_cast<std::size_t>(layout_.d * rest_width()));
      rests_.resize(static_cast<std::size_t>(Int8Layout::keys * (rest_width() + layout_.d)));
    }
  }

  /// Adds a token whose numbers are finite; reserve() has made room.
  template <class Key, class Value>
  void append(const Key& key, const Value& value) {
    if (n_first_ < Int8Rows::n_first) {
      write(key, value, first_keys(), first_values(), n_first_++);
      return;
    }
    write(key, value, last_keys(), last_values(), n_last_++);
    if (n_last_ == most_last) close_page();
  }

  /// Forgets the tokens from `size` on. Those left of a page that is cut go on in float, as the page had them.
  void truncate(Index size) {
    const Int8Rows all = rows();
    if (size < all.pages_end()) {
      n_first_ = std::min(size, n_first_);
      n_pages_ = (size - n_first_) / Int8Layout::keys;
      n_last_ = size - n_first_ - n_pages_ * Int8Layout::keys;
      for (Index j = 0; j < n_last_; ++j) {
        all.widen_key(size - n_last_ + j, last_keys() + j * layout_.d);
        all.widen_value(size - n_last_ + j, last_values() + j * layout_.d_v);
      }
      resize_pages();
    } else {
      n_last_ = size - all.pages_end();
    }
  }

  Int8Rows rows() const {
    const float* floats = floats_.data();
    Int8Rows all;
    all.layout = layout_;
    all.size = size();
    all.n_pages = n_pages_;
    all.pages = {reinterpret_cast<const unsigned char*>(near_.data()),
                 reinterpret_cast<const unsigned char*>(far_.data()), mean_keys_.data(), mean_values_.data(),
                 statistics_.data()};
    all.first_keys = floats;
    all.last_keys = floats == nullptr ? floats : floats + Int8Rows::n_first * layout_.d;
    all.first_values = floats == nullptr ? floats : floats + (Int8Rows::n_first + most_last) * layout_.d;
    all.last_values = floats == nullptr ? floats : all.first_values + Int8Rows::n_first * layout_.d_v;
    all.moments = moments_.empty() ? nullptr : moments_.data();
    all.squared_scales = squared_scales_;
    return all;
  }

  const Int8Layout& layout() const { return layout_; }
  std::size_t bytes() const {
    return (near_.capacity() + far_.capacity()) * sizeof(Line) +
           (floats_.capacity() + moments_.capacity() + rests_.capacity()) * sizeof(float);
  }

 private:
  struct alignas(64) Line {
    unsigned char bytes[64];
  };
  static constexpr Index vector_room = 16;

  void resize_pages() {
    near_.resize(lines_of(n_pages_ * layout_.near_bytes));
    far_.resize(lines_of(n_pages_ * layout_.far_bytes));
    mean_keys_.resize(static_cast<std::size_t>(n_pages_ * layout_.d_padded + vector_room));
    mean_values_.resize(static_cast<std::size_t>(n_pages_ * layout_.v_padded + vector_room));
    statistics_.resize(static_cast<std::size_t>(n_pages_));
  }
  static std::size_t lines_of(Index bytes) { return static_cast<std::size_t>((bytes + 63) / 64); }

  float* first_keys() { return floats_.data(); }
  float* last_keys() { return floats_.data() + Int8Rows::n_first * layout_.d; }
  float* first_values() { return floats_.data() + (Int8Rows::n_first + most_last) * layout_.d; }
  float* last_values() { return first_values() + Int8Rows::n_first * layout_.d_v; }

  template <class Key, class Value>
  void write(const Key& key, const Value& value, float* keys, float* values, Index at) {
    for (Index c = 0; c < layout_.d; ++c) keys[at * layout_.d + c] = key(c);
    for (Index c = 0; c < layout_.d_v; ++c) values[at * layout_.d_v + c] = value(c);
  }

  static void put(unsigned char* to, Index i, std::uint16_t bits) { std::memcpy(to + 2 * i, &bits, sizeof bits); }

  void close_page() {
    ++n_pages_;
    resize_pages();
    const Index page = n_pages_ - 1;
    unsigned char* near = reinterpret_cast<unsigned char*>(near_.data()) + page * layout_.near_bytes;
    unsigned char* far = reinterpret_cast<unsigned char*>(far_.data()) + page * layout_.far_bytes;
    Bfloat* mean_key = mean_keys_.data() + page * layout_.d_padded;
    Bfloat* mean_value = mean_values_.data() + page * layout_.v_padded;
    const double key_scale_square = close_keys(last_keys(), mean_key, near, far);
    PageStatistics& statistics = statistics_.back();
    statistics = close_values(last_values(), mean_value, far);
    statistics.key_scale_square = within_bfloat(key_scale_square);
    if (page % moment_pages == 0 && !moments_.empty()) {
      add_moments(mean_key, mean_value);
      squared_scales_ += Int8Layout::keys * key_scale_square;
    }
    n_last_ -= Int8Layout::keys;
    std::copy_n(last_keys() + Int8Layout::keys * layout_.d, n_last_ * layout_.d, last_keys());
    std::copy_n(last_values() + Int8Layout::keys * layout_.d_v, n_last_ * layout_.d_v, last_values());
  }

  // Every fourth page is enough for the moments.
  static constexpr Index moment_pages = 4;

  void add_moments(const Bfloat* mean_key, const Bfloat* mean_value) {
    const Index d = layout_.d, width = Int8Rows::moment_width(d), n = Int8Layout::keys;
    float *rests = rests_.data(),
          *columns = rests + n * rest_width();  // what is left of keys and values; of keys again
    for (Index j = 0; j < n; ++j) {
      float* row = rests + j * rest_width();
      for (Index c = 0; c < d; ++c) {
        row[c] = last_keys()[j * d + c] - Int8Rows::number(mean_key, c);
        columns[c * n + j] = row[c];
      }
      for (Index c = 0; c < layout_.d_v; ++c)
        row[width + c] = last_values()[j * layout_.d_v + c] - Int8Rows::number(mean_value, c);
    }
    gradient_kernels<float>(active_isa())
        .add_products(columns, n, d, rests, rest_width(), n, rest_width(), moments_.data(), rest_width());
  }
  Index rest_width() const { return Int8Rows::moment_width(layout_.d) + Int8Rows::moment_width(layout_.d_v); }

  // Mean and mean square of what is left of column c of a page.
  struct Moments {
    float mean;
    double square;
  };
  static Moments moments(const float* rows, Index width, Index c) {
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

  // Returns the mean square of the scales.
  double close_keys(const float* keys, Bfloat* mean_key, unsigned char* near, unsigned char* far) const {
    const Index d = layout_.d;
    double scale_square = 0;
    double most[Int8Layout::keys] = {};
    for (Index c = 0; c < d; ++c) {
      const Moments of = moments(keys, d, c);
      mean_key[c].bits = bfloat_nearest(of.mean);
      for (Index j = 0; j < Int8Layout::keys; ++j) {
        most[j] = std::max(most[j], std::abs(static_cast<double>(keys[j * d + c]) - static_cast<double>(of.mean)));
      }
    }
    for (Index j = 0; j < Int8Layout::keys; ++j) {
      put(near + layout_.key_scales, j, bfloat_upwards(static_cast<float>(most[j] / 127.0)));
      const double scale = static_cast<double>(Int8Rows::number(near + layout_.key_scales, j));
      scale_square += scale * scale / Int8Layout::keys;
      const Index row = j / Int8Layout::group * layout_.d_padded * 8 + j % Int8Layout::group * 4;
      for (Index c = 0; c < layout_.d_padded; ++c) {
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
    return scale_square;
  }

  PageStatistics close_values(const float* values, Bfloat* mean_value, unsigned char* far) const {
    const Index d_v = layout_.d_v;
    double spread = 0, square = 0, scale_square = 0;
    for (Index c = 0; c < d_v; ++c) {
      const Moments of = moments(values, d_v, c);
      mean_value[c].bits = bfloat_nearest(of.mean);
      spread += of.square;
      square += static_cast<double>(of.mean) * static_cast<double>(of.mean);
    }
    for (Index j = 0; j < Int8Layout::keys; ++j) {
      float most = 0;
      for (Index c = 0; c < d_v; ++c) most = std::max(most, std::abs(values[j * d_v + c]));
      put(far + layout_.value_scales, j, bfloat_upwards(most / 127.0f));
      const double scale = static_cast<double>(Int8Rows::number(far + layout_.value_scales, j));
      scale_square += scale * scale / Int8Layout::keys;
      unsigned char* row = far + layout_.values + j / Int8Layout::quad * 4 * layout_.v_padded + j % Int8Layout::quad;
      for (Index c = 0; c < d_v && scale > 0; ++c) {
        const double whole =
            std::nearbyint(std::clamp(static_cast<double>(values[j * d_v + c]) / scale, -127.0, 127.0));
        row[4 * c] = static_cast<unsigned char>(static_cast<std::int8_t>(whole));
      }
    }
    return {within_bfloat(spread), within_bfloat(square), 0.0f, within_bfloat(scale_square)};
  }

  Int8Layout layout_;
  std::vector<Line> near_, far_;
  std::vector<Bfloat> mean_keys_, mean_values_;
  std::vector<PageStatistics> statistics_;
  std::vector<float> floats_;   // keys: the first, the newest; values: the first, the newest
  std::vector<float> moments_;  // see Int8Rows
  std::vector<float> rests_;    // room for them
  double squared_scales_ = 0;
  Index n_first_ = 0, n_pages_ = 0, n_last_ = 0;
};

}  // namespace heed::detail
