#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include "heed/core/check.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/reference.hpp"

namespace heed {

namespace detail {

/// One query's pass: weights of the keys it keeps, and what moving each of their scores does.
template <class A>
struct ReferenceRow {
  std::vector<Index> keys;
  std::vector<A> raw, before, weight;  // q . k; the score a functor is given; softmax weight
  A sink_weight = A(0);
};

}  // namespace detail

/// The oracle's gradient, in plain loops: with G = d_out and out = P v, P_ij the softmax weights,
///   d_v_j = sum_i P_ij G_i,   d_s_ij = P_ij (G_i . v_j - G_i . out_i + d_lse_i),
/// and through score functor, bias, softcap and scale d_s becomes d_q_i = sum_j d_r_ij k_j and d_k_j = sum_i d_r_ij
/// q_i, r = q . k.
///
/// Shapes  d_out: n_q x d_v, the others as reference_attention; returns d_q: n_q x d, d_k: n_k x d, d_v: n_k x d_v;
///         d_bias: as the bias of this head where backward.bias is set; d_sinks: one number where sinks are given.
/// Options as reference_attention; a score functor needs derivative(s, i, j), the derivative of what it returns by its
///         argument.
/// Empty   rows without kept keys and masked keys have gradient 0.
/// Errors  as reference_attention; ShapeError if d_out or d_lse does not fit.
/// Cost    2 (4 d + 3 d_v) flops and one exp per kept pair, slowly; memory n_k.
/// Threads const and re-entrant; runs on the caller's thread.
/// Source  the chain rule; Dao et al. 2022, appendix B.2, for the same formulas.
template <TokenMatrix D, TokenMatrix Q, TokenMatrix K, TokenMatrix V, class ScoreMod = NoScoreMod>
AttentionGradients<typename Q::Scalar> reference_attention_backward(
    const D& d_out_rows, const Q& q_rows, const K& k_rows, const V& v_rows, const AttentionOptions& options = {},
    const ScoreMod& score_mod = {}, const BackwardOptions& backward = {}, Index head = 0) {
  using std::exp;
  using std::sqrt;
  using std::tanh;
  using S = typename Q::Scalar;
  using A = Accumulator<S>;
  const ConstView<S> g = view_of(d_out_rows), q = view_of(q_rows), k = view_of(k_rows), v = view_of(v_rows);
  detail::check_reference_head(head);
  const CallShape shape{q.rows, k.rows, q.cols, v.cols, detail::reference_heads(options, q.rows, head)};
  detail::check_attention<A>(q.cols, k.rows, k.cols, v.rows, shape, options);
  detail::check_gradient_of_out(g.rows, g.cols, q.rows, v.cols);
  detail::check_gradient_of_lse(backward.d_lse, q.rows, shape.n_heads);
  const PairView& bias = options.mask.bias;
  const bool has_sink = options.sinks.given() && !detail::is_minus_infinity(options.sinks.of(head));
  const A scale = options.scale ? A(*options.scale) : A(1) / sqrt(A(static_cast<double>(k.cols)));

  Matrix<A> d_q = Matrix<A>::Zero(q.rows, q.cols), d_k = Matrix<A>::Zero(k.rows, k.cols),
            d_v = Matrix<A>::Zero(v.rows, v.cols);
  AttentionGradients<S> result;
  const bool one_row = bias.rows() == 1;  // for all queries
  if (backward.bias && bias.given()) result.d_bias.setZero(one_row ? 1 : q.rows, k.rows);
  if (options.sinks.given()) result.d_sinks.setZero(1);
  for (Index i = 0; i < q.rows; ++i) {
    if (!detail::reference_query_is_real(options.mask, i)) continue;
    detail::ReferenceRow<A> row;
    A largest = has_sink ? A(options.sinks.of(head)) : A(0);
    for (Index j = 0; j < k.rows; ++j) {
      const detail::ReferencePair pair = detail::reference_pair(options.mask, i, j, q.rows, k.rows, head);
      if (!pair.kept) continue;
      const A before = detail::reference_score<A>(q, k, options, scale, i, j, pair.ahead, NoScoreMod{}, head);
      const A score = detail::reference_score<A>(q, k, options, scale, i, j, pair.ahead, score_mod, head);
      if (detail::reference_masks(score)) continue;
      if ((row.keys.empty() && !has_sink) || score > largest) largest = score;
      A raw = A(0);
      for (Index c = 0; c < q.cols; ++c) raw += static_cast<A>(q(i, c)) * static_cast<A>(k(j, c));
      row.keys.push_back(j);
      row.raw.push_back(raw);
      row.before.push_back(before);
      row.weight.push_back(score);
    }
    A sum = has_sink ? exp(A(options.sinks.of(head)) - largest) : A(0);
    row.sink_weight = sum;
    for (A& weight : row.weight) sum += weight = exp(weight - largest);
    if (row.keys.empty() && !has_sink) continue;
    row.sink_weight /= sum;
    for (A& weight : row.weight) weight /= sum;

    A mean = A(0);  // G_i . out_i, less what comes in through lse
    for (std::size_t t = 0; t < row.keys.size(); ++t) {
      for (Index c = 0; c < v.cols; ++c)
        mean += row.weight[t] * static_cast<A>(g(i, c)) * static_cast<A>(v(row.keys[t], c));
    }
    if (backward.d_lse.given()) mean -= A(detail::gradient_of_lse(backward.d_lse, i, head));
    if (has_sink) result.d_sinks(0) -= row.sink_weight * mean;
    for (std::size_t t = 0; t < row.keys.size(); ++t) {
      const Index j = row.keys[t];
      A d_weight = A(0);
      for (Index c = 0; c < v.cols; ++c) {
        d_weight += static_cast<A>(g(i, c)) * static_cast<A>(v(j, c));
        d_v(j, c) += row.weight[t] * static_cast<A>(g(i, c));
      }
      A d_score = row.weight[t] * (d_weight - mean);
      if constexpr (!std::is_same_v<ScoreMod, NoScoreMod>)
        d_score *= static_cast<A>(score_mod.derivative(row.before[t], i, j));
      if (result.d_bias.size() > 0) result.d_bias(one_row ? 0 : i, j) += d_score;
      d_score *= scale;
      if (options.softcap) {
        const A t_cap = tanh(scale * row.raw[t] / A(*options.softcap));
        d_score *= A(1) - t_cap * t_cap;
      }
      for (Index c = 0; c < q.cols; ++c) {
        d_q(i, c) += d_score * static_cast<A>(k(j, c));
        d_k(j, c) += d_score * static_cast<A>(q(i, c));
      }
    }
  }
  result.d_q = d_q.template cast<S>();
  result.d_k = d_k.template cast<S>();
  result.d_v = d_v.template cast<S>();
  return result;
}

}  // namespace heed
