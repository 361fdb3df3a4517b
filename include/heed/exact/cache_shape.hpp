#pragma once
#include <algorithm>

#include "heed/core/errors.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed::detail {

/// Widths and heads of a cache, and what its calls must satisfy whatever it stores.
struct CacheShape {
  Index d = 0, d_v = 0, n_kv_heads = 0;

  /// `d_v` = 0: as d.
  static CacheShape checked(Index d, Index d_v, Index n_kv_heads, Index capacity) {
    if (d < 1) throw OptionError(message("KeyValueCache: d = ", d, " must be >= 1"));
    if (d_v < 0) throw OptionError(message("KeyValueCache: d_v = ", d_v, " must be >= 1 (or 0: as d)"));
    if (n_kv_heads < 1) throw OptionError(message("KeyValueCache: n_kv_heads = ", n_kv_heads, " must be >= 1"));
    if (capacity < 0) throw OptionError(message("KeyValueCache: capacity = ", capacity, " must be >= 0"));
    checked_size(d, "KeyValueCache: d");
    checked_size(d_v, "KeyValueCache: d_v");
    checked_size(n_kv_heads, "KeyValueCache: n_kv_heads");
    const CacheShape shape{d, d_v == 0 ? d : d_v, n_kv_heads};
    if (!can_be_counted({n_kv_heads, std::max(d, shape.d_v)})) {
      throw OptionError(message("KeyValueCache: n_kv_heads = ", n_kv_heads, " of d = ", d, " and d_v = ", shape.d_v,
                                " must have at most 2^", number_bits, " numbers a token"));
    }
    return shape;
  }

  /// Tokens of which neither keys nor values have more numbers than memory can hold.
  Index most_tokens() const { return most_numbers / (n_kv_heads * std::max(d, d_v)); }
  void check_capacity(Index capacity) const {
    if (capacity > most_tokens()) refuse("capacity", capacity, most_tokens());
  }

  /// Throws where these cannot be appended to `size` tokens.
  template <class K, class V>
  void check_rows(const ConstView<K>& k_new, const ConstView<V>& v_new, Index size) const {
    check_cols(k_new.cols, d, "k_new", "d");
    check_cols(v_new.cols, d_v, "v_new", "d_v");
    if (k_new.rows != v_new.rows) {
      throw ShapeError(
          message("rows(k_new) = ", k_new.rows, " but rows(v_new) = ", v_new.rows, ": they must be equal"));
    }
    if (k_new.rows > most_tokens() - size) refuse("rows(k_new)", k_new.rows, most_tokens() - size);
  }

  void check_truncated(Index to, Index size) const {
    if (to < 0 || to > size) throw OptionError(message("KeyValueCache::truncate: size = ", to, " must be 0 .. ", size));
  }

 private:
  void check_cols(Index cols, Index width, const char* name, const char* width_name) const {
    if (cols != n_kv_heads * width) {
      throw ShapeError(
          message("cols(", name, ") = ", cols, " must be n_kv_heads * ", width_name, " = ", n_kv_heads * width));
    }
  }
  [[noreturn]] void refuse(const char* name, Index tokens, Index most) const {
    throw OptionError(message("KeyValueCache: ", name, " = ", tokens, " must be at most ", most,
                              ": memory holds no more tokens of n_kv_heads = ", n_kv_heads, ", d = ", d,
                              ", d_v = ", d_v));
  }
};

}  // namespace heed::detail
