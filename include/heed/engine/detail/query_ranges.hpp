#pragma once
#include <algorithm>

#include "heed/core/key_bounds.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Of the keys of a tile, counted from its first: where ranges of a panel's queries begin and end. Keys [low_most,
/// high_least) lie in every query's range, keys outside [low_least, high_most) in none.
struct RangeEnds {
  Index low_least = 0, low_most = 0, high_least = 0, high_most = 0;
};

/// The range of keys that causal masks, windows, padding and sequences leave to each query of a panel, and the place
/// of its diagonal. Lanes behind the last query repeat it: their results are not written.
template <class T>
class QueryRanges {
 public:
  QueryRanges(Scratch& scratch, Index vectors, Index lanes) : lanes_(lanes) {
    const Index width = vectors * lanes;
    diagonal_ = scratch.take<T>(width);
    low_ = scratch.take<Index>(width);
    high_ = scratch.take<Index>(width);
  }

  /// Starts on `vectors` vectors of `queries`. `placed`: diagonal() is wanted even where nothing else needs it.
  void begin(const TokenSet& queries, Index vectors, const KeyBounds& bounds, bool placed) {
    vectors_ = vectors;
    const Index width = vectors * lanes_;
    if (bounds.unlimited() && !placed) {  // no query needs a range or place of its own
      const KeyRange range = bounds.of(queries[0]);
      ends_ = {range.low, range.low, range.high, range.high};
      std::fill(low_, low_ + width, range.low);
      std::fill(high_, high_ + width, range.high);
      std::fill(diagonal_, diagonal_ + width, T(0));
      return;
    }
    bounds.visit(queries, [&](Index i, const KeyRange& range) {
      low_[i] = range.low;
      high_[i] = range.high;
      diagonal_[i] = static_cast<T>(range.diagonal);
    });
    for (Index i = queries.size; i < width; ++i) {
      low_[i] = low_[queries.size - 1];
      high_[i] = high_[queries.size - 1];
      diagonal_[i] = diagonal_[queries.size - 1];
    }
    ends_ = {*std::min_element(low_, low_ + width), *std::max_element(low_, low_ + width),
             *std::min_element(high_, high_ + width), *std::max_element(high_, high_ + width)};
  }

  /// The key on each query's diagonal.
  const T* diagonal() const { return diagonal_; }
  /// Key positions [low, high) outside which no query looks.
  Index low() const { return ends_.low_least; }
  Index high() const { return ends_.high_most; }
  bool all_see(const TokenSet& keys) const {
    return keys[0] >= ends_.low_most && keys[keys.size - 1] < ends_.high_least;
  }
  bool none_sees(const TokenSet& keys) const {
    return keys[0] >= ends_.high_most || keys[keys.size - 1] < ends_.low_least;
  }

  /// Cuts the ranges to the keys of a tile: low[i] and high[i] count from its first key.
  RangeEnds cut(const TokenSet& keys, T* low, T* high) {
    RangeEnds ends{keys.size, 0, keys.size, 0};
    Index low_before = 0, high_before = 0;
    for (Index u = 0; u < vectors_; ++u) {
      Index& vector_low = vector_low_[u] = keys.size;
      Index& vector_high = vector_high_[u] = 0;
      for (Index i = u * lanes_; i < (u + 1) * lanes_; ++i) {
        const Index from = low_before = offset_of(low_[i], keys, low_before);
        const Index to = std::max(from, high_before = offset_of(high_[i], keys, high_before));
        low[i] = static_cast<T>(from);
        high[i] = static_cast<T>(to);
        ends.low_most = std::max(ends.low_most, from);
        ends.high_least = std::min(ends.high_least, to);
        if (from == to) continue;
        vector_low = std::min(vector_low, from);
        vector_high = std::max(vector_high, to);
      }
      ends.low_least = std::min(ends.low_least, vector_low);
      ends.high_most = std::max(ends.high_most, vector_high);
    }
    return ends;
  }

  /// Whether some query of vector u sees some of the keys [from, to) of the tile cut to last.
  bool vector_sees(Index u, Index from, Index to) const { return vector_low_[u] < to && from < vector_high_[u]; }

 private:
  static constexpr Index max_vectors = 3;

  // Number of keys of the tile below position `key`, not less than `before`: the bounds of consecutive queries do not
  // decrease.
  static Index offset_of(Index key, const TokenSet& keys, Index before) {
    if (keys.list == nullptr) return std::clamp(key - keys.first, Index(0), keys.size);
    while (before < keys.size && keys.list[before] < key) ++before;
    return before;
  }

  Index lanes_, vectors_ = 0;
  T* diagonal_;
  Index *low_, *high_;
  RangeEnds ends_;  // in positions of the call
  Index vector_low_[max_vectors] = {}, vector_high_[max_vectors] = {};
};

}  // namespace heed::detail
