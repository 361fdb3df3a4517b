#pragma once
#include <cstdint>
#include <vector>

#include <heed/core/types.hpp>

namespace train_treeformer {

using heed::Index;

/// Sequences of n tokens, one after another, and what is asked of them.
struct Batch {
  Index n = 0;
  std::vector<std::vector<std::int32_t>> tokens;  ///< one list for each table of embeddings
  std::vector<std::int32_t> targets;              ///< one a token, or one a sequence; heed::no_target: not asked
};

}  // namespace train_treeformer
