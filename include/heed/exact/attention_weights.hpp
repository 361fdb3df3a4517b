#pragma once
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"

namespace heed {

/// The weights of one head, to look at and to test with: P_ij = softmax_j(score(i, j)) over the pairs the mask keeps,
/// so that attend(q, k, v).out is P v. They are attend's own, of values that are the identity.
///
/// Shapes  q: n_q x d, k: n_k x d, any TokenMatrix; returns n_q x n_k in the scalar of q; 0 where a pair is masked.
///         Rows sum to 1, to less where the head has a sink, and to 0 for a query without keys.
/// Method  any that returns rows which are sums of value rows: exact attention, trees, patterns, ...
/// Errors  as attend.
/// Cost    2 n_q n_k (d + n_k) flops and memory n_k (n_q + n_k): for looking at, not for computing with.
/// Threads as attend.
template <class Q, class K, class Method = ExactAttention<>>
Matrix<detail::OperandScalar<Q>> attention_weights(const Q& q, const K& k, const AttentionOptions& options = {},
                                                   const Method& method = {}, const Context& context = {}) {
  detail::require_operands<Q, K, K>();
  using S = detail::OperandScalar<Q>;
  const Matrix<S> identity = Matrix<S>::Identity(k.rows(), k.rows());
  return attend(q, k, identity, options, method, context).out;
}

}  // namespace heed
