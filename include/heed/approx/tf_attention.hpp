#pragma once
#include <algorithm>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/approx/detail/near_tiles.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/label_rule.hpp"
#include "heed/engine/merged_parts.hpp"
#include "heed/engine/run_pattern.hpp"
#include "heed/engine/softmax_engine.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_overflow.hpp"
#include "heed/trees/leaf_tiles.hpp"
#include "heed/trees/routed_heads.hpp"

namespace heed {

/// What TF-attention sees besides the leaf. All off by default: the published layer.
struct TfOptions {
  std::optional<Index>
      window_left{};                ///< also keys up to this far before the aligned diagonal, and the one on it; >= 0
  Index n_sinks = 0;                ///< also the first keys of the query's sequence; >= 0
  std::optional<Index> leaf_cap{};  ///< error knob: keys of a leaf seen one by one, the rest as one centroid; >= 1
};

/// Treeformer's fine-grained attention: softmax over the keys in the query's leaf,
/// out_i = sum_{j in S(i)} softmax_j(score(i, j)) v_j, S(i) = { j : leaf(k_j) = leaf(q_i), the mask keeps (i, j) }.
/// A query whose leaf holds no key that the mask keeps for it sees those of the deepest node on its path that does. Padding and
/// keys that no query keeps join no leaf. With `window_left` or `n_sinks` S(i) is united with the window and the first keys, every pair counted once. With
/// `leaf_cap`, the keys of a leaf after the first leaf_cap stand as one: those of them the mask keeps, by their mean key, value,
/// position and bias, with weight their number; the window leaves them to that one.
/// It is a definition of its own, never a stand-in for exact attention: an untrained tree answers far from it.
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v, d the width of the tree's planes; float trees also serve half and bfloat16.
/// Empty   a query that keeps no key at all gets out = 0 and lse = -inf.
/// Errors  as attend; ShapeError if cols(q) differs from the tree's d; OptionError for TreeBiases::key_medians with a causal mask or
///         packed sequences, which it would let see the future or each other. Medians are over the keys some query sees.
/// Cost    routing 2 h d flops a token (Phase::route), then 2 (d + d_v) flops and one exponential per pair in S(i): balanced, about
///         2 (d + d_v) n_q n_k / 2^h; all keys in one leaf, or all queries falling back to the root: that of exact attention.
///         Centroids: 2 (d + d_v) flops each (Phase::far_field). Memory O(n_q + n_k + 2^h), and O(n_q d_v) where parts are united.
/// Threads const and re-entrant; results do not depend on context.threads. Heads that share keys share their routing, and counts
///         charge each head for it. Height 0 is exact attention bit for bit.
/// Source  Madaan, Bhojanapalli, Jain, Jain 2023, section 3.1. The rules for empty leaves and causal masks are ours.
template <RealScalar S>
class TfAttention {
 public:
  static constexpr bool has_softmax = true;

  /// Errors  OptionError for a negative window or number of sinks, or leaf_cap < 1.
  explicit TfAttention(DecisionTree<S> tree, const TfOptions& options = {})
      : tree_(std::move(tree)), options_(options) {
    if (options.window_left.value_or(0) < 0) refuse("window_left", *options.window_left, 0);
    if (options.n_sinks < 0) refuse("n_sinks", options.n_sinks, 0);
    if (options.leaf_cap.value_or(1) < 1) refuse("leaf_cap", *options.leaf_cap, 1);
  }

  const DecisionTree<S>& tree() const { return tree_; }
  const TfOptions& options() const { return options_; }

  /// Throws what attend_heads would throw for heads of width d.
  void check_heads(Index d, const AttentionOptions& options) const { detail::check_tree(tree_, d, options.mask); }

  /// The method interface: see ExactAttention.
  template <class Call>
    requires std::is_same_v<typename Call::Sum, Accumulator<S>>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    check_heads(calls.front().k.cols, options);
    if (tree_.height() == 0 && !options_.leaf_cap) {  // every pair is in the leaf; unions add nothing
      const DensePattern dense{calls.front().q.rows, calls.front().k.rows};
      detail::run_engine(dense, calls, heads_per_kv, options, NoScoreMod{}, context);
      return;
    }
    std::optional<Workspace> own;
    Context inner = context;
    inner.workspace = context.workspace != nullptr ? context.workspace : &own.emplace();
    detail::visit_routed_heads(tree_, calls, heads_per_kv, options.mask, inner, *inner.workspace,
                               [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
                                 attend_head(call, query_leaf, keys, options, inner);
                               });
  }

  /// Errors  OptionError with TfOptions::leaf_cap: a centroid has no single key.
  void check_key_weights() const {
    if (!options_.leaf_cap) return;
    throw OptionError(detail::message("TfOptions::leaf_cap = ", *options_.leaf_cap,
                                      " must be absent where the weights of single keys are asked for"));
  }

  /// Errors  as check_key_weights.
  template <class Call, class Visit>
  void visit_pattern(std::span<const Call> calls, const AttentionOptions& options, const Context& context,
                     const Visit& visit) const {
    if (calls.empty()) return;
    check_key_weights();
    const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows;
    if (tree_.height() == 0) {
      visit(calls, DensePattern{n_q, n_k}, NoScoreMod{}, options);
      return;
    }
    detail::visit_routed_heads(
        tree_, calls, Index(1), options.mask, context, *context.workspace,
        [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
          Workspace::Frame frame(*context.workspace);
          const detail::LeafTiles tiles =
              detail::leaf_tiles(query_leaf, n_q, n_k, keys, tree_.height(), options.mask, call.head, n_k, frame);
          const auto visit_part = [&](const auto& part, const auto& mod, const AttentionOptions& part_options) {
            visit(std::span<const Call>(&call, 1), part, mod, part_options);
          };
          visit_part(tiles, NoScoreMod{}, options);
          visit_near(tiles, n_q, n_k, options, frame, visit_part);
        });
  }

 private:
  static void refuse(const char* name, Index value, Index least) {
    throw OptionError(detail::message("TfOptions::", name, " = ", value, " must be >= ", least));
  }

  bool united() const { return options_.window_left.has_value() || options_.n_sinks > 0; }

  // Calls visit(pattern, score_mod, options) for what is united with the leaves: its pairs that are in none.
  template <class Visit>
  void visit_near(const detail::LeafTiles& tiles, Index n_q, Index n_k, const AttentionOptions& options,
                  Workspace::Frame& frame, const Visit& visit) const {
    if (!united()) return;
    const detail::NearTiles near = detail::near_tiles(options_.n_sinks, options.mask, n_q, n_k, frame);
    const detail::LabelRule not_in_leaf{tiles.key_leaf, tiles.first_leaf, tiles.end_leaf};
    if (options_.n_sinks > 0) visit(near.sinks, not_in_leaf, options);
    if (options_.window_left) visit(near.behind, not_in_leaf, detail::within_window(options, *options_.window_left));
  }

  template <class Call>
  void attend_head(const Call& call, const Index* query_leaf, const detail::LeafLists& keys,
                   const AttentionOptions& options, const Context& context) const {
    const Index n_q = call.q.rows, n_k = call.k.rows;
    const Index cap = options_.leaf_cap.value_or(n_k);
    Workspace::Frame frame(*context.workspace);
    const detail::LeafTiles tiles =
        detail::leaf_tiles(query_leaf, n_q, n_k, keys, tree_.height(), options.mask, call.head, cap, frame);
    bool overflows = false;
    for (Index l = 0; options_.leaf_cap && l < keys.n_leaves(); ++l) overflows = overflows || keys.size(l) > cap;
    if (!united() && !overflows) {
      detail::run_engine(tiles, std::span<const Call>(&call, 1), Index(1), options, NoScoreMod{}, context);
      return;
    }
    const int threads = detail::thread_count(context.threads);
    detail::MergedParts<Call> parts(call, frame, threads);
    FlopCounter flops;
    Context inner = context;
    if (context.flops != nullptr) inner.flops = &flops;
    AttentionOptions without_sinks = options;
    without_sinks.sinks = PerHead();
    detail::run_part(tiles, parts, without_sinks, NoScoreMod{}, inner);
    if (overflows) {
      const double pairs =
          static_cast<double>(detail::add_overflow(parts.next(), tiles, keys, cap, options, frame, threads));
      flops.add_products(Phase::far_field, 2.0 * pairs * static_cast<double>(call.k.cols + call.v.cols));
      flops.add_exponentials(pairs);
    }
    visit_near(tiles, n_q, n_k, without_sinks, frame,
               [&](const auto& part, const auto& mod, const AttentionOptions& part_options) {
                 detail::run_part(part, parts, part_options, mod, inner);
               });
    parts.finish(options.sinks);
    if (context.flops != nullptr) detail::add_parts(*context.flops, flops, options.mask, n_k);
  }

  DecisionTree<S> tree_;
  TfOptions options_;
};

}  // namespace heed
