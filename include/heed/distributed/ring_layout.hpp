#pragma once
#include <algorithm>
#include <type_traits>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

/// Which tokens a rank of a ring holds. All n tokens are cut into 2 P parts in order; rank r of P holds part r, its
/// early one, and part 2 P - 1 - r, its late one, one behind the other. Under a causal mask an early part has little to
/// do and the late one of the same rank much: all ranks have the same. Every rank holds n / P tokens.
/// Source: Brandon et al. 2023 (striped attention, the imbalance of a causal ring); the two parts a rank are those of
/// the implementations known as zigzag.
class RingLayout {
 public:
  /// A rank's rows, and the rank.
  RingLayout(Index n_own, Index rank, Index n_ranks) : n_own_(n_own), rank_(rank), n_ranks_(n_ranks) {}

  Index n() const { return n_own_ * n_ranks_; }  ///< tokens of all ranks
  Index n_own() const { return n_own_; }
  Index rank() const { return rank_; }
  Index n_ranks() const { return n_ranks_; }
  Index n_early() const { return (n_own_ + 1) / 2; }  ///< rows of the early part, which come first
  Index n_late() const { return n_own_ / 2; }
  Index first_early(Index rank) const { return rank * n_early(); }  ///< position of the first token of a part
  Index first_late(Index rank) const { return n_ranks_ * n_early() + (n_ranks_ - 1 - rank) * n_late(); }

  /// The position among all tokens of the rank's row i.
  Index position(Index i) const { return i < n_early() ? first_early(rank_) + i : first_late(rank_) + i - n_early(); }

 private:
  Index n_own_, rank_, n_ranks_;
};

/// The rows of `all` that a rank of a ring holds: for tests, and for programs that have all tokens in one place.
/// Errors  ShapeError unless n_ranks divides the rows.
template <TokenMatrix M>
Matrix<typename M::Scalar> ring_rows(const M& all, Index rank, Index n_ranks) {
  if (n_ranks < 1 || all.rows() % n_ranks != 0)
    throw ShapeError(detail::message("rows(all) = ", all.rows(), " must be a multiple of n_ranks = ", n_ranks));
  if (rank < 0 || rank >= n_ranks)
    throw ShapeError(detail::message("rank = ", rank, " must be 0 .. n_ranks - 1 = ", n_ranks - 1));
  const RingLayout layout(all.rows() / n_ranks, rank, n_ranks);
  Matrix<typename M::Scalar> own(layout.n_own(), all.cols());
  for (Index i = 0; i < own.rows(); ++i) own.row(i) = all.row(layout.position(i));
  return own;
}

}  // namespace heed
