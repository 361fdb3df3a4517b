#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "heed/approx/detail/query_blocks.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/random.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed {

/// Which blocks of keys a block of queries sees.
struct BigBirdOptions {
  Index block = 64;        ///< tokens of a block; 1 .. 2^40. As published
  Index n_near = 1;        ///< blocks on each side of a query's own; 0 .. 2^40. As published: a window of 3
  Index n_global = 2;      ///< first blocks, seen by all and seeing all; 0 .. 2^40. As published
  Index n_random = 3;      ///< further blocks, drawn for each block of queries; 0 .. 2^40. As published
  std::uint64_t seed = 0;  ///< same seed, same blocks
};

namespace detail {

/// The run of queries from i on, at most to `end`, whose diagonals share a block of keys.
struct DiagonalBlock {
  Index block = 0;  // of the sequence; negative where the diagonal lies before its first key
  Index end = 0;
};

inline Index floor_divide(Index a, Index b) { return a >= 0 ? a / b : -((-a + b - 1) / b); }

inline DiagonalBlock diagonal_block(const KeyRange& range, Index i, Index end, Index size) {
  const Index offset = range.diagonal - range.low, block = floor_divide(offset, size);
  return {block, std::min(end, i + (block + 1) * size - offset)};
}

/// Marks n_random of the unmarked blocks among [0, n), or all of them where there are no more. Returns how many it
/// marked.
inline Index draw_blocks(bool* marked, Index n, Index n_random, CounterRng rng) {
  Index free = 0;
  for (Index b = 0; b < n; ++b) free += marked[b] ? 0 : 1;
  const Index drawn = std::min(free, n_random);
  // Each of the free blocks in turn, with the chance that makes every choice equally likely.
  for (Index b = 0, left = drawn; b < n && left > 0; ++b) {
    if (marked[b]) continue;
    if (rng.below(free--) >= left) continue;
    marked[b] = true;
    --left;
  }
  return drawn;
}

/// The tiles of BigBirdAttention: neighbouring blocks of keys are joined to one segment.
inline TileList bigbird_tiles(const BigBirdOptions& options, const Mask& mask, Index n_q, Index n_k,
                              Workspace::Frame& frame) {
  const Index size = options.block;
  const OwnKeys own(mask, n_q, n_k);
  const bool causal = mask.causal != Causal::none;
  const Index n_sequences = query_blocks(mask, n_q, std::max<Index>(1, n_q), nullptr);
  Index* start = frame.take<Index>(n_sequences + 1);
  query_blocks(mask, n_q, std::max<Index>(1, n_q), start);

  Index n_groups = 0;
  for (Index s = 0; s < n_sequences; ++s) {
    for (Index i = start[s]; i < start[s + 1]; ++n_groups) i = diagonal_block(own.of(i), i, start[s + 1], size).end;
  }
  // Runs of blocks: global, near, and single ones; between two of them a block is left out.
  const Index most = std::min(2 * options.n_near + 1 + options.n_random + 1, n_k / size / 2 + 2);
  TokenSet* queries = frame.take<TokenSet>(n_groups);
  TokenSet* segments =
      frame.take<TokenSet>(checked_product("BigBirdAttention: groups times runs of blocks", {n_groups, most}));
  Index* first_segment = frame.take<Index>(n_groups + 1);
  bool* marked = frame.take<bool>(n_k / size + 1);

  Index group = 0, at = 0;
  for (Index s = 0; s < n_sequences; ++s) {
    for (Index i = start[s]; i < start[s + 1];) {
      const DiagonalBlock mine = diagonal_block(own.of(i), i, start[s + 1], size);
      const KeyRange range = own.of(mine.end - 1);  // of the last query, whose bounds are the largest
      const Index n_keys = range.high - range.low, n_blocks = (n_keys + size - 1) / size;
      const auto near = [&](Index b) { return std::abs(b - mine.block) <= options.n_near; };
      for (Index b = 0; b < n_blocks; ++b) marked[b] = b < options.n_global || mine.block < options.n_global || near(b);
      const Index pool = causal ? std::clamp<Index>(mine.block, 0, n_blocks) : n_blocks;
      const auto stream = static_cast<std::uint64_t>(mine.block);
      draw_blocks(marked, pool, options.n_random, CounterRng(options.seed, stream));
      queries[group] = {i, mine.end - i};
      first_segment[group++] = at;
      for (Index b = 0, end = 0; b < n_blocks; b = end + 1) {
        for (end = b; end < n_blocks && marked[end];) ++end;
        if (end == b) continue;
        segments[at++] = {range.low + b * size, std::min(end * size, n_keys) - b * size};
      }
      if (at == first_segment[group - 1]) segments[at++] = {0, 0};  // no keys at all
      i = mine.end;
    }
  }
  first_segment[group] = at;
  return {group, queries, first_segment, segments};
}

}  // namespace detail
}  // namespace heed
