#pragma once
#include <cassert>
#include <cstddef>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "heed/approx/detail/tf_capped.hpp"
#include "heed/approx/detail/tf_gradients.hpp"
#include "heed/approx/detail/tf_heads.hpp"
#include "heed/approx/detail/tf_routing.hpp"
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/pairs.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/routed_heads.hpp"

namespace heed {

/// What TF-attention sees besides the leaf. All off by default: the published layer.
struct TfOptions {
  std::optional<Index>
      window_left{};                ///< also keys up to this far before the aligned diagonal, and the one on it; >= 0
  Index n_sinks = 0;                ///< also the first keys of the query's sequence; >= 0
  std::optional<Index> leaf_cap{};  ///< error knob: keys of a leaf seen one by one, the rest as one centroid; >= 1
};

/// Gradients of the trees of TF-attention: of the only one in d_tree, of several in d_trees, in their order.
template <class T>
struct TfGradients {
  TreeGradient<T> d_tree;
  std::vector<TreeGradient<T>> d_trees;
};

/// Treeformer's fine-grained attention: softmax over the keys in the query's leaf,
/// out_i = sum_{j in S(i)} softmax_j(score(i, j)) v_j, S(i) = { j : leaf(k_j) = leaf(q_i), the mask keeps (i, j) }.
///
/// A query whose leaf holds no key that the mask keeps for it sees the keys of the deepest node on its path that does.
/// Padding and keys that no query keeps join no leaf. Of several trees, which share a width, S(i) is the union, each
/// with the rule for empty leaves of its own. With `window_left` or `n_sinks`, S(i) is united with the window and the
/// first keys; every pair counts once. With `leaf_cap`, the keys of a leaf behind the first leaf_cap stand as one key:
/// the mean key, value, position and bias of those that the mask keeps, with their number as its weight. The window
/// does not see them one by one then.
/// This is a definition of its own, never a stand-in for exact attention: an untrained tree answers far from it.
///
/// Backward passes have the gradient of the softmax over S(i), and that of routing. The soft form is
///   out_i = sum_j m_ij e_ij v_j / sum_j m_ij e_ij,  m_ij = sum_l g_l(q_i) g_l(k_j),  e_ij = e^score(i, j),
/// at one-hot g. Z_i = e^lse_i and mean_i = d_out_i . out_i - d_lse_i are those of the whole S(i). There are signals
/// dL/dg_l for the own leaf and, as BackwardOptions::routing says, for the h leaves a token would come to by one other
/// decision and its own ones behind it, or for all (LeafSignals). With t_ij = (e_ij / Z_i) (d_out_i . v_j - mean_i),
/// over the pairs that leaf l would add:
///   dL/dg_l(q_i) = sum_j t_ij, bounded: sum_j t_ij / (1 + sum_j e_ij / Z_i), which is the weight Z_i^l / (Z_i + Z_i^l)
///                  times (d_out_i . out_i^l - mean_i);
///   dL/dg_l(k_j) = sum_i t_ij, bounded: sum_i t_ij / (1 + e_ij / Z_i), each term of weight e_ij / (Z_i + e_ij).
/// Pairs of the own leaf have the weight e_ij / Z_i either way. Signals reach planes, biases, q and k straight through
/// the signs (add_routing_gradient). What a query sees in another way too, by the window, as a first key, through
/// another tree or because it fell back to an ancestor, gains nothing where leaves change and sends no signal.
/// Unbounded weights stop at 2^96 (double: 2^768).
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v, d the width of the tree's planes; float trees also serve half and
///         bfloat16. Gradients: d_tree.planes and d_tree.biases as the tree's; of several trees, d_trees[t].
/// Empty   a query that keeps no key at all gets out = 0 and lse = -inf.
/// Errors  as attend; ShapeError if cols(q) differs from the tree's d; OptionError for TreeBiases::key_medians with a
///         causal mask or packed sequences: medians, which are over the keys that some query sees, would let queries
///         see the future or another sequence. Backward: OptionError with leaf_cap.
/// Cost    routing 2 h d flops a token and tree (Phase::route; queries that are the keys, the same rows of memory, are
///         not routed again), then 2 (d + d_v) flops and one exponential per pair in S(i): about 2 (d + d_v)
///         n_q n_k / 2^h where leaves are balanced; as much as exact attention where all keys lie in one leaf or all
///         queries fall back to the root. Centroids: 2 (d + d_v) flops each (Phase::far_field). Memory: the pairs of
///         all heads are made at once, O(n_heads (n_q + n_k + 2^h)), h 2^h where queries fall back from everywhere;
///         with leaf_cap those of one head at a time. O(n_q d_v) more where parts are united.
///         Backward, beyond the pairs of S(i), each tree looks at those of the own leaf and of h others for queries,
///         then of h others for keys, about (1 + 2 h) n_q n_k / 2^h (all_leaves: at n_q n_k): 2 d flops each in
///         Phase::backward_scores, 2 d_v in Phase::backward_values, one exponential. Phase::route: 2 h d flops a token
///         to route again, h (h - 1) d to find the flipped leaves, 2 (2^h - 1) d to project on all nodes, whose
///         gradients are 4 (2^h - 1) d in Phase::backward_scores. Memory O((1 + h) (n_q + n_k)), with all_leaves 2^h
///         for 1 + h, for one head at a time.
/// Threads const and re-entrant; results do not depend on context.threads. Heads that share keys share the routing of
///         the keys, and counts charge each head for it. Height 0 is exact attention bit for bit.
/// Source  Madaan, Bhojanapalli, Jain, Jain 2023, section 3.1. The rules for empty leaves and causal masks, unions of
///         trees, the bounded weights and the set of flipped leaves are ours.
template <RealScalar S>
class TfAttention {
 public:
  static constexpr bool has_softmax = true;
  using Gradients = TfGradients<Accumulator<S>>;

  /// Errors  OptionError for a negative window or number of sinks, or leaf_cap < 1.
  explicit TfAttention(DecisionTree<S> tree, const TfOptions& options = {}) : options_(options) {
    trees_.push_back(std::move(tree));
    check();
  }
  /// Errors  as above; OptionError for no trees, and for leaf_cap with several; ShapeError for trees of several widths.
  explicit TfAttention(std::vector<DecisionTree<S>> trees, const TfOptions& options = {})
      : trees_(std::move(trees)), options_(options) {
    check();
  }

  /// Also what is moved from keeps its trees: a method always has one.
  TfAttention(const TfAttention&) = default;
  /// By value: where copying throws, the method stays what it was.
  TfAttention& operator=(TfAttention other) noexcept {
    trees_.swap(other.trees_);
    options_ = other.options_;
    return *this;
  }

  /// Puts other numbers in the place of those of tree t, 0 .. trees().size() - 1: see DecisionTree::set_numbers.
  template <NumberMatrix Planes, NumberMatrix Biases>
  void set_numbers(std::size_t t, const Planes& planes, const Biases& biases) {
    assert(t < trees_.size());
    trees_[t].set_numbers(planes, biases);
  }

  /// The first tree.
  const DecisionTree<S>& tree() const { return trees_.front(); }
  const std::vector<DecisionTree<S>>& trees() const { return trees_; }
  const TfOptions& options() const { return options_; }

  /// See core/method.hpp.
  void check_heads(const CallShape& heads, const AttentionOptions& options) const {
    for (const DecisionTree<S>& tree : trees_) detail::check_tree(tree, heads.d, options.mask);
  }

  /// See core/method.hpp. False with TfOptions::leaf_cap: a centroid is no key.
  bool names_pairs() const { return !options_.leaf_cap.has_value(); }

  /// See core/method.hpp.
  template <detail::SummedIn<Accumulator<S>> Call>
  detail::Pairs pairs(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                      const Context& context, Workspace::Frame& frame) const {
    if (sees_all()) return detail::every_pair(calls, options.mask, frame);  // unions add nothing
    detail::Pairs pairs(frame);
    const auto* leaves = detail::route_heads(all_trees(), calls, heads_per_kv, options.mask, context, frame);
    for (std::size_t c = 0; c < calls.size(); ++c) {
      detail::add_tf_parts(pairs, pairs.add_group(static_cast<Index>(c), 1),
                           std::span(leaves + c * trees_.size(), trees_.size()), options_.n_sinks, options_.window_left,
                           options.mask, calls[c].q.rows, calls[c].k.rows);
    }
    return pairs;
  }

  /// See core/method.hpp: with leaf_cap.
  template <detail::SummedIn<Accumulator<S>> Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    detail::visit_routed_heads(tree(), calls, heads_per_kv, options.mask, context, nullptr,
                               [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
                                 detail::attend_capped(call, query_leaf, keys, tree().height(), *options_.leaf_cap,
                                                       options_.n_sinks, options_.window_left, options, context);
                               });
    if (context.flops != nullptr)
      detail::count_tokens(*context.flops, options.mask, calls.front().k.rows, static_cast<Index>(calls.size()));
  }

  /// See core/method.hpp.
  /// Errors  OptionError with TfOptions::leaf_cap.
  void check_backward(const BackwardOptions&) const {
    if (options_.leaf_cap) {
      throw OptionError(detail::message("TfOptions::leaf_cap = ", *options_.leaf_cap,
                                        " must be absent in a backward pass: a centroid has none"));
    }
  }
  template <class Grads>
  void check_gradients(Grads& grads) const {
    detail::check_tf_gradients(grads, all_trees());
  }
  void size_gradients(Gradients& grads) const {
    grads.d_trees.resize(trees_.size() > 1 ? trees_.size() : 0);
    if (trees_.size() > 1) grads.d_tree = {};
    for (std::size_t t = 0; t < trees_.size(); ++t) {
      TreeGradient<Accumulator<S>>& own = trees_.size() > 1 ? grads.d_trees[t] : grads.d_tree;
      own.planes.resize(trees_[t].planes().rows(), trees_[t].planes().cols());
      own.biases.resize(trees_[t].biases().size());
    }
  }

  /// See core/method.hpp: the gradient of routing.
  template <detail::SummedIn<Accumulator<S>> Call, class Grads>
  void add_gradients(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                     const BackwardOptions& backward, Grads& grads, const Context& context) const {
    using T = Accumulator<S>;
    const std::size_t n_trees = trees_.size();
    Workspace::Frame frame(*context.workspace);
    const detail::TreeSums<T>* sums = detail::take_tree_sums<T>(grads, all_trees(), frame);
    const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows;
    if (backward.routing != RoutingGradient::none && !sees_all() && n_q > 0 && n_k > 0) {
      const auto* leaves = detail::route_heads(all_trees(), calls, heads_per_kv, options.mask, context, frame);
      const detail::PairRule* near =
          detail::without_near(options_.n_sinks, options_.window_left, options.mask, n_q, n_k, frame);
      for (std::size_t c = 0; c < calls.size(); ++c) {
        const std::span own(leaves + c * n_trees, n_trees);
        for (std::size_t t = 0; t < n_trees; ++t) {
          Workspace::Frame inside(*context.workspace);
          const detail::PairRule* otherwise =
              detail::without_trees(own.subspan(t + 1), detail::without_trees(own.first(t), near, inside), inside);
          const detail::TreeSignals<Call> signals(own[t], otherwise, calls[c], options, backward, inside);
          signals.compute(context);
          signals.add_to(sums[t], context);
        }
      }
    }
    detail::visit_tree_gradients(grads, n_trees, [&](auto& gradient, std::size_t t, const char*) {
      if (sums[t].planes != nullptr) sums[t].write(gradient);
    });
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
  void check() const {
    if (trees_.empty()) throw OptionError("heed: TfAttention's trees are 0 but must be at least 1");
    if (options_.window_left.value_or(0) < 0) refuse("window_left", *options_.window_left, 0);
    if (options_.n_sinks < 0) refuse("n_sinks", options_.n_sinks, 0);
    if (options_.leaf_cap.value_or(1) < 1) refuse("leaf_cap", *options_.leaf_cap, 1);
    if (options_.leaf_cap && trees_.size() > 1) {
      throw OptionError(detail::message("TfOptions::leaf_cap = ", *options_.leaf_cap,
                                        " must be absent with several trees: ", trees_.size(), " are given"));
    }
    const DecisionTree<S>* first = nullptr;  // with a width
    for (const DecisionTree<S>& tree : trees_) {
      if (tree.height() == 0) continue;
      if (first == nullptr) first = &tree;
      if (tree.d() != first->d()) {
        throw ShapeError(detail::message("TfAttention's trees have planes of ", first->d(), " and of ", tree.d(),
                                         " entries but must share one width"));
      }
    }
  }

  std::span<const DecisionTree<S>> all_trees() const { return trees_; }
  // Every key is in the only leaf of a tree of height 0.
  bool sees_all() const {
    for (const DecisionTree<S>& tree : trees_) {
      if (tree.height() == 0) return true;
    }
    return false;
  }

  std::vector<DecisionTree<S>> trees_;
  TfOptions options_;
};

}  // namespace heed
