#pragma once
#include "heed/core/macros_away.inl"

#include <cstdint>
#include <vector>

#include "heed/core/types.hpp"

namespace heed {

/// Sequences of equally many tokens, and what is asked of them.
struct Batch {
  std::vector<std::vector<std::int32_t>> tokens{};  ///< of each embedding table: n_sequences n numbers
  std::vector<std::int32_t> targets{};              ///< one a row of logits, or no_target
  Index n = 0;                                      ///< tokens of a sequence; >= 1
};

}  // namespace heed

#include "heed/core/macros_back.inl"
