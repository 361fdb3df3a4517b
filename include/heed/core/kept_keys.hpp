#pragma once
#include <algorithm>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// Which keys all parts of a mask together leave one query of one head: for code that decides pair by pair.
class KeptKeys {
 public:
  KeptKeys(const Mask& mask, Index n_q, Index n_k, Index head) : mask_(mask), bounds_(mask, n_q, n_k) {
    bias_row_ = mask.bias.rows() > n_q ? head * n_q : 0;
    allowed_row_ = mask.allowed.rows() > n_q ? head * n_q : 0;
  }

  const KeyBounds& bounds() const { return bounds_; }
  bool has_pairs() const { return mask_.allowed.given() || mask_.bias.given(); }

  /// The same for a key inside the range of query i.
  bool pair(Index i, Index key) const {
    if (mask_.allowed.given() && mask_.allowed.at(allowed_row_ + i, key) == 0.0) return false;
    return !mask_.bias.given() || !is_minus_infinity(mask_.bias.at(bias_row_ + i, key));
  }
  double bias(Index i, Index key) const { return mask_.bias.given() ? mask_.bias.at(bias_row_ + i, key) : 0.0; }

  /// True when query i, whose range is `range`, keeps one of `keys`.
  bool any(const TokenSet& keys, Index i, const KeyRange& range) const {
    if (keys.size == 0) return false;
    if (!has_pairs()) {
      const Index front = keys[0], back = keys[keys.size - 1];
      if (front >= range.low && front < range.high) return true;
      if (back < range.low || front >= range.high) return false;
    }
    const Index end = tokens_below(keys, range.high);
    for (Index t = tokens_below(keys, range.low); t < end; ++t) {
      if (pair(i, keys[t])) return true;
    }
    return false;
  }

 private:
  const Mask& mask_;
  KeyBounds bounds_;
  Index bias_row_ = 0, allowed_row_ = 0;
};

}  // namespace heed::detail
