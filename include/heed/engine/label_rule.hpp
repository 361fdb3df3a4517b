#pragma once
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"

namespace heed::detail {

/// The pairs of a pattern without those where first[i] <= label[j] < end[i]: what one part of a union leaves to another, said so
/// that the kernels decide many pairs at once. Labels are whole numbers below 2^24, exact in every scalar.
struct LabelRule {
  const Index* label = nullptr;  // n_k
  const Index* first = nullptr;  // n_q
  const Index* end = nullptr;    // n_q

  /// True when the pair stays.
  bool operator()(Index i, Index j) const { return label[j] < first[i] || label[j] >= end[i]; }
  /// The same as a score functor.
  template <class T>
  T operator()(T s, Index i, Index j) const {
    return (*this)(i, j) ? s : minus_infinity<T>;
  }
};

/// Which pairs it leaves, as a rule.
inline const LabelRule& pair_rule(const LabelRule& mod) { return mod; }

}  // namespace heed::detail
