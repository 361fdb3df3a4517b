#pragma once
#include <algorithm>

#include "heed/core/gradients.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/distributed/ring_layout.hpp"

namespace heed::detail {

/// The rows of a bias that the queries of one rank read: those of its gradient there, in the order of the rank's rows
/// of q, one head behind the other where heads differ. They meet all keys on this rank, so that their gradient is
/// complete where it is made. A bias of one row for all queries has that row on every rank, and its gradient is the
/// sum over ranks.
class RingBiasRows {
 public:
  RingBiasRows() = default;
  RingBiasRows(const PairView& bias, const RingLayout& queries, Index n_heads) : cols_(bias.cols()) {
    const Index n_q = queries.n();
    by_head_ = bias.by_head(n_q);
    const Index rows_of_head = by_head_ && !bias.is_tensor() ? n_q : bias.rows();
    shared_ = rows_of_head == 1;
    each_ = shared_ ? 1 : std::min(rows_of_head, queries.n_own());
    rows_ = (by_head_ ? n_heads : 1) * each_;
  }

  Index rows() const { return rows_; }
  Index cols() const { return cols_; }     ///< positions of all keys
  bool shared() const { return shared_; }  ///< by the queries of all ranks

  /// The part that n queries from row `row` of this rank on add to, of one head and some keys.
  template <class T>
  View<T> part(const View<T>& all, Index head, Index row, Index n, const TokenRange& keys) const {
    View<T> rows = all.rows_from((by_head_ ? head * each_ : 0) + (shared_ ? 0 : row), n);
    if (shared_) rows.row_stride = 0;
    return rows.columns(keys.first, keys.size);
  }

 private:
  Index rows_ = 0, cols_ = 0, each_ = 0;
  bool by_head_ = false, shared_ = false;
};

/// The sums of the gradient of a bias over a ring, on one rank: none until there is room.
template <class T>
class RingBiasSums {
 public:
  /// Sums in d_bias itself, which is 0, where it is `ours`; elsewhere in a frame that stays open: what a caller brought
  /// is added to when all ranks have succeeded.
  /// Errors  ShapeError for a d_bias of another shape.
  void reserve(Workspace::Frame& frame, const RingBiasRows& rows, const View<T>& d_bias, bool ours) {
    check_gradient(d_bias.rows, d_bias.cols, "d_bias", "the rows of mask.bias for this rank's rows of q", rows.rows(),
                   rows.cols());
    rows_ = rows;
    to_ = sums_ = d_bias;
    if (!ours) {
      sums_ = {frame.take<T>(n()), rows.rows(), rows.cols(), rows.cols(), 1};
      fill(sums_, T(0));
    }
    if (rows.shared()) room_ = frame.take<T>(n());
  }
  /// Where n queries from row `row` of this rank on add to, of one head and some keys; no data where nothing is wanted.
  View<T> part(Index head, Index row, Index n, const TokenRange& keys) const {
    return sums_.data == nullptr ? View<T>() : rows_.part(sums_, head, row, n, keys);
  }
  /// Adds what queries of other ranks give, where they share the row. All ranks call it.
  void add_over(const Ranks& ranks) const {
    if (rows_.shared()) add_in_order(ranks, sums_.data, room_, n());
  }
  /// Adds the sums to what the caller brought.
  void write() const {
    if (sums_.data == to_.data) return;
    for (Index i = 0; i < to_.rows; ++i) {
      for (Index j = 0; j < to_.cols; ++j) to_(i, j) += sums_(i, j);
    }
  }

 private:
  Index n() const { return rows_.rows() * rows_.cols(); }

  RingBiasRows rows_;
  View<T> sums_, to_;
  T* room_ = nullptr;  // for a message
};

}  // namespace heed::detail
