#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/core/errors.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// One packed sequence, or the whole call, as methods see it that sum keys up: keys [k_first, k_end) are those that
/// some query sees, and query i sees those up to i + shift under a causal mask, all of them without one.
struct FeatureSequence {
  Index q_first = 0, q_end = 0;
  Index k_first = 0, k_end = 0;
  Index shift = 0;
  bool causal = false;

  /// The first query that sees a key; those behind it see one too.
  Index first_seeing() const {
    if (k_end == k_first) return q_end;
    return causal ? std::clamp(k_first - shift, q_first, q_end) : q_first;
  }
};

/// Calls visit(sequence) for every packed sequence that has queries, or once.
template <class Visit>
void visit_feature_sequences(const Mask& mask, Index n_q, Index n_k, const Visit& visit) {
  const auto one = [&](Index q_first, Index q_end, Index k_first, Index k_last) {
    if (q_first == q_end) return;
    FeatureSequence sequence{q_first, q_end, k_first, std::max(k_first, std::min(k_last, mask.n_real_keys))};
    sequence.causal = mask.causal != Causal::none;
    sequence.shift = k_first - q_first + mask.shift.value_or(0);
    if (mask.causal == Causal::bottom_right) sequence.shift += (k_last - k_first) - (q_end - q_first);
    if (sequence.causal) sequence.k_end = std::clamp(q_end + sequence.shift, k_first, sequence.k_end);
    visit(sequence);
  };
  const std::span<const Index> q_offsets = mask.sequence_offsets;
  const std::span<const Index> k_offsets = mask.key_sequence_offsets.empty() ? q_offsets : mask.key_sequence_offsets;
  if (q_offsets.empty()) one(0, n_q, 0, n_k);
  for (std::size_t b = 1; b < q_offsets.size(); ++b)
    one(q_offsets[b - 1], q_offsets[b], k_offsets[b - 1], k_offsets[b]);
}

/// Keys that some query sees, and queries that see a key.
struct FeatureTokens {
  double keys = 0, queries = 0;
};
inline FeatureTokens count_feature_tokens(const Mask& mask, Index n_q, Index n_k) {
  FeatureTokens tokens;
  visit_feature_sequences(mask, n_q, n_k, [&](const FeatureSequence& sequence) {
    tokens.keys += static_cast<double>(sequence.k_end - sequence.k_first);
    tokens.queries += static_cast<double>(sequence.q_end - sequence.first_seeing());
  });
  return tokens;
}

}  // namespace heed::detail
