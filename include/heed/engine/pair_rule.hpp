#pragma once
#include "heed/core/types.hpp"

namespace heed::detail {

/// A yes or no for each pair, its type erased; no test at all where `test` is null. Views what it asks.
struct PairTest {
  bool (*test)(const void* of, Index i, Index j) = nullptr;
  const void* of = nullptr;

  bool given() const { return test != nullptr; }
  bool operator()(Index i, Index j) const { return test(of, i, j); }

  /// The test object(i, j); `object` must outlive it.
  template <class Object>
  static PairTest of_object(const Object& object) {
    return {[](const void* what, Index i, Index j) { return (*static_cast<const Object*>(what))(i, j); }, &object};
  }
};

/// Which pairs of its tiles a part has, beside what the mask says: all of them by default.
struct PairRule {
  const Index* label =
      nullptr;  ///< n_k; the pair is left out where first[i] <= label[j] < end[i]: the kernels decide many at once
  const Index* first = nullptr;    ///< n_q. Labels are whole numbers below 2^24, exact in every scalar
  const Index* end = nullptr;      ///< n_q
  PairTest keeps{};                ///< any other rule
  const PairRule* also = nullptr;  ///< a rule of labels: what it leaves out is left out too

  bool has_labels() const { return label != nullptr || also != nullptr; }
  bool every_pair() const { return !has_labels() && !keeps.given(); }
  bool operator()(Index i, Index j) const {
    for (const PairRule* rule = this; rule != nullptr; rule = rule->also) {
      if (rule->label != nullptr && rule->label[j] >= rule->first[i] && rule->label[j] < rule->end[i]) return false;
    }
    return !keeps.given() || keeps(i, j);
  }
};

}  // namespace heed::detail
