#pragma once
#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>

#include "heed/core/errors.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/present_keys.hpp"

namespace heed::detail {

/// One packed sequence, or the whole call, as methods see it that sum keys up: `keys` are those that are there and that
/// some query sees, and query i sees those up to i + shift under a causal mask, all of them without one.
struct FeatureSequence {
  Index q_first = 0, q_end = 0;
  TokenSet keys{};
  Index shift = 0;
  bool causal = false;

  /// Under a causal mask: the first query that sees key number t; of keys.size: one past the diagonal of the last key.
  Index query_of(Index t) const { return (t < keys.size ? keys[t] : keys[t - 1] + 1) - shift; }
  /// Under a causal mask: how many keys query i sees.
  Index seen_by(Index i) const { return tokens_below(keys, i + shift + 1); }

  /// The first query that sees a key; those behind it see one too.
  Index first_seeing() const {
    if (keys.size == 0) return q_end;
    return causal ? std::clamp(query_of(0), q_first, q_end) : q_first;
  }
};

/// Calls visit(sequence) for every packed sequence that has queries, or once. Lists of keys live as long as `frame`.
template <class Visit>
void visit_feature_sequences(const Mask& mask, Index n_q, Index n_k, Workspace::Frame& frame, const Visit& visit) {
  std::optional<PresentKeys> present;
  if (mask.keys.given()) present.emplace(mask.keys, n_k, frame);
  const auto one = [&](Index q_first, Index q_end, Index k_first, Index k_last) {
    if (q_first == q_end) return;
    FeatureSequence sequence{q_first, q_end};
    sequence.causal = mask.causal != Causal::none;
    sequence.shift = k_first - q_first + mask.shift.value_or(0);
    if (mask.causal == Causal::bottom_right) sequence.shift += (k_last - k_first) - (q_end - q_first);
    Index k_end = std::max(k_first, std::min(k_last, mask.n_real_keys));
    if (sequence.causal) k_end = std::clamp(q_end + sequence.shift, k_first, k_end);
    sequence.keys = {k_first, k_end - k_first};
    if (present) sequence.keys = present->of(sequence.keys);
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
inline FeatureTokens count_feature_tokens(const Mask& mask, Index n_q, Index n_k, Workspace& workspace) {
  FeatureTokens tokens;
  Workspace::Frame frame(workspace);
  visit_feature_sequences(mask, n_q, n_k, frame, [&](const FeatureSequence& sequence) {
    tokens.keys += static_cast<double>(sequence.keys.size);
    tokens.queries += static_cast<double>(sequence.q_end - sequence.first_seeing());
  });
  return tokens;
}

}  // namespace heed::detail
