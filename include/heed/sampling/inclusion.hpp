#pragma once
#include <cstdint>
#include <span>

#include "heed/core/types.hpp"

namespace heed {

/// Inclusion probabilities in proportion to size for samples of `count` different indices: pi_k = min(1, c size_k),
/// with c such that they sum to `count`. An index whose share exceeds 1 is taken for certain, and the rest is shared
/// among the others. An index of size 0 is never taken, so fewer than `count` are taken where fewer have a size.
///
/// Shapes  sizes, pi: n entries each, sizes >= 0 and finite; count in 0 .. n.
/// Cost    O(n) for each round of capping, few rounds.
/// Source  Horvitz and Thompson 1952; Tille 2006, "Sampling algorithms", section 2.10.
template <class T>
void inclusion_probabilities(std::span<const T> sizes, Index count, std::span<T> pi) {
  double rest = 0;  // sum of the sizes that are not capped
  Index positive = 0;
  for (const T size : sizes) {
    rest += static_cast<double>(size);
    positive += size > 0 ? 1 : 0;
  }
  if (count >= positive) {
    for (std::size_t k = 0; k < sizes.size(); ++k) pi[k] = sizes[k] > 0 ? T(1) : T(0);
    return;
  }
  double factor = static_cast<double>(count) / rest;
  for (Index capped = 0;;) {
    Index certain = 0;
    double below = 0;
    for (const T size : sizes) {
      const bool full = static_cast<double>(size) * factor >= 1;
      certain += full ? 1 : 0;
      below += full ? 0.0 : static_cast<double>(size);
    }
    if (certain <= capped || certain >= count) break;
    capped = certain;
    factor = static_cast<double>(count - certain) / below;
  }
  for (std::size_t k = 0; k < sizes.size(); ++k) {
    const double share = static_cast<double>(sizes[k]) * factor;
    pi[k] = share < 1 ? static_cast<T>(share) : T(1);
  }
}

/// Systematic sample: index k is taken where an integer lies in [u + pi_0 + ... + pi_{k-1}, u + pi_0 + ... + pi_k).
/// Over u uniform in [0, 1) index k is taken with probability pi_k exactly, none is taken twice, and their number is
/// the sum of pi up to rounding. Writes the indices in ascending order; `list` has room for n. Returns how many were
/// taken.
///
/// Source  Madow 1949.
template <class T>
Index systematic_sample(std::span<const T> pi, double u, std::int32_t* list) {
  Index taken = 0;
  double place = u;
  for (std::size_t k = 0; k < pi.size(); ++k) {
    const T share = pi[k];
    if (!(share < 1)) {  // taken for certain, whatever rounding does to `place`
      list[taken++] = static_cast<std::int32_t>(k);
      continue;
    }
    place += static_cast<double>(share);
    const bool passed = place >= 1;
    list[taken] = static_cast<std::int32_t>(k);
    taken += passed ? 1 : 0;
    place -= passed ? 1 : 0;
  }
  return taken;
}

}  // namespace heed
