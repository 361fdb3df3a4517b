#pragma once
#include "heed/core/types.hpp"

namespace heed::detail {

/// A run of keys of one tile against some vectors of a panel of queries.
struct TilePart {
  Index at = 0;          ///< first key of the tile, and first row of scores
  Index n_keys = 0;      ///< keys
  Index first = 0;       ///< first query vector it touches
  Index count = 0;       ///< query vectors it touches
  bool partial = false;  ///< some pair may be masked: value rows may hold NaN that must not spread
};

}  // namespace heed::detail
