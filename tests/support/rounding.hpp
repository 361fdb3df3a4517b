#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"

namespace heed::test {

/// Scalar whose rounding does not show beside that of S.
template <class S>
using Exact = std::conditional_t<std::is_same_v<S, double>, long double, double>;

/// How far a correct answer may be from the oracle: twice what a naive run in the same precision is off, and at least
/// a few units in the last place of the values, so that a lucky naive run proves nothing.
struct Rounding {
  double out = 0.0;
  double lse = 0.0;
  operator double() const { return out; }
};

template <class M>
double largest_finite(const M& m) {
  double largest = 0.0;
  for (Index i = 0; i < m.rows(); ++i) {
    for (Index j = 0; j < m.cols(); ++j) {
      const double x = std::abs(static_cast<double>(m(i, j)));
      if (heed::detail::is_finite(x)) largest = std::max(largest, x);
    }
  }
  return largest;
}

template <class A, class B>
double largest_difference(const A& a, const B& b) {
  double largest = 0.0;
  for (Index i = 0; i < a.rows(); ++i) {
    for (Index j = 0; j < a.cols(); ++j) {
      const double x = std::abs(static_cast<double>(a(i, j)) - static_cast<double>(b(i, j)));
      if (heed::detail::is_finite(x)) largest = std::max(largest, x);
    }
  }
  return largest;
}

/// Tolerance for inputs `in` whose exact answer is `want`.
/// The naive run sums in the accumulator and keeps its scores in S, as three matrix expressions would.
template <class S, class ScoreMod = NoScoreMod>
Rounding rounding_against(const AttentionResult<Exact<S>>& want, const Inputs<S>& in,
                          const AttentionOptions& options = {}, const ScoreMod& score_mod = {}, Index head = 0) {
  using A = Accumulator<S>;
  const auto stored_score = [&](A score, Index i, Index j) {
    if constexpr (!std::is_same_v<ScoreMod, NoScoreMod>) score = static_cast<A>(score_mod(score, i, j));
    const A stored = static_cast<A>(static_cast<S>(score));
    return heed::detail::is_finite(stored) ? stored : score;  // beyond the range of half
  };
  const AttentionResult<S> naive = reference_attention(in.q, in.k, in.v, options, stored_score, head);
  constexpr double epsilon = std::numeric_limits<A>::epsilon();
  double floor = 4.0 * epsilon * largest_finite(in.v);
  if constexpr (!std::is_same_v<S, A>) {
    floor += 0.5 * static_cast<double>(Eigen::NumTraits<S>::epsilon()) * largest_finite(want.out);
  }
  return {
      std::max(floor, 2.0 * largest_difference(naive.out, want.out)),
      std::max(4.0 * epsilon * std::max(1.0, largest_finite(want.lse)), 2.0 * largest_difference(naive.lse, want.lse))};
}

template <class S>
Rounding rounding_of(const Inputs<S>& in, const AttentionOptions& options = {}) {
  const Inputs<Exact<S>> exact = in.template cast<Exact<S>>();
  return rounding_against<S>(reference_attention(exact.q, exact.k, exact.v, options), in, options);
}

}  // namespace heed::test
