#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/cache_shape.hpp"

namespace heed {

/// What a KeyValueCache may hold its tokens in.
template <class S>
concept CacheStorage = RealScalar<S> || std::is_same_v<S, Int8>;

/// Keys and values of the tokens decoded so far, growing by `append`; stored head by head, so that decoding streams
/// them. Storage scalar S: float, double, Eigen::half or Eigen::bfloat16 (half the bytes, so up to twice the speed of
/// decoding), or heed::Int8 (int8_cache.hpp). A call that throws, std::bad_alloc included, leaves the cache as it was.
/// One that was moved from is empty.
template <CacheStorage S>
class KeyValueCache {
 public:
  /// d: width of a key head; d_v: of a value head (default d); n_kv_heads heads; room for `capacity` tokens at once.
  /// Errors  OptionError for widths or heads below 1, a negative capacity, or more of them than memory can hold.
  explicit KeyValueCache(Index d, Index d_v = 0, Index n_kv_heads = 1, Index capacity = 0)
      : shape_(detail::CacheShape::checked(d, d_v, n_kv_heads, capacity)) {
    reserve(capacity);
  }
  KeyValueCache(const KeyValueCache&) = default;
  KeyValueCache(KeyValueCache&& other) noexcept
      : shape_(other.shape_), size_(std::exchange(other.size_, 0)), rows_(std::exchange(other.rows_, Rows())) {}
  KeyValueCache& operator=(KeyValueCache other) {  // by value: what may throw is over
    shape_ = other.shape_;
    size_ = other.size_;
    rows_ = std::move(other.rows_);
    return *this;
  }

  Index size() const { return size_; }               ///< tokens held
  Index capacity() const { return rows_.capacity; }  ///< tokens it has room for
  Index d() const { return shape_.d; }
  Index d_v() const { return shape_.d_v; }
  Index n_kv_heads() const { return shape_.n_kv_heads; }
  /// Memory of all tokens, with room for capacity().
  std::size_t bytes() const { return (rows_.keys.size() + rows_.values.size()) * sizeof(S); }

  /// Makes room for `capacity` tokens.
  /// Errors  OptionError for more than memory can hold.
  void reserve(Index capacity) {
    if (capacity > rows_.capacity) rows_ = grown(capacity);
  }

  /// Forgets the tokens from position `size` on; the memory stays.
  void truncate(Index size) {
    shape_.check_truncated(size, size_);
    size_ = size;
  }
  void clear() { size_ = 0; }

  /// Adds tokens. k_new: n x (n_kv_heads * d), v_new: n x (n_kv_heads * d_v), rounded to S; they may be rows of the
  /// cache itself. Amortised O(n) copies.
  /// Errors  ShapeError; OptionError for more tokens than memory can hold.
  template <class K, class V>
  void append(const K& k_new, const V& v_new) {
    detail::require_token_matrix<K>();
    detail::require_token_matrix<V>();
    shape_.check_rows(view_of(k_new), view_of(v_new), size_);
    const Index n = k_new.rows();
    const bool fits = size_ + n <= rows_.capacity;
    if (fits && !lies_here(view_of(k_new)) && !lies_here(view_of(v_new))) {
      store(view_of(k_new), view_of(v_new), rows_);
    } else {  // the old rows stay until the new ones are read
      const Index doubled = std::min(2 * rows_.capacity, shape_.most_tokens());
      Rows more = grown(fits ? rows_.capacity : std::max(size_ + n, doubled));
      store(view_of(k_new), view_of(v_new), more);
      rows_ = std::move(more);
    }
    size_ += n;
  }

  /// Keys and values of one head: size() x d and size() x d_v. Valid until the next append or reserve.
  ConstView<S> keys(Index head) const {
    return {rows_.keys.data() + head * rows_.capacity * shape_.d, size_, shape_.d, shape_.d, 1};
  }
  ConstView<S> values(Index head) const {
    return {rows_.values.data() + head * rows_.capacity * shape_.d_v, size_, shape_.d_v, shape_.d_v, 1};
  }

 private:
  struct Rows {
    std::vector<S> keys, values;  // n_kv_heads x capacity x d, and x d_v
    Index capacity = 0;
  };

  // The rows held, with room for `capacity` tokens.
  Rows grown(Index capacity) const {
    shape_.check_capacity(capacity);
    Rows more;
    more.keys.resize(static_cast<std::size_t>(shape_.n_kv_heads * capacity * shape_.d));
    more.values.resize(static_cast<std::size_t>(shape_.n_kv_heads * capacity * shape_.d_v));
    more.capacity = capacity;
    for (Index h = 0; h < shape_.n_kv_heads; ++h) {
      std::copy_n(rows_.keys.data() + h * rows_.capacity * shape_.d, size_ * shape_.d,
                  more.keys.data() + h * capacity * shape_.d);
      std::copy_n(rows_.values.data() + h * rows_.capacity * shape_.d_v, size_ * shape_.d_v,
                  more.values.data() + h * capacity * shape_.d_v);
    }
    return more;
  }

  // True where some of the rows may be the cache's own memory.
  template <class From>
  bool lies_here(const ConstView<From>& from) const {
    if (from.rows == 0 || from.cols == 0) return false;
    const auto place = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p); };
    const auto [first, last] =
        std::minmax({place(&from(0, 0)), place(&from(from.rows - 1, 0)), place(&from(0, from.cols - 1)),
                     place(&from(from.rows - 1, from.cols - 1))});
    for (const std::vector<S>* own : {&rows_.keys, &rows_.values}) {
      if (first < place(own->data() + own->size()) && last >= place(own->data())) return true;
    }
    return false;
  }

  template <class From>
  void store_rows(const ConstView<From>& rows, std::vector<S>& to, Index capacity, Index width) const {
    for (Index h = 0; h < shape_.n_kv_heads; ++h) {
      S* at = to.data() + (h * capacity + size_) * width;
      for (Index i = 0; i < rows.rows; ++i) {
        for (Index c = 0; c < width; ++c) *at++ = static_cast<S>(rows(i, h * width + c));
      }
    }
  }
  template <class FromK, class FromV>
  void store(const ConstView<FromK>& k, const ConstView<FromV>& v, Rows& to) const {
    store_rows(k, to.keys, to.capacity, shape_.d);
    store_rows(v, to.values, to.capacity, shape_.d_v);
  }

  detail::CacheShape shape_;
  Index size_ = 0;
  Rows rows_;
};

}  // namespace heed
