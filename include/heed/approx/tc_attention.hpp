#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include <Eigen/Core>

#include "heed/approx/detail/query_blocks.hpp"
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/path_importance.hpp"
#include "heed/trees/path_sums.hpp"
#include "heed/trees/routed_heads.hpp"

namespace heed {

/// How TC-attention weighs the levels of a path.
struct TcOptions {
  /// Adds log N_v + scale q . c_v to the logit of each level, c_v the mean key of its node; off: as published.
  bool by_query = false;
};

/// Treeformer's coarse attention: every query sees the mean value row of each node on its path,
/// out_i = sum_{t = 0..h} alpha_t C_{node_t(q_i)}, C_v the mean of v_j over the keys in node v,
/// alpha = softmax(level logits) over the levels whose node holds a key.
/// With TcOptions::by_query, alpha_t(q) = softmax_t(logit_t + log N_v + scale q . c_v).
///
/// Under a causal mask the means are those of the keys up to the query's diagonal. Without by_query a head has at most
/// 2^h different rows: this is a trained model's own layer, no approximation of softmax attention. Height 0 is mean
/// pooling.
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v; level_logits: h + 1, -inf switches a level off.
/// Empty   a query with no key to see gets out = 0. There is no lse: has_softmax is false and lse is left alone.
/// Errors  as attend; ShapeError if cols(q) differs from the tree's d. Of the masks it has causal ones, padding and
///         packed sequences: OptionError for windows, pair masks, ALiBi, softcap and sinks, which need a score per key.
/// Cost    routing 2 h d flops a token, and d_v additions a key that some query sees; then d_v additions an inner node
///         and sequence, and 2 d_v flops and an exponential a level of each leaf that has queries. Causal: (h + 1) d_v
///         additions a key and 2 (h + 1) d_v a query. by_query: 2 (h + 1) (d + d_v) a query, d additions with every
///         d_v. Levels that are off or hold no key cost nothing. Memory 2^(h+1) (d_v + 1) numbers, and d more by_query.
/// Threads const and re-entrant; results do not depend on context.threads.
/// Source  Madaan, Bhojanapalli, Jain, Jain 2023, section 3.2. The rules for empty nodes and causal masks, and
///         by_query, are ours.
template <RealScalar S>
class TcAttention {
 public:
  static constexpr bool has_softmax = false;
  using Sum = Accumulator<S>;

  /// level_logits: an Eigen vector of height + 1 numbers, the root's first.
  /// Errors  ShapeError for another number of them, OptionError for NaN, +inf, and numbers past the scalar sums are
  ///         kept in.
  template <NumberMatrix Logits>
  TcAttention(DecisionTree<S> tree, const Logits& level_logits, const TcOptions& options = {})
      : tree_(std::move(tree)), logits_(level_logits.size()), options_(options) {
    if (logits_.size() != tree_.height() + 1) {
      throw ShapeError(detail::message("level_logits has ", logits_.size(),
                                       " entries but must have height + 1 = ", tree_.height() + 1));
    }
    for (Index t = 0; t < logits_.size(); ++t) {
      const double given =
          static_cast<double>(level_logits.cols() == 1 ? level_logits.coeff(t, 0) : level_logits.coeff(0, t));
      logits_(t) = static_cast<Sum>(given);
      if (detail::is_finite(logits_(t)) || detail::is_minus_infinity(given)) continue;
      throw OptionError(
          detail::message("level_logits(", t, ") = ", given, detail::must_be_finite<Sum>(given), " or -inf"));
    }
    const Sum top = logits_.maxCoeff();
    powers_.resize(logits_.size());
    for (Index t = 0; t < logits_.size(); ++t)
      powers_(t) = detail::is_minus_infinity(logits_(t)) ? Sum(0) : std::exp(logits_(t) - top);
  }

  TcAttention(const TcAttention&) = default;
  TcAttention(TcAttention&&) noexcept = default;
  /// By value: where copying throws, the method stays what it was.
  TcAttention& operator=(TcAttention other) {
    tree_ = std::move(other.tree_);
    logits_.swap(other.logits_);
    powers_.swap(other.powers_);
    options_ = other.options_;
    return *this;
  }

  const DecisionTree<S>& tree() const { return tree_; }
  const Vector<Sum>& level_logits() const { return logits_; }
  const TcOptions& options() const { return options_; }

  /// See core/method.hpp.
  void check_heads(const CallShape& heads, const AttentionOptions& options) const {
    detail::check_tree(tree_, heads.d, options.mask);
    const Mask& mask = options.mask;
    const auto refuse = [](bool given, const char* name) {
      if (given)
        throw OptionError(detail::message(name, " is given but must not be: TcAttention scores no single key"));
    };
    refuse(mask.window_left != Mask::unlimited, "Mask::window_left");
    refuse(mask.window_right != Mask::unlimited, "Mask::window_right");
    refuse(mask.allowed.given(), "Mask::allowed");
    refuse(mask.bias.given(), "Mask::bias");
    refuse(mask.alibi_slope.given(), "Mask::alibi_slope");
    refuse(options.softcap.has_value(), "AttentionOptions::softcap");
    refuse(options.sinks.given(), "AttentionOptions::sinks");
  }

  /// See core/method.hpp.
  template <class Call>
    requires std::is_same_v<typename Call::Sum, Sum>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    const Call& one = calls.front();
    check_heads({.d = one.k.cols}, options);
    if (one.q.rows == 0) return;
    const detail::WithWorkspace own(context);
    const Context& inner = own.context();
    detail::visit_routed_heads(tree_, calls, heads_per_kv, options.mask, inner, nullptr,
                               [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
                                 const detail::LevelWeights<Sum> levels = level_weights(call.k.cols, options);
                                 const bool causal = options.mask.causal != Causal::none;
                                 const Work work =
                                     causal ? attend_causal(call, query_leaf, keys, levels, options.mask, inner)
                                            : attend_whole(call, query_leaf, keys, levels, options.mask, inner);
                                 if (context.flops != nullptr) count(*context.flops, call, options.mask, work);
                               });
  }

  /// Adds to `sums` the column maxima and summed squares of the weights A_ij of each call, key head c / heads_per_kv at
  /// [c / heads_per_kv * n_k]; see detail::add_path_columns. Counts as Phase::route: routing, and 5 flops a level and
  /// query, one a level and key; by_query 2 d a level and query, d a level and key more; an exponential a level and
  /// query.
  template <class Call>
    requires std::is_same_v<typename Call::Sum, Sum>
  void add_column_weights(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                          const detail::ColumnSums<Sum>& sums, const Context& context) const {
    const Call& one = calls.front();
    check_heads({.d = one.k.cols}, options);
    const Index n_k = one.k.rows;
    detail::visit_routed_heads(
        tree_, calls, heads_per_kv, options.mask, context, nullptr,
        [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
          const Index offset = (&call - calls.data()) / heads_per_kv * n_k;
          detail::add_path_columns(call.q, call.k, query_leaf, keys.leaf_of(), tree_.height(),
                                   level_weights(call.k.cols, options), key_width(call.k.cols), options.mask,
                                   {sums.largest + offset, sums.squares + offset}, *context.workspace);
          if (context.flops == nullptr) return;
          const double levels = static_cast<double>(tree_.height() + 1),
                       d = static_cast<double>(key_width(call.k.cols));
          const double n_q = static_cast<double>(call.q.rows);
          const double n_real = static_cast<double>(std::min(n_k, options.mask.n_real_keys));
          context.flops->add_products(Phase::route, levels * (n_q * (5 + 2 * d) + n_real * (1 + d)));
          context.flops->add_exponentials(levels * n_q);
        });
  }

  /// Weights of the levels for keys of width d.
  detail::LevelWeights<Sum> level_weights(Index d, const AttentionOptions& options) const {
    const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d)));
    return {logits_.data(), powers_.data(), options_.by_query, static_cast<Sum>(scale)};
  }

 private:
  using Sums = detail::PathSums<Sum>;

  // Work of one head.
  struct Work {
    Index rows_added = 0;   // to nodes
    Index levels_read = 0;  // of paths
  };

  Index key_width(Index d) const { return options_.by_query ? d : 0; }

  // A thread for about ten microseconds of additions.
  static int addition_threads(double additions, const Context& context) {
    return detail::threads_for(additions, 2e4, detail::thread_count(context.threads));
  }

  // All keys of a sequence at once: sums in the leaves, then upwards, then read.
  template <class Call>
  Work attend_whole(const Call& call, const Index* query_leaf, const detail::LeafLists& keys,
                    const detail::LevelWeights<Sum>& levels, const Mask& mask, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    const Index n_leaves = tree_.n_leaves(), height = tree_.height(), d_v = call.v.cols;
    const Sums sums = Sums::take(frame, height, d_v, key_width(call.k.cols));
    Sum* table = frame.template take<Sum>(n_leaves * d_v);
    bool* ready = frame.template take<bool>(n_leaves);
    Sum* weights = frame.template take<Sum>(height + 1);
    const detail::OwnKeys own(mask, call.q.rows, call.k.rows);
    Work work{keys.size(0, n_leaves), 0};
    for (Index first = 0, end = 0; first < call.q.rows; first = end) {
      const KeyRangeOf range = own.of(first);
      end = detail::end_of_sequence(mask, first, call.q.rows);
      sums.clear();
      const double additions = static_cast<double>((range.high - range.low) * d_v);
      detail::for_each_task(n_leaves, addition_threads(additions, context), [&](Index leaf) {
        const TokenSet all = keys.tokens(leaf);
        const Index from = detail::tokens_below(all, range.low), to = detail::tokens_below(all, range.high);
        if (from < to) sums.add(n_leaves + leaf, call.k, call.v, all.part(from, to - from));
      });
      sums.sum_up();
      work.rows_added += n_leaves - 1;
      std::fill_n(ready, n_leaves, false);
      for (Index i = first; i < end; ++i) {
        Sum* known = table + query_leaf[i] * d_v;
        if (levels.by_query || !ready[query_leaf[i]]) {
          ready[query_leaf[i]] = true;
          work.levels_read += detail::read_path(sums, query_leaf[i], levels, call.q, i, weights, known);
        }
        write(call, i, 0, d_v, known);
      }
    }
    return work;
  }

  // Running sums along the keys, which every query reads in turn. Threads share out the columns.
  template <class Call>
  Work attend_causal(const Call& call, const Index* query_leaf, const detail::LeafLists& keys,
                     const detail::LevelWeights<Sum>& levels, const Mask& mask, const Context& context) const {
    const Index d_v = call.v.cols, height = tree_.height();
    const double additions = 2.0 * static_cast<double>(call.q.rows * d_v * (height + 1));
    // A task is a few columns for all tokens, whole vectors of them; by_query weighs by whole rows of keys: one task.
    const Index share = levels.by_query ? 1 : addition_threads(additions, context);
    const Index width = std::max<Index>(1, ((d_v + share - 1) / share + 15) / 16 * 16);
    const Index n_tasks = std::max<Index>(1, (d_v + width - 1) / width);
    Workspace::Frame frame(*context.workspace);
    const detail::OwnKeys own(mask, call.q.rows, call.k.rows);
    const Index* key_leaf = keys.leaf_of();
    Work work{(height + 1) * keys.size(0, tree_.n_leaves()), 0};
    detail::for_each_task(
        n_tasks, static_cast<int>(share), frame,
        [&](detail::Scratch& scratch) { return take_causal(scratch, width, call.k.cols); },
        [&](CausalState& state, Index task) {
          const Index first = task * width, n = std::min(width, d_v - first);
          Sums& sums = state.sums;
          sums.d_v = n;
          const auto values = call.v.columns(first, n);
          Index low = -1, next = 0;
          for (Index i = 0; i < call.q.rows; ++i) {
            const KeyRangeOf range = own.of(i);
            if (range.low != low) {  // another sequence
              sums.clear();
              low = next = range.low;
            }
            for (; next < range.high; ++next) sums.add_path(key_leaf[next], call.k, values, next);
            const Index read = detail::read_path(sums, query_leaf[i], levels, call.q, i, state.weights, state.row);
            if (task == 0) work.levels_read += read;  // every task reads them
            write(call, i, first, n, state.row);
          }
        });
    return work;
  }

  // Columns [first, first + n) of row i of the call's output.
  template <class Call>
  static void write(const Call& call, Index i, Index first, Index n, const Sum* row) {
    if constexpr (std::is_same_v<typename Call::Out, Sum>) {
      if (call.out.col_stride == 1) {
        std::copy_n(row, n, call.out.data + i * call.out.row_stride + first);
        return;
      }
    }
    for (Index c = 0; c < n; ++c) call.out(i, first + c) = static_cast<typename Call::Out>(row[c]);
  }

  struct CausalState {
    Sums sums;
    Sum* weights;
    Sum* row;
  };
  CausalState take_causal(detail::Scratch& scratch, Index width, Index d) const {
    const Sums sums = Sums::take(scratch, tree_.height(), width, key_width(d));
    Sum* weights = scratch.take<Sum>(tree_.height() + 1);
    return {sums, weights, scratch.take<Sum>(width)};
  }

  // Additions of rows count one each, weights times rows two.
  template <class Call>
  void count(FlopCounter& flops, const Call& call, const Mask& mask, const Work& work) const {
    const double d_v = static_cast<double>(call.v.cols), d = static_cast<double>(key_width(call.k.cols));
    const double added = static_cast<double>(work.rows_added), read = static_cast<double>(work.levels_read);
    flops.add_products(Phase::values, (added + 2.0 * read) * d_v);
    flops.add_products(Phase::scores, (added + 2.0 * read) * d);
    flops.add_exponentials(read);
    flops.add_tokens(static_cast<double>(std::min(call.k.rows, mask.n_real_keys)), static_cast<double>(call.k.rows));
  }

  using KeyRangeOf = detail::KeyRange;

  DecisionTree<S> tree_;
  Vector<Sum> logits_;
  Vector<Sum> powers_;  // e^(logit - the largest)
  TcOptions options_;
};

}  // namespace heed
