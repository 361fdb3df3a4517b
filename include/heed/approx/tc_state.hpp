#pragma once
#include <utility>

#include "heed/approx/tc_attention.hpp"
#include "heed/core/check.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/options.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/path_sums.hpp"

namespace heed {

/// TC-attention while decoding: what it keeps of the tokens so far does not grow with their number. Row for row the
/// same bits as TcAttention under a causal mask.
///
///     TcState<float> state(tc, d_v);
///     state.append(k_new, v_new);
///     auto out = state.attend(q_new);
///
/// Shapes  one head; k_new: n x d, v_new: n x d_v; q: n_q x d, every row seeing all tokens appended, whatever
///         Mask::causal says; returns n_q x d_v.
/// Errors  ShapeError for widths that do not fit. OptionError as TcAttention under a causal mask (so for
///         TreeBiases::key_medians), and for padding, absent keys and packed sequences: a state is one sequence, of
///         what was appended. Both before anything changes: a call that throws, if for want of memory, leaves the
///         state as it was.
/// Cost    a token: 2 h d flops to route, (h + 1) d_v additions; a query the same and 2 (h + 1) d_v. Memory 2^(h+1)
///         (d_v + 1) numbers, with TcOptions::by_query 2^(h+1) d more.
/// Threads one at a time. A copy goes its own way from where it was made.
template <RealScalar S>
class TcState {
 public:
  using Sum = Accumulator<S>;

  /// d_v: width of the values; d: of the keys, needed where the tree has no planes to tell (height 0).
  explicit TcState(TcAttention<S> method, Index d_v, Index d = 0, const AttentionOptions& options = {})
      : method_(std::move(method)), d_(key_width(method_.tree(), d)), options_(options) {
    if (d_v < 0) throw ShapeError(detail::message("d_v = ", d_v, " must be >= 0"));
    const Index n_nodes = 2 * method_.tree().n_leaves();
    detail::checked_size(d_, "d");
    detail::checked_product("2^(height + 1) * (d_v + d)", {n_nodes, detail::checked_size(d_v, "d_v") + d_});
    check(options, d_v);
    v_.setZero(n_nodes, d_v);
    if (method_.options().by_query) k_.setZero(n_nodes, d_);
    weights_.resize(method_.tree().height() + 1);
    row_.resize(d_v);
    counts_.setZero(n_nodes);  // last: a state with counts is whole
  }

  TcState(const TcState&) = default;
  TcState(TcState&&) noexcept = default;
  /// By value: where copying throws, the state stays what it was.
  TcState& operator=(TcState other) {
    method_ = std::move(other.method_);
    d_ = other.d_;
    options_ = other.options_;
    counts_.swap(other.counts_);
    v_.swap(other.v_);
    k_.swap(other.k_);
    weights_.swap(other.weights_);
    row_.swap(other.row_);
    return *this;
  }

  Index size() const { return counts_.size() > 0 ? counts_(1) : 0; }  ///< tokens appended
  void clear() {
    if (counts_.size() > 0) sums().clear();
  }

  /// Adds tokens.
  template <class K, class V>
  void append(const K& k_new, const V& v_new) {
    const ConstView<S> k = view_of(k_new), v = view_of(v_new);
    if (k.rows != v.rows)
      throw ShapeError(
          detail::message("rows(k_new) = ", k.rows, " but rows(v_new) = ", v.rows, ": they must be equal"));
    const Sums all = sums();
    check_cols(k.cols, d_, "k_new");
    check_cols(v.cols, all.d_v, "v_new");
    const Vector<Index> leaf = method_.tree().leaf_of_keys(k, {.threads = 1});
    for (Index j = 0; j < k.rows; ++j) all.add_path(leaf(j), k, v, j);  // nothing here throws
  }

  /// What queries see of the tokens appended so far.
  template <class Q>
  Matrix<S> attend(const Q& q_new) {
    const ConstView<S> q = view_of(q_new);
    const Sums all = sums();
    check_cols(q.cols, d_, "q");
    const Vector<Index> leaf = method_.tree().leaf_of(q, {.threads = 1});
    const detail::LevelWeights<Sum> levels = method_.level_weights(d_, options_);
    Matrix<S> out(q.rows, all.d_v);
    for (Index i = 0; i < q.rows; ++i) {
      detail::read_path(all, leaf(i), levels, q, i, weights_.data(), row_.data());
      for (Index c = 0; c < all.d_v; ++c) out(i, c) = static_cast<S>(row_(c));
    }
    return out;
  }

 private:
  using Sums = detail::PathSums<Sum>;

  Sums sums() {
    if (counts_.size() == 0) throw OptionError("heed: this TcState was moved from: assign another to it first");
    return {method_.tree().height(), v_.cols(), k_.cols(), counts_.data(), v_.data(), k_.data()};
  }

  static Index key_width(const DecisionTree<S>& tree, Index d) {
    if (d < 0) throw ShapeError(detail::message("d = ", d, " must be >= 0"));
    if (tree.height() == 0) return d;
    if (d != 0 && d != tree.d())
      throw ShapeError(detail::message("d = ", d, " must be that of the tree's planes, ", tree.d()));
    return tree.d();
  }

  // Throws what attend would for a sequence of such tokens, and for masks that a growing sequence has no rows for.
  void check(const AttentionOptions& options, Index d_v) const {
    if (d_ == 0 && !options.scale)
      throw ShapeError("heed: d = 0 must be >= 1: the width of the keys, which no plane of the tree tells");
    const Mask& mask = options.mask;
    const auto refuse = [](bool given, const char* name) {
      if (given)
        throw OptionError(detail::message(name, " is given but must not be: TcState is one sequence without padding"));
    };
    refuse(mask.shift.has_value(), "Mask::shift");
    refuse(mask.n_real_keys != Mask::unlimited, "Mask::n_real_keys");
    if (mask.keys.given())
      throw OptionError("heed: Mask::keys is given but must not be: append to a TcState only keys that are there");
    refuse(!mask.key_lengths.empty(), "Mask::key_lengths");
    refuse(!mask.query_lengths.empty(), "Mask::query_lengths");
    refuse(!mask.sequence_offsets.empty(), "Mask::sequence_offsets");
    refuse(!mask.key_sequence_offsets.empty(), "Mask::key_sequence_offsets");
    AttentionOptions causal = options;
    causal.mask.causal = Causal::bottom_right;
    method_.check_heads({.d = d_}, causal);
    detail::check_attention<Sum>(d_, 1, d_, 1, {1, 1, d_, d_v, 1}, causal);
  }

  static void check_cols(Index cols, Index width, const char* name) {
    if (cols != width)
      throw ShapeError(detail::message("cols(", name, ") = ", cols, " must be ", width, " as in the state"));
  }

  TcAttention<S> method_;
  Index d_;
  AttentionOptions options_;
  Vector<Index> counts_;                    // 2^(h + 1); of one that was moved from: none
  Matrix<Sum> v_{Matrix<Sum>::Zero(0, 0)};  // 2^(h + 1) x d_v
  Matrix<Sum> k_{Matrix<Sum>::Zero(0, 0)};  // 2^(h + 1) x d by query
  Vector<Sum> weights_;                     // h + 1: scratch
  Vector<Sum> row_;                         // d_v: scratch
};

}  // namespace heed
