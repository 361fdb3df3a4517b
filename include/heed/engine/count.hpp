#pragma once
#include <algorithm>
#include <type_traits>

#include "heed/core/floating.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// The rule of a pattern that has all pairs of its tiles.
struct EveryPair {
  constexpr bool operator()(Index, Index) const { return true; }
};

/// Pairs of `pattern` that the mask and `rule` keep for one head.
template <KeyPattern Pattern, class Rule = EveryPair>
double kept_pairs(const Pattern& pattern, const Mask& mask, Index n_q, Index n_k, Index head, const Rule& rule = {}) {
  constexpr bool every_pair = std::is_same_v<Rule, EveryPair>;
  const KeyBounds bounds(mask, n_q, n_k);
  const Index bias_row = mask.bias.rows() > n_q ? head * n_q : 0;
  const Index allowed_row = mask.allowed.rows() > n_q ? head * n_q : 0;
  double pairs = 0.0;
  for (Index g = 0; g < pattern.n_groups(); ++g) {
    const TokenSet queries = pattern.queries(g);
    for (Index t = 0; t < queries.size; ++t) {
      const Index i = queries[t];
      const KeyRange range = bounds.of(i);
      for (Index segment = 0; segment < pattern.n_segments(g); ++segment) {
        const TokenSet keys = pattern.keys(g, segment);
        const auto offset = [&](Index key) {
          if (keys.list == nullptr) return std::clamp(key - keys.first, Index(0), keys.size);
          return static_cast<Index>(std::lower_bound(keys.list, keys.list + keys.size, key) - keys.list);
        };
        const Index from = offset(range.low), to = offset(range.high);
        if (every_pair && !mask.bias.given() && !mask.allowed.given()) {
          pairs += static_cast<double>(std::max(to - from, Index(0)));
          continue;
        }
        for (Index j = from; j < to; ++j) {
          const bool forbidden = mask.allowed.given() && mask.allowed.at(allowed_row + i, keys[j]) == 0.0;
          const bool infinite = mask.bias.given() && is_minus_infinity(mask.bias.at(bias_row + i, keys[j]));
          pairs += forbidden || infinite || !rule(i, keys[j]) ? 0.0 : 1.0;
        }
      }
    }
  }
  return pairs;
}

/// Adds what softmax attention over `pattern` spends on heads first_head .. first_head + n_heads - 1.
template <KeyPattern Pattern, class Rule = EveryPair>
void count_attention(FlopCounter& flops, const Pattern& pattern, const Mask& mask, Index n_q, Index n_k, Index d,
                     Index d_v, Index first_head, Index n_heads, const Rule& rule = {}) {
  const bool alike = mask.bias.rows() <= n_q && mask.allowed.rows() <= n_q;
  double pairs = 0.0;
  if (alike) {
    pairs = static_cast<double>(n_heads) * kept_pairs(pattern, mask, n_q, n_k, first_head, rule);
  } else {
    for (Index h = first_head; h < first_head + n_heads; ++h) pairs += kept_pairs(pattern, mask, n_q, n_k, h, rule);
  }
  flops.add_products(Phase::scores, 2.0 * pairs * static_cast<double>(d));
  flops.add_products(Phase::values, 2.0 * pairs * static_cast<double>(d_v));
  flops.add_exponentials(pairs);
  const double real = static_cast<double>(std::min(mask.n_real_keys, n_k));
  flops.add_tokens(real * static_cast<double>(n_heads), static_cast<double>(n_k * n_heads));
}

}  // namespace heed::detail
