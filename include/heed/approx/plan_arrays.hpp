#pragma once
#include <algorithm>

#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// How many products every token of every key head gets, and what that was decided from. Arrays lie in a workspace; entry (kv, j) of
/// those of all heads is at [kv * n_k + j].
template <class T>
struct PlanArrays {
  Index n_k = 0, n_kv = 0, d_in = 0, n_sequences = 1;
  bool centred = false;
  Index* sequence = nullptr;      ///< of each token
  T* x_norm = nullptr;            ///< |x_j|, or |x_j - mean| where centred; not finite where the row is not
  T* means = nullptr;             ///< mean row of each sequence over its kept tokens; n_sequences x d_in
  T* largest = nullptr;           ///< (kv, j): max_i A_ij; 0 where the budget needs no weights
  T* norm = nullptr;              ///< (kv, j): |A[:, j]|_2, likewise
  unsigned char* kept = nullptr;  ///< (kv, j): some query sees it
  Index* counts = nullptr;        ///< (kv, j): r_j; d_in means the exact product
  T* floors = nullptr;            ///< (kv, j): least |x_jk| |W_k| among the r_j largest, where the budget knows; else 0
};

/// Marks the keys that some query of `pattern` sees through the mask of one head; `kept` starts at 0.
template <KeyPattern Pattern>
void mark_kept_keys(const Pattern& pattern, const Mask& mask, Index n_q, Index n_k, Index head, unsigned char* kept) {
  const KeyBounds bounds(mask, n_q, n_k);
  const bool pairs = mask.allowed.given() || mask.bias.given();
  const Index bias_row = mask.bias.rows() > n_q ? head * n_q : 0;
  const Index allowed_row = mask.allowed.rows() > n_q ? head * n_q : 0;
  for (Index g = 0; g < pattern.n_groups(); ++g) {
    const TokenSet queries = pattern.queries(g);
    for (Index s = 0; s < pattern.n_segments(g); ++s) {
      const TokenSet keys = pattern.keys(g, s);
      const auto offset = [&](Index key) {
        if (keys.list == nullptr) return std::clamp(key - keys.first, Index(0), keys.size);
        return static_cast<Index>(std::lower_bound(keys.list, keys.list + keys.size, key) - keys.list);
      };
      Index done = 0;  // ends of ranges of consecutive queries do not decrease
      for (Index t = 0; t < queries.size; ++t) {
        const Index i = queries[t];
        const KeyRange range = bounds.of(i);
        const Index to = offset(range.high);
        for (Index at = pairs ? offset(range.low) : std::max(done, offset(range.low)); at < to; ++at) {
          unsigned char& mark = kept[keys[at]];
          if (mark != 0) continue;
          const bool forbidden = mask.allowed.given() && mask.allowed.at(allowed_row + i, keys[at]) == 0.0;
          const bool infinite = mask.bias.given() && is_minus_infinity(mask.bias.at(bias_row + i, keys[at]));
          mark = forbidden || infinite ? 0 : 1;
        }
        done = std::max(done, to);
      }
    }
  }
}

}  // namespace heed::detail
