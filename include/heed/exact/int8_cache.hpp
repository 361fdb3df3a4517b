#pragma once
#include <algorithm>
#include <cstddef>
#include <utility>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/int8_rows.hpp"
#include "heed/engine/tolerance_levels.hpp"
#include "heed/exact/cache_shape.hpp"
#include "heed/exact/float_cache.hpp"
#include "heed/exact/int8_head.hpp"

namespace heed {

/// Keys and values in 8 bits: 29% of the memory of float at d = 64 and 16384 tokens, and decoding is as much sooner
/// where memory is the price. The first 4 tokens and the newest 64 to 95 stay in float; the others lie in pages of 32,
/// a key as mean of its page + scale * whole number, a value as scale * whole number, with a scale a token. `attend`
/// takes it as it takes every cache, with all masks and options. Relative error on real heads .002 to .012. A query
/// that comes alone is rounded too: to 8 bits, or to 16 where one channel of it is much larger than the others. Values
/// below 1e-32 are 0 in pages.
///
/// Bytes depend on the tokens alone, not on how appends split them. A call that throws leaves the cache as it was. One
/// that was moved from is empty.
template <>
class KeyValueCache<Int8> {
 public:
  /// As of every cache. Errors  OptionError for widths or heads below 1 or past 32768, a negative capacity, or more of
  /// them than memory can hold.
  explicit KeyValueCache(Index d, Index d_v = 0, Index n_kv_heads = 1, Index capacity = 0)
      : shape_(detail::CacheShape::checked(d, d_v, n_kv_heads, capacity)) {
    constexpr Index widest = 32768;  // sums of products of bytes stay below 2^31
    if (d > widest)
      throw OptionError(detail::message("KeyValueCache: d = ", d, " must be at most ", widest, " in 8 bits"));
    if (shape_.d_v > widest)
      throw OptionError(detail::message("KeyValueCache: d_v = ", d_v, " must be at most ", widest, " in 8 bits"));
    heads_.assign(static_cast<std::size_t>(n_kv_heads), detail::Int8Head(d, shape_.d_v));
    reserve(capacity);
  }
  KeyValueCache(const KeyValueCache& other)
      : shape_(other.shape_), size_(other.size_), heads_(other.heads_), probes_(other.probes_) {
    reserve(other.capacity_);  // which copies of vectors forget
  }
  KeyValueCache(KeyValueCache&& other) noexcept
      : shape_(other.shape_),
        size_(std::exchange(other.size_, 0)),
        capacity_(std::exchange(other.capacity_, 0)),
        heads_(std::exchange(other.heads_, {})),
        probes_(std::exchange(other.probes_, {})) {}
  KeyValueCache& operator=(KeyValueCache other) {  // by value: what may throw is over
    shape_ = other.shape_;
    size_ = other.size_;
    capacity_ = other.capacity_;
    heads_ = std::move(other.heads_);
    probes_ = std::move(other.probes_);
    return *this;
  }

  Index size() const { return size_; }          ///< tokens held
  Index capacity() const { return capacity_; }  ///< tokens it has room for
  Index d() const { return shape_.d; }
  Index d_v() const { return shape_.d_v; }
  Index n_kv_heads() const { return shape_.n_kv_heads; }
  /// Memory of all tokens, with room for capacity().
  std::size_t bytes() const {
    std::size_t all = 0;
    for (const detail::Int8Head& head : heads_) all += head.bytes();
    return all;
  }

  /// Makes room for `capacity` tokens.
  /// Errors  OptionError for more than memory can hold.
  void reserve(Index capacity) {
    if (capacity <= capacity_) return;
    shape_.check_capacity(capacity);
    heads_.resize(static_cast<std::size_t>(shape_.n_kv_heads), detail::Int8Head(shape_.d, shape_.d_v));
    for (detail::Int8Head& head : heads_) head.reserve(capacity);
    capacity_ = capacity;
  }

  /// Forgets the tokens from position `size` on; the memory stays. Those that stay stand for the same numbers: what is
  /// left of a page that is cut goes on in float. With more than an eighth of the tokens goes what attend_within has
  /// learnt of them.
  void truncate(Index size) {
    shape_.check_truncated(size, size_);
    if (size_ - size > size_ / 8) probes_.clear();
    for (detail::Int8Head& head : heads_) head.truncate(size);
    size_ = size;
  }
  void clear() { truncate(0); }

  /// Adds tokens. k_new: n x (n_kv_heads * d), v_new: n x (n_kv_heads * d_v).
  /// Errors  ShapeError; OptionError for NaN or Inf, which would spoil the scales of their neighbours, and for more
  ///         tokens than memory can hold.
  template <class K, class V>
  void append(const K& k_new, const V& v_new) {
    detail::require_token_matrix<K>();
    detail::require_token_matrix<V>();
    const auto k = view_of(k_new);
    const auto v = view_of(v_new);
    shape_.check_rows(k, v, size_);
    check_finite(k, "k_new");
    check_finite(v, "v_new");
    const Index n = k.rows;
    if (size_ + n > capacity_) reserve(std::max(size_ + n, std::min(2 * capacity_, shape_.most_tokens())));
    for (Index h = 0; h < shape_.n_kv_heads; ++h) {
      for (Index i = 0; i < n; ++i) {
        heads_[static_cast<std::size_t>(h)].append(
            [&](Index c) { return static_cast<float>(k(i, h * shape_.d + c)); },
            [&](Index c) { return static_cast<float>(v(i, h * shape_.d_v + c)); });
      }
    }
    size_ += n;
  }

  /// The tokens of one head, for the engine. Valid until the next append, reserve or truncate.
  detail::Int8Rows tokens(Index head) const {
    return heads_.empty() ? detail::Int8Head(shape_.d, shape_.d_v).rows()
                          : heads_[static_cast<std::size_t>(head)].rows();
  }

  /// The heads, for what writes and reads files (io/cache_file.hpp): all have `size` tokens.
  const std::vector<detail::Int8Head>& heads() const { return heads_; }
  void set_heads(std::vector<detail::Int8Head> heads, Index size) {
    heads_ = std::move(heads);
    size_ = size;
    capacity_ = size;
    probes_.clear();
  }

  /// What attend_within has learnt of each of `n_heads` query heads.
  std::vector<detail::ToleranceProbes>& probes(Index n_heads) {
    if (probes_.size() != static_cast<std::size_t>(n_heads)) probes_.assign(static_cast<std::size_t>(n_heads), {});
    return probes_;
  }

 private:
  template <class S>
  static void check_finite(const ConstView<S>& rows, const char* name) {
    for (Index i = 0; i < rows.rows; ++i) {
      for (Index c = 0; c < rows.cols; ++c) {
        if (!detail::is_finite(static_cast<float>(rows(i, c)))) {
          throw OptionError(detail::message("KeyValueCache: ", name, "(", i, ", ", c, ") = ",
                                            static_cast<double>(rows(i, c)), " must be a finite number of float"));
        }
      }
    }
  }
  detail::CacheShape shape_;
  Index size_ = 0, capacity_ = 0;
  std::vector<detail::Int8Head> heads_;
  std::vector<detail::ToleranceProbes> probes_;
};

}  // namespace heed
