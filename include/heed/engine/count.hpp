#pragma once
#include <algorithm>

#include "heed/core/flops.hpp"
#include "heed/core/kept_keys.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/pair_rule.hpp"

namespace heed::detail {

/// Pairs of `tiles` that the mask and the rule keep for one head.
inline double kept_pairs(const TileList& tiles, const PairRule& rule, const Mask& mask, Index n_q, Index n_k,
                         Index head) {
  const KeptKeys kept(mask, n_q, n_k, head);
  double pairs = 0.0;
  for (Index g = 0; g < tiles.n_groups(); ++g) {
    const TokenSet queries = tiles.queries(g);
    for (Index t = 0; t < queries.size; ++t) {
      const Index i = queries[t];
      const KeyRange range = kept.bounds().of(i);
      for (Index segment = 0; segment < tiles.n_segments(g); ++segment) {
        const TokenSet keys = tiles.keys(g, segment);
        const Index from = tokens_below(keys, range.low), to = tokens_below(keys, range.high);
        if (rule.every_pair() && !kept.has_pairs()) {
          pairs += static_cast<double>(std::max(to - from, Index(0)));
          continue;
        }
        for (Index j = from; j < to; ++j) pairs += kept.pair(i, keys[j]) && rule(i, keys[j]) ? 1.0 : 0.0;
      }
    }
  }
  return pairs;
}

/// The same for heads first_head .. first_head + n_heads - 1 together.
inline double kept_pairs(const TileList& tiles, const PairRule& rule, const Mask& mask, Index n_q, Index n_k,
                         Index first_head, Index n_heads) {
  const bool alike = !mask.bias.by_head(n_q) && !mask.allowed.by_head(n_q);
  if (alike) return static_cast<double>(n_heads) * kept_pairs(tiles, rule, mask, n_q, n_k, first_head);
  double pairs = 0.0;
  for (Index h = first_head; h < first_head + n_heads; ++h) pairs += kept_pairs(tiles, rule, mask, n_q, n_k, h);
  return pairs;
}

/// Counts what softmax attention spends on `pairs` pairs.
inline void count_attention(FlopCounter& flops, double pairs, Index d, Index d_v) {
  flops.add_products(Phase::scores, 2.0 * pairs * static_cast<double>(d));
  flops.add_products(Phase::values, 2.0 * pairs * static_cast<double>(d_v));
  flops.add_exponentials(pairs);
}

/// Counts the key positions of `n_heads` heads.
inline void count_tokens(FlopCounter& flops, const Mask& mask, Index n_k, Index n_heads) {
  const double heads = static_cast<double>(n_heads);
  flops.add_tokens(heads * static_cast<double>(std::min(mask.n_real_keys, n_k)), heads * static_cast<double>(n_k));
}

}  // namespace heed::detail
