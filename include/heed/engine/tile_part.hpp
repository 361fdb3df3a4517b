#pragma once
#include "heed/core/types.hpp"

namespace heed::detail {

/// A run of keys of one tile against some vectors of a panel of queries.
struct TilePart {
  Index at;      ///< first key of the tile, and first row of scores
  Index n_keys;  ///< keys
  Index first;   ///< first query vector it touches
  Index count;   ///< query vectors it touches
  bool partial;  ///< some pair is masked: value rows may hold NaN that must not spread
};

}  // namespace heed::detail
