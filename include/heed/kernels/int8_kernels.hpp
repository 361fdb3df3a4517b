#pragma once
#include <cstdint>

#include "heed/kernels/isa.hpp"
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// What estimates of errors need of a page, in float.
struct PageStatistics {
  float spread;              ///< mean |value - mean value|^2
  float key_spread;          ///< mean |key - mean key|^2
  float mean_value_square;   ///< |mean value|^2
  float key_scale_square;    ///< mean square of the scales of keys
  float value_scale_square;  ///< and of values
};

/// Where the bytes of a page of 32 keys and values lie, of d and d_v columns padded to 8 and 16. A key k is held as
/// mean + scale * (16 high + low - 128), two planes of nibbles of which the first is an answer of its own; a value as
/// scale * whole number. Means and scales are bfloat16: the range of float. What a first look at a page needs lies in
/// `near`, the rest apart in `far`, so that the look reads nothing else; means and statistics of all pages lie
/// together.
///
///   near  high plane | scales of keys
///   far   low plane | values | scales of values
///
/// A plane has for 16 keys and 8 columns 64 bytes: byte 4 i + c holds columns c and, in its upper half, c + 4 of key i.
/// Values stand by four keys: byte 4 c + i of a quad is column c of its key i.
struct Int8Layout {
  static constexpr Size keys = 32;   ///< of a page
  static constexpr Size group = 16;  ///< keys side by side in a plane
  static constexpr Size quad = 4;

  explicit Int8Layout(Size key_width = 0, Size value_width = 0) : d(key_width), d_v(value_width) {
    d_padded = (d + 7) / 8 * 8;
    v_padded = (d_v + 15) / 16 * 16;
    key_scales = keys * d_padded / 2;
    near_bytes = key_scales + 2 * keys;
    values = keys * d_padded / 2;
    value_scales = values + keys * v_padded;
    far_bytes = value_scales + 2 * keys;
  }

  Size d, d_v, d_padded, v_padded;
  Size key_scales, near_bytes, values, value_scales, far_bytes;
};

/// Pages one behind the other.
struct Int8PagesView {
  const unsigned char *near_pages, *far_pages;
  const Bfloat *mean_keys, *mean_values;  ///< d_padded and v_padded columns; a vector may be read behind the last
  const PageStatistics* statistics;

  Int8PagesView from(const Int8Layout& layout, Size page) const {
    return {near_pages + page * layout.near_bytes, far_pages + page * layout.far_bytes,
            mean_keys + page * layout.d_padded, mean_values + page * layout.v_padded, statistics + page};
  }
};

/// A query of a page: q is about scale * bytes.
struct Int8Query {
  const float* q;            ///< padded with zeros to whole vectors past d_padded
  const std::int8_t* bytes;  ///< padded with zeros to d_padded
  float scale;
  std::int32_t sum;  ///< of bytes
};

/// What the weights w of a page's keys sum to, t a key's score less that of the mean key.
struct PageSums {
  float mass;       ///< of w
  float moment;     ///< of w t
  float square[2];  ///< of w^2 over each group of 16
};

/// Kernels on pages of 8-bit keys and values; what each computes stands beside its body in bodies/int8.inl and
/// int8_scan.inl.
struct Int8Kernels {
  void (*scores)(const Int8Layout& layout, Int8PagesView pages, Size n_pages, const Int8Query* queries, Size n_q,
                 float* s, Size s_stride);
  void (*values)(const Int8Layout& layout, Int8PagesView pages, Size n_pages, const float* w, Size w_stride, Size n_q,
                 const float* correction, float* out, Size out_stride);
  void (*scan)(const Int8Layout& layout, Int8PagesView pages, Size n_pages, const Int8Query* queries, Size n_q,
               float* s, Size s_stride, float* base, Size base_stride);
  void (*weigh_pages)(Size n_pages, float c, float top, const float* s, const float* base, PageSums* to);
  void (*group_scores)(const Int8Layout& layout, Int8PagesView pages, const Size* groups, Size n,
                       const Int8Query& query, const float* base, float* rough, float* fine);
  void (*group_values)(const Int8Layout& layout, Int8PagesView pages, const Size* groups, Size n, const float* w,
                       float* out);
};

}  // namespace heed::detail
