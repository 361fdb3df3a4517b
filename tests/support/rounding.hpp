#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"

namespace heed::test {

/// Scalar whose rounding does not show beside that of S.
template <class S>
using Exact = std::conditional_t<std::is_same_v<S, double>, long double, double>;

/// How far a correct answer may be from the oracle: twice what a naive run in the same precision is off, and at least
/// a few units in the last place of the values, so that a lucky naive run proves nothing.
struct RoundingError {
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

/// Attention as three matrix expressions in S compute it: scores and weights are kept in S, sums in the accumulator.
template <class S, class ScoreMod = NoScoreMod>
AttentionResult<S> naive_attention(const Inputs<S>& in, const AttentionOptions& options = {},
                                   const ScoreMod& score_mod = {}, Index head = 0) {
  using A = Accumulator<S>;
  const Index n_q = in.q.rows(), n_k = in.k.rows();
  const auto stored = [](A x) {
    const A kept = static_cast<A>(static_cast<S>(x));
    return heed::detail::is_finite(kept) ? kept : x;  // beyond the range of half
  };
  const A scale = static_cast<A>(options.scale.value_or(1.0 / std::sqrt(static_cast<double>(in.k.cols()))));
  const A sink = static_cast<A>(options.sinks.given() ? options.sinks.of(head) : heed::detail::minus_infinity<double>);
  AttentionResult<S> result{Matrix<S>::Constant(n_q, in.v.cols(), static_cast<S>(0.0f)),
                            Vector<A>::Constant(n_q, sink)};
  Vector<A> weights(n_k);
  for (Index i = 0; i < n_q; ++i) {
    A largest = std::max(sink, std::numeric_limits<A>::lowest());
    std::vector<Index> kept;
    for (Index j = 0; j < n_k; ++j) {
      const auto pair = heed::detail::reference_pair(options.mask, i, j, n_q, n_k, head);
      if (!pair.kept) continue;
      const A score = heed::detail::reference_score<A>(view_of(in.q), view_of(in.k), options, scale, i, j, pair.ahead,
                                                       score_mod, head);
      if (heed::detail::reference_masks(score)) continue;
      kept.push_back(j);
      weights(j) = stored(score);
      largest = std::max(largest, weights(j));
    }
    if (kept.empty()) continue;
    A sum = std::exp(sink - largest);  // 0 without a sink
    for (const Index j : kept) sum += weights(j) = std::exp(weights(j) - largest);
    result.lse(i) = largest + std::log(sum);
    for (Index c = 0; c < in.v.cols(); ++c) {
      A out = A(0);
      for (const Index j : kept) out += stored(weights(j) / sum) * static_cast<A>(in.v(j, c));
      result.out(i, c) = static_cast<S>(out);
    }
  }
  return result;
}

/// Tolerance for inputs `in` whose exact answer is `want`.
template <class S, class ScoreMod = NoScoreMod>
RoundingError rounding_against(const AttentionResult<Exact<S>>& want, const Inputs<S>& in,
                               const AttentionOptions& options = {}, const ScoreMod& score_mod = {}, Index head = 0) {
  using A = Accumulator<S>;
  const AttentionResult<S> naive = naive_attention(in, options, score_mod, head);
  constexpr double epsilon = std::numeric_limits<A>::epsilon();
  const double largest_value = largest_finite(in.v);
  double floor = 4.0 * epsilon * largest_value;
  if constexpr (!std::is_same_v<S, A>) {  // rounding the answer, and the weights of a mean over n_k keys
    const double half_a_unit = 0.5 * static_cast<double>(Eigen::NumTraits<S>::epsilon());
    const double n_k = static_cast<double>(std::max<Index>(1, in.k.rows()));
    floor += half_a_unit * (largest_finite(want.out) + largest_value / std::sqrt(n_k));
  }
  return {
      std::max(floor, 2.0 * largest_difference(naive.out, want.out)),
      std::max(4.0 * epsilon * std::max(1.0, largest_finite(want.lse)), 2.0 * largest_difference(naive.lse, want.lse))};
}

template <class S>
RoundingError rounding_of(const Inputs<S>& in, const AttentionOptions& options = {}) {
  const Inputs<Exact<S>> exact = in.template cast<Exact<S>>();
  return rounding_against<S>(reference_attention(exact.q, exact.k, exact.v, options), in, options);
}

}  // namespace heed::test
