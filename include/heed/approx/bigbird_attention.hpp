#pragma once
#include <span>

#include "heed/approx/bigbird_tiles.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/options.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"

namespace heed {

/// BigBird's sparse attention in blocks: the queries of a block see the blocks of keys next to their own, the first
/// ones, and some drawn at random; the first blocks of queries see every key. Softmax over those keys that the mask
/// keeps. Blocks are cut from the first key of each sequence; a query belongs to the block its aligned diagonal falls
/// in. Under a causal mask random blocks come from the past only.
///
/// Shapes  as attend.
/// Empty   a query with no kept key gets out = 0 and lse = -inf, or its sink.
/// Errors  as attend; OptionError for block < 1, a negative number of blocks, or any of them past 2^40.
/// Cost    2 (d + d_v) flops and one exponential per kept pair, about n_q block (2 n_near + 1 + n_global + n_random)
///         pairs.
/// Threads const and re-entrant; results do not depend on context.threads. Draws are a pure function of (seed, block),
///         alike for all heads.
/// Source  Zaheer et al. 2020 (BigBird), section 2 and appendix D (blocks).
class BigBirdAttention {
 public:
  static constexpr bool has_softmax = true;
  static constexpr bool reads_no_keys = true;

  explicit BigBirdAttention(const BigBirdOptions& options = {}) : options_(options) {
    const auto check = [](Index value, const char* name, Index least) {
      if (value < least)
        throw OptionError(detail::message("BigBirdOptions::", name, " = ", value, " must be >= ", least));
      if (value > detail::most_size) {
        throw OptionError(detail::message("BigBirdOptions::", name, " = ", value, " must be at most 2^",
                                          detail::size_bits, " = ", detail::most_size));
      }
    };
    check(options.block, "block", 1);
    check(options.n_near, "n_near", 0);
    check(options.n_global, "n_global", 0);
    check(options.n_random, "n_random", 0);
  }

  const BigBirdOptions& options() const { return options_; }

  /// See core/method.hpp.
  template <class Call>
  detail::Pairs pairs(std::span<const Call> calls, Index, const AttentionOptions& options, const Context&,
                      Workspace::Frame& frame) const {
    detail::Pairs pairs(frame);
    pairs.add_part(pairs.add_group(0, static_cast<Index>(calls.size())),
                   detail::bigbird_tiles(options_, options.mask, calls.front().q.rows, calls.front().k.rows, frame));
    return pairs;
  }

 private:
  BigBirdOptions options_;
};

}  // namespace heed
