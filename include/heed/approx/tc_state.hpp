#pragma once
#include <utility>

#include "heed/approx/tc_attention.hpp"
#include "heed/core/check.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
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
///         TreeBiases::key_medians), and for padding and packed sequences: a state is one sequence and holds no
///         padding. Both before anything changes: a call that throws, if for want of memory, leaves the state as it
///         was.
/// Cost    a token: 2 h d flops to route, (h + 1) d_v additions; a query the same and 2 (h + 1) d_v. Memory 2^(h+1)
///         (d_v + 1) numbers, with TcOptions::by_query 2^(h+1) d more.
/// Threads one at a time.
template <RealScalar S>
class TcState {
 public:
  using Sum = Accumulator<S>;

  /// d_v: width of the values; d: of the keys, needed where the tree has no planes to tell (height 0).
  explicit TcState(TcAttention<S> method, Index d_v, Index d = 0, const AttentionOptions& options = {})
      : method_(std::move(method)), d_(key_width(method_.tree(), d)), options_(options) {
    if (d_v < 0) throw ShapeError(detail::message("d_v = ", d_v, " must be >= 0"));
    check(options, d_v);
    Workspace::Frame frame(memory_);  // the memory stays when the frame goes: nothing else takes from it
    sums_ = Sums::take(frame, method_.tree().height(), d_v, method_.options().by_query ? d_ : 0);
    weights_ = frame.template take<Sum>(method_.tree().height() + 1);
    row_ = frame.template take<Sum>(d_v);
    sums_.clear();
  }

  Index size() const { return sums_.counts[1]; }  ///< tokens appended
  void clear() { sums_.clear(); }

  /// Adds tokens.
  template <class K, class V>
  void append(const K& k_new, const V& v_new) {
    const ConstView<S> k = view_of(k_new), v = view_of(v_new);
    if (k.rows != v.rows)
      throw ShapeError(
          detail::message("rows(k_new) = ", k.rows, " but rows(v_new) = ", v.rows, ": they must be equal"));
    check_cols(k.cols, d_, "k_new");
    check_cols(v.cols, sums_.d_v, "v_new");
    const Vector<Index> leaf = method_.tree().leaf_of_keys(k, {.threads = 1});
    for (Index j = 0; j < k.rows; ++j) sums_.add_path(leaf(j), k, v, j);
  }

  /// What queries see of the tokens appended so far.
  template <class Q>
  Matrix<S> attend(const Q& q_new) {
    const ConstView<S> q = view_of(q_new);
    check_cols(q.cols, d_, "q");
    const Vector<Index> leaf = method_.tree().leaf_of(q, {.threads = 1});
    const detail::LevelWeights<Sum> levels = method_.level_weights(d_, options_);
    Matrix<S> out(q.rows, sums_.d_v);
    for (Index i = 0; i < q.rows; ++i) {
      detail::read_path(sums_, leaf(i), levels, q, i, weights_, row_);
      for (Index c = 0; c < sums_.d_v; ++c) out(i, c) = static_cast<S>(row_[c]);
    }
    return out;
  }

 private:
  using Sums = detail::PathSums<Sum>;

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
    refuse(mask.n_real_keys != Mask::unlimited, "Mask::n_real_keys");
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
  Workspace memory_;
  Sums sums_;
  Sum* weights_ = nullptr;
  Sum* row_ = nullptr;
};

}  // namespace heed
