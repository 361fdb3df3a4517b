#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/exact/int8_page.hpp"
#include "heed/kernels/int8_kernels.hpp"
#include "heed/kernels/isa.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Owns the tokens of one key/value head of an 8-bit cache: see Int8Rows for how they lie. A page is closed from the
/// oldest 32 of 96 float tokens and never changed again, and what no token fills is 0, so that the bytes depend on the
/// tokens alone and not on how they came, and nothing is left of those that were cut.
class Int8Head {
 public:
  static constexpr Index most_last = 96;  ///< with so many newest tokens the oldest 32 go to a page

  Int8Head(Index d, Index d_v) : layout_(d, d_v) {}
  /// One of `size` tokens of which `n_pages` pages are to be filled by visit_parts.
  Int8Head(Index d, Index d_v, Index size, Index n_pages) : layout_(d, d_v) {
    reserve(size);
    n_first_ = std::min(size, Int8Rows::n_first);
    n_pages_ = n_pages;
    n_last_ = size - n_first_ - n_pages * Int8Layout::keys;
    resize_pages();
  }

  Index size() const { return n_first_ + n_pages_ * Int8Layout::keys + n_last_; }

  /// Makes room for `capacity` tokens. May throw std::bad_alloc; then nothing has changed.
  void reserve(Index capacity) {
    const Index pages = std::max<Index>(0, capacity - Int8Rows::n_first) / Int8Layout::keys;
    near_.reserve(lines_of(pages * layout_.near_bytes));
    far_.reserve(lines_of(pages * layout_.far_bytes));
    mean_keys_.reserve(static_cast<std::size_t>(pages * layout_.d_padded + vector_room));
    mean_values_.reserve(static_cast<std::size_t>(pages * layout_.v_padded + vector_room));
    statistics_.reserve(static_cast<std::size_t>(pages));
    if (mean_keys_.empty()) resize_pages();
    if (floats_.empty()) {
      floats_.resize(static_cast<std::size_t>((Int8Rows::n_first + most_last) * (layout_.d + layout_.d_v)));
    }
    if (layout_.d <= Int8Rows::widest_moments) {
      variances_.reserve(static_cast<std::size_t>(pages * layout_.d_padded + vector_room));
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
      remake_moments();
    } else {
      n_last_ = size - all.pages_end();
    }
    clear_floats_behind();
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
    all.variances = variances_.empty() ? nullptr : variances_.data();
    return all;
  }

  Index n_pages() const { return n_pages_; }
  /// Calls visit(name, vector) for everything a file must hold of `head`, an Int8Head.
  template <class Head, class Visit>
  static void visit_parts(Head& head, const Visit& visit) {
    visit("near", head.near_);
    visit("far", head.far_);
    visit("mean_keys", head.mean_keys_);
    visit("mean_values", head.mean_values_);
    visit("statistics", head.statistics_);
    visit("floats", head.floats_);
  }
  /// Makes what follows from the pages anew.
  void remake_moments() {
    std::fill(moments_.begin(), moments_.end(), 0.0f);
    squared_scales_ = 0;
    for (Index page = 0; page < n_pages_; ++page) add_moments(page);
  }
  /// True where no number is NaN or Inf: a file may hold any bytes.
  bool is_finite() const {
    const auto finite = [](float x) { return heed::detail::is_finite(x); };
    const auto means_are = [&](const std::vector<Bfloat>& means) {
      for (std::size_t i = 0; i < means.size(); ++i) {
        if (!finite(Int8Rows::number(means.data(), static_cast<Index>(i)))) return false;
      }
      return true;
    };
    bool all = means_are(mean_keys_) && means_are(mean_values_) && std::all_of(floats_.begin(), floats_.end(), finite);
    for (const PageStatistics& of : statistics_)
      for (const float x : {of.spread, of.key_spread, of.mean_value_square, of.key_scale_square, of.value_scale_square})
        all = all && finite(x);
    const Int8PagesView pages = rows().pages;
    for (Index p = 0; p < n_pages_; ++p) {
      for (Index j = 0; j < Int8Layout::keys; ++j) {
        all = all && finite(Int8Rows::number(pages.near_pages + p * layout_.near_bytes + layout_.key_scales, j)) &&
              finite(Int8Rows::number(pages.far_pages + p * layout_.far_bytes + layout_.value_scales, j));
      }
    }
    return all;
  }

  std::size_t bytes() const {
    return (near_.capacity() + far_.capacity()) * sizeof(Line) +
           (mean_keys_.capacity() + mean_values_.capacity() + variances_.capacity()) * sizeof(Bfloat) +
           statistics_.capacity() * sizeof(PageStatistics) +
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
    if (layout_.d <= Int8Rows::widest_moments) {
      variances_.resize(mean_keys_.size());
      std::fill(variances_.end() - vector_room, variances_.end(), Bfloat{});
    }
    std::fill(mean_keys_.end() - vector_room, mean_keys_.end(), Bfloat{});
    std::fill(mean_values_.end() - vector_room, mean_values_.end(), Bfloat{});
    clear_bytes_behind(near_, n_pages_ * layout_.near_bytes);
    clear_bytes_behind(far_, n_pages_ * layout_.far_bytes);
  }
  static void clear_bytes_behind(std::vector<Line>& lines, Index n) {
    std::fill(bytes_of(lines) + n, bytes_of(lines) + 64 * lines.size(), static_cast<unsigned char>(0));
  }
  static unsigned char* bytes_of(std::vector<Line>& lines) { return reinterpret_cast<unsigned char*>(lines.data()); }
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

  void close_page() {
    ++n_pages_;
    resize_pages();
    const Index page = n_pages_ - 1;
    unsigned char *near = bytes_of(near_) + page * layout_.near_bytes, *far = bytes_of(far_) + page * layout_.far_bytes;
    Bfloat* mean_key = mean_keys_.data() + page * layout_.d_padded;
    Bfloat* mean_value = mean_values_.data() + page * layout_.v_padded;
    close_keys(layout_, last_keys(), mean_key, near, far, statistics_.back());
    close_values(layout_, last_values(), mean_value, far, statistics_.back());
    add_moments(page);
    n_last_ -= Int8Layout::keys;
    std::copy_n(last_keys() + Int8Layout::keys * layout_.d, n_last_ * layout_.d, last_keys());
    std::copy_n(last_values() + Int8Layout::keys * layout_.d_v, n_last_ * layout_.d_v, last_values());
    clear_floats_behind();
  }

  void clear_floats_behind() {
    const auto clear = [](float* rows, Index n, Index capacity, Index width) {
      std::fill(rows + n * width, rows + capacity * width, 0.0f);
    };
    if (floats_.empty()) return;
    clear(first_keys(), n_first_, Int8Rows::n_first, layout_.d);
    clear(first_values(), n_first_, Int8Rows::n_first, layout_.d_v);
    clear(last_keys(), n_last_, most_last, layout_.d);
    clear(last_values(), n_last_, most_last, layout_.d_v);
  }

  // Every fourth page is enough for the moments.
  static constexpr Index moment_pages = 4;

  // Of the numbers a page stands for, so that they are the same whenever they are made.
  void add_moments(Index page) {
    if (moments_.empty()) return;
    const Index d = layout_.d, width = Int8Rows::moment_width(d), n = Int8Layout::keys;
    const Int8Rows all = rows();
    const Int8PagesView of = all.pages_from(page);
    float *rests = rests_.data(), *columns = rests + n * rest_width();  // of keys and values; of keys again
    for (Index j = 0; j < n; ++j) {
      float* row = rests + j * rest_width();
      all.widen_key(Int8Rows::n_first + page * n + j, row);
      for (Index c = 0; c < d; ++c) columns[c * n + j] = row[c] -= Int8Rows::number(of.mean_keys, c);
    }
    for (Index c = 0; c < d; ++c) {
      double square = 0;
      for (Index j = 0; j < n; ++j) {
        square += static_cast<double>(columns[c * n + j]) * static_cast<double>(columns[c * n + j]);
      }
      variances_[static_cast<std::size_t>(page * layout_.d_padded + c)].bits =
          bfloat_nearest(within_bfloat(square / static_cast<double>(n)));
    }
    if (page % moment_pages != 0) return;
    for (Index j = 0; j < n; ++j) {
      float* row = rests + j * rest_width() + width;
      all.widen_value(Int8Rows::n_first + page * n + j, row);
      for (Index c = 0; c < layout_.d_v; ++c) row[c] -= Int8Rows::number(of.mean_values, c);
    }
    gradient_kernels<float>(active_isa())
        .add_products(columns, n, d, rests, rest_width(), n, rest_width(), moments_.data(), rest_width());
    squared_scales_ += Int8Layout::keys * static_cast<double>(of.statistics->key_scale_square);
  }
  Index rest_width() const { return Int8Rows::moment_width(layout_.d) + Int8Rows::moment_width(layout_.d_v); }

  Int8Layout layout_;
  std::vector<Line> near_, far_;
  std::vector<Bfloat> mean_keys_, mean_values_;
  std::vector<Bfloat> variances_;  // of the columns of pages' keys
  std::vector<PageStatistics> statistics_;
  std::vector<float> floats_;   // keys: the first, the newest; values: the first, the newest
  std::vector<float> moments_;  // see Int8Rows
  std::vector<float> rests_;    // room for them
  double squared_scales_ = 0;
  Index n_first_ = 0, n_pages_ = 0, n_last_ = 0;
};

}  // namespace heed::detail
