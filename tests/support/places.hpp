#pragma once
#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/reference.hpp"
#include "support/method_case.hpp"

namespace heed::test {

/// Whether a pair is of one sequence, and where in it the key, the query's aligned diagonal and the query stand.
struct Place {
  bool together = false;
  Index key = 0;
  Index diagonal = 0;
  Index query_of_sequence = 0;
};
inline Place place_of(const Mask& mask, Index i, Index j, Index n_q, Index n_k) {
  const auto key_offsets = mask.key_sequence_offsets.empty() ? mask.sequence_offsets : mask.key_sequence_offsets;
  const auto of_query = heed::detail::reference_sequence(mask.sequence_offsets, i, n_q);
  const auto of_key = heed::detail::reference_sequence(key_offsets, j, n_k);
  if (of_query.number != of_key.number) return {};
  Index shift = mask.shift.value_or(0);
  if (mask.causal == Causal::bottom_right) {
    shift = (mask.key_lengths.empty() ? of_key.length : mask.key_lengths[0]) -
            (mask.query_lengths.empty() ? of_query.length : mask.query_lengths[0]);
  }
  return {true, j - of_key.first, i - of_query.first + shift, i - of_query.first};
}

template <class Keeps>
PairMatrix pairs_where(Index n_q, Index n_k, const Mask& mask, const Keeps& keeps) {
  PairMatrix pairs = PairMatrix::Constant(n_q, n_k, false);
  for (Index i = 0; i < n_q; ++i) {
    for (Index j = 0; j < n_k; ++j) {
      const Place place = place_of(mask, i, j, n_q, n_k);
      pairs(i, j) = place.together && keeps(place);
    }
  }
  return pairs;
}

}  // namespace heed::test
