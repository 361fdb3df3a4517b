#pragma once
#include <algorithm>

#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// True where the mask says how many tokens are real.
inline bool has_lengths(const Mask& mask) { return !mask.key_lengths.empty() || !mask.query_lengths.empty(); }

/// The options of entry `entry` of a batch.
inline AttentionOptions options_of_entry(AttentionOptions options, Index entry) {
  Mask& mask = options.mask;
  mask.allowed = mask.allowed.of_entry(entry);
  mask.bias = mask.bias.of_entry(entry);
  if (mask.keys.rows() > 1) mask.keys = mask.keys.of_row(entry);
  for (SequenceOffsets* lengths : {&mask.key_lengths, &mask.query_lengths}) {
    if (!lengths->empty()) *lengths = lengths->subspan(static_cast<std::size_t>(entry), 1);
  }
  return options;
}

/// A call without lengths: its options, and its real queries, which come first.
struct RealTokens {
  AttentionOptions options;
  Index n_q = 0;
};

/// A call of one entry, of n_q queries and n_k keys in n_heads heads, whose options have passed check_options, cut to
/// its real tokens.
inline RealTokens real_tokens_of(const AttentionOptions& given, Index n_q, Index n_k, Index n_heads) {
  RealTokens real{given, n_q};
  Mask& mask = real.options.mask;
  if (!has_lengths(mask)) return real;
  const Index key_length = mask.key_lengths.empty() ? n_k : mask.key_lengths[0];
  if (!mask.query_lengths.empty()) real.n_q = mask.query_lengths[0];
  mask.n_real_keys = std::min(mask.n_real_keys, key_length);
  if (mask.causal == Causal::bottom_right) mask.shift = key_length - real.n_q;
  if (mask.causal != Causal::none) mask.causal = Causal::top_left;
  mask.allowed = mask.allowed.of_queries(real.n_q, n_q, n_heads);
  mask.bias = mask.bias.of_queries(real.n_q, n_q, n_heads);
  mask.key_lengths = mask.query_lengths = SequenceOffsets();
  return real;
}

}  // namespace heed::detail
