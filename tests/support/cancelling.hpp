#pragma once
#include <cmath>

#include "heed/core/types.hpp"
#include "support/inputs.hpp"

namespace heed::test {

/// Queries and keys whose scores are sums of large products that cancel: q = [p, p, a], k = [u, -u, b], so that
/// q . k = a . b but for rounding. Adding the products in another order, or operands rounded in another way, moves
/// scores by about 1e-2 in float: weights computed twice agree only where both were computed alike.
template <class S>
struct Cancelling {
  static constexpr Index large = 24, small = 8, d = 2 * large + small;
  static constexpr double scale = 0.35;

  Cancelling(Index n_q, Index n_k) : q(n_q, d), k(n_k, d) {
    const Matrix<S> p = random_matrix<S>(n_q, large, 51), u = random_matrix<S>(n_k, large, 52);
    q.leftCols(large) = p * S(64);
    q.middleCols(large, large) = p * S(64);
    q.rightCols(small) = random_matrix<S>(n_q, small, 53);
    k.leftCols(large) = u * S(64);
    k.middleCols(large, large) = u * S(-64);
    k.rightCols(small) = random_matrix<S>(n_k, small, 54);
  }

  /// The scaled product of a query and a key, exact but for the rounding of double.
  double score(Index i, Index j) const {
    double sum = 0;
    for (Index c = 0; c < d; ++c) sum += static_cast<double>(q(i, c)) * static_cast<double>(k(j, c));
    return scale * sum;
  }

  Matrix<S> q, k;
};

}  // namespace heed::test
