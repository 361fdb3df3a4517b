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
  KeptKeys(const Mask& mask, Index n_q, Index n_k, Index head)
      : bounds_(mask, n_q, n_k),
        keys_(mask.keys),
        allowed_(mask.allowed.of_head(head, n_q)),
        bias_(mask.bias.of_head(head, n_q)) {}

  const KeyBounds& bounds() const { return bounds_; }
  /// True where a key may be kept by one query and not by another whose range it is in.
  bool has_pairs() const { return allowed_.given() || bias_.given(); }

  /// The same for a key inside the range of query i.
  bool pair(Index i, Index key) const {
    if (keys_.given() && keys_.at(0, key) == 0.0) return false;
    if (allowed_.given() && allowed_.at(i, key) == 0.0) return false;
    return !bias_.given() || !is_minus_infinity(bias_.at(i, key));
  }
  double bias(Index i, Index key) const { return bias_.given() ? bias_.at(i, key) : 0.0; }

  /// True when query i, whose range is `range`, keeps one of `keys`.
  bool any(const TokenSet& keys, Index i, const KeyRange& range) const {
    if (keys.size == 0) return false;
    if (!has_pairs() && !keys_.given()) {
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
  KeyBounds bounds_;
  BoolView keys_, allowed_;
  BiasView bias_;
};

/// Flags every key that some query keeps, and leaves the flags of the others alone. It ends once it has set `most`
/// flags: the number of keys that could be kept.
template <class Flag>
void flag_kept_keys(const KeptKeys& kept, Index n_q, Flag* flags, Index most) {
  Index done = 0;  // ends of ranges do not decrease: keys below `done` are decided, unless pairs decide
  for (Index i = 0; i < n_q && most > 0; ++i) {
    const KeyRange range = kept.bounds().of(i);
    for (Index j = kept.has_pairs() ? range.low : std::max(range.low, done); j < range.high; ++j) {
      if (flags[j] != 0 || !kept.pair(i, j)) continue;
      flags[j] = 1;
      --most;
    }
    done = std::max(done, range.high);
  }
}

}  // namespace heed::detail
