#pragma once
#include <algorithm>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/approx/detail/near_tiles.hpp"
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/engine/run_pairs.hpp"
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
///
/// A query whose leaf holds no key that the mask keeps for it sees the keys of the deepest node on its path that does.
/// Padding and keys that no query keeps join no leaf. With `window_left` or `n_sinks`, S(i) is united with the window
/// and the first keys; every pair counts once. With `leaf_cap`, the keys of a leaf behind the first leaf_cap stand as
/// one key: the mean key, value, position and bias of those that the mask keeps, with their number as its weight. The
/// window does not see them one by one then.
/// This is a definition of its own, never a stand-in for exact attention: an untrained tree answers far from it.
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v, d the width of the tree's planes; float trees also serve half and
///         bfloat16.
/// Empty   a query that keeps no key at all gets out = 0 and lse = -inf.
/// Errors  as attend; ShapeError if cols(q) differs from the tree's d; OptionError for TreeBiases::key_medians with a
///         causal mask or packed sequences: medians, which are over the keys that some query sees, would let queries
///         see the future or another sequence.
/// Cost    routing 2 h d flops a token (Phase::route), then 2 (d + d_v) flops and one exponential per pair in S(i):
///         about 2 (d + d_v) n_q n_k / 2^h where leaves are balanced; as much as exact attention where all keys lie in
///         one leaf or all queries fall back to the root. Centroids: 2 (d + d_v) flops each (Phase::far_field).
///         Memory: the pairs of all heads are made at once, O(n_heads (n_q + n_k + 2^h)), h 2^h where queries fall
///         back from everywhere; with leaf_cap those of one head at a time. O(n_q d_v) more where parts are united.
/// Threads const and re-entrant; results do not depend on context.threads. Heads that share keys share the routing of
///         the keys, and counts charge each head for it. Height 0 is exact attention bit for bit.
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

  /// See core/method.hpp.
  void check_heads(const CallShape& heads, const AttentionOptions& options) const {
    detail::check_tree(tree_, heads.d, options.mask);
  }

  /// See core/method.hpp. False with TfOptions::leaf_cap: a centroid is no key.
  bool names_pairs() const { return !options_.leaf_cap.has_value(); }

  /// See core/method.hpp.
  template <detail::SummedIn<Accumulator<S>> Call>
  detail::Pairs pairs(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                      const Context& context, Workspace::Frame& frame) const {
    if (tree_.height() == 0) return detail::every_pair(calls, options.mask, frame);  // unions add nothing
    detail::Pairs pairs(frame);
    detail::visit_routed_heads(tree_, calls, heads_per_kv, options.mask, context, &frame,
                               [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
                                 add_head(pairs, &call - calls.data(), call, query_leaf, keys, call.k.rows, options);
                               });
    return pairs;
  }

  /// See core/method.hpp: with leaf_cap.
  template <detail::SummedIn<Accumulator<S>> Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    detail::visit_routed_heads(tree_, calls, heads_per_kv, options.mask, context, nullptr,
                               [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
                                 attend_capped(call, query_leaf, keys, options, context);
                               });
    if (context.flops != nullptr)
      detail::count_tokens(*context.flops, options.mask, calls.front().k.rows, static_cast<Index>(calls.size()));
  }

  /// Throws where a backward pass is asked for more than the gradient inside leaves.
  /// Errors  OptionError unless BackwardOptions::routing is none, and with TfOptions::leaf_cap.
  void check_backward(const BackwardOptions& backward) const {
    if (backward.routing != RoutingGradient::none) {
      throw OptionError(
          "heed: BackwardOptions::routing must be RoutingGradient::none for TfAttention: it has the gradient inside "
          "leaves, not that of its routing");
    }
    if (options_.leaf_cap) {
      throw OptionError(detail::message("TfOptions::leaf_cap = ", *options_.leaf_cap,
                                        " must be absent in a backward pass: a centroid has none"));
    }
  }

  /// Errors  OptionError with TfOptions::leaf_cap: a centroid has no single key.
  void check_key_weights() const {
    if (!options_.leaf_cap) return;
    throw OptionError(detail::message("TfOptions::leaf_cap = ", *options_.leaf_cap,
                                      " must be absent where the weights of single keys are asked for"));
  }

 private:
  static void refuse(const char* name, Index value, Index least) {
    throw OptionError(detail::message("TfOptions::", name, " = ", value, " must be >= ", least));
  }

  // Adds the pairs of one head: its leaves, at most `cap` keys of each, and what they are united with, where that has
  // other pairs.
  template <class Call>
  detail::LeafTiles add_head(detail::Pairs& pairs, Index number, const Call& call, const Index* query_leaf,
                             const detail::LeafLists& keys, Index cap, const AttentionOptions& options) const {
    const Index n_q = call.q.rows, n_k = call.k.rows;
    const detail::LeafTiles tiles =
        detail::leaf_tiles(query_leaf, n_q, n_k, keys, tree_.height(), options.mask, call.head, cap, pairs.frame());
    detail::PairsGroup& group = pairs.add_group(number, 1);
    pairs.add_part(group, tiles.tiles);
    if (!options_.window_left && options_.n_sinks == 0) return tiles;
    const detail::NearTiles near = detail::near_tiles(options_.n_sinks, options.mask, n_q, n_k, pairs.frame());
    const detail::PairRule in_no_leaf{tiles.key_leaf, tiles.first_leaf, tiles.end_leaf};
    if (options_.n_sinks > 0) pairs.add_part(group, near.sinks, in_no_leaf);
    if (options_.window_left) {
      detail::PairsPart& window = pairs.add_part(group, near.behind, in_no_leaf);
      window.window_left = *options_.window_left;
      window.window_right = 0;
    }
    return tiles;
  }

  template <class Call>
  void attend_capped(const Call& call, const Index* query_leaf, const detail::LeafLists& keys,
                     const AttentionOptions& options, const Context& context) const {
    const Index cap = *options_.leaf_cap;
    Workspace::Frame frame(*context.workspace);
    detail::Pairs pairs(frame);
    const detail::LeafTiles tiles = add_head(pairs, 0, call, query_leaf, keys, cap, options);
    const std::span<const Call> one(&call, 1);
    bool overflows = false;
    for (Index l = 0; l < keys.n_leaves(); ++l) overflows = overflows || keys.size(l) > cap;
    if (!overflows && pairs.groups()->is_one_part()) {
      detail::run_part(*pairs.groups()->parts, one, Index(1), options, NoScoreMod{}, context);
      return;
    }
    detail::run_merged(
        *pairs.groups(), one, options, NoScoreMod{}, context, [&](auto& parts, const AttentionOptions& without_sinks) {
          if (!overflows) return;
          const double n = static_cast<double>(detail::add_overflow(parts.next(), tiles, keys, cap, without_sinks,
                                                                    frame, detail::thread_count(context.threads)));
          if (context.flops == nullptr) return;
          context.flops->add_products(Phase::far_field, 2.0 * n * static_cast<double>(call.k.cols + call.v.cols));
          context.flops->add_exponentials(n);
        });
  }

  DecisionTree<S> tree_;
  TfOptions options_;
};

}  // namespace heed
