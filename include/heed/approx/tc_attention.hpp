#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include <Eigen/Core>

#include "heed/approx/detail/tc_forward.hpp"
#include "heed/approx/detail/tc_gradient_sums.hpp"
#include "heed/approx/detail/tc_head.hpp"
#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/gradients.hpp"
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
#include "heed/trees/tree_sums.hpp"

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
/// Errors  as attend; ShapeError if cols(q) differs from the tree's d. Of the masks it has causal ones, padding, absent
///         keys (Mask::keys), which join no node, and packed sequences: OptionError for windows, pair masks, ALiBi,
///         softcap and sinks, which need a score per key.
/// Cost    routing 2 h d flops a token (once for queries that are the keys, the same rows of memory; absent keys that
///         are no queries are not routed), and d_v additions a key that some query sees; then d_v additions an inner
///         node and sequence, and 2 d_v flops and an exponential a level of each leaf that has queries. Causal: (h + 1)
///         d_v additions a key and 2 (h + 1) d_v a query. by_query: 2 (h + 1) (d + d_v) a query, d additions with every
///         d_v. Levels that are off or hold no key cost nothing. Memory 2^(h+1) (d_v + 1) numbers, and d more by_query.
/// Threads const and re-entrant; results do not depend on context.threads.
/// Gradient by v, level_logits and the tree, by q and k through their routing and, by_query, through the weights of the
///         levels: see attend_heads_backward.
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
    check_logits(level_logits);
    powers_.resize(logits_.size());
    write_logits(level_logits);
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

  /// Puts other numbers in the place of those of its tree, as DecisionTree::set_numbers does, and of its logits:
  /// nothing is allocated.
  /// Errors  as the constructor and DecisionTree::set_numbers; the method is untouched then.
  template <NumberMatrix Planes, NumberMatrix Biases, NumberMatrix Logits>
  void set_numbers(const Planes& planes, const Biases& biases, const Logits& level_logits) {
    check_logits(level_logits);
    tree_.set_numbers(planes, biases);
    write_logits(level_logits);
  }

  const DecisionTree<S>& tree() const { return tree_; }
  const Vector<Sum>& level_logits() const { return logits_; }
  const TcOptions& options() const { return options_; }

  /// See core/method.hpp.
  void check_heads(const CallShape& heads, const AttentionOptions& options) const {
    detail::check_tree(tree_, heads.d, options.mask);
    detail::refuse_pair_scores(options, "TcAttention scores no single key");
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
                                 detail::TcForward<Call>(head(call, query_leaf, keys, options, inner)).run(inner.flops);
                               });
  }

  /// Gradients of the method's own parameters: d_tree.planes, d_tree.biases, d_level_logits.
  struct Gradients {
    TreeGradient<Sum> d_tree;
    Vector<Sum> d_level_logits;  ///< h + 1; 0 where the level is off
  };
  void size_gradients(Gradients& gradients) const {
    gradients.d_tree.planes.resize(tree_.planes().rows(), tree_.planes().cols());
    gradients.d_tree.biases.resize(tree_.biases().size());
    gradients.d_level_logits.resize(logits_.size());
  }
  /// See core/method.hpp.
  template <class Grads>
  void check_gradients(Grads& gradients) const {
    if constexpr (requires { gradients.d_tree; }) detail::check_tree_gradient(gradients.d_tree, tree_, "d_tree");
    if constexpr (requires { gradients.d_level_logits; }) {
      const auto logits = output_view_of(gradients.d_level_logits);
      static_assert(std::is_same_v<typename decltype(logits)::Scalar, Sum>,
                    "heed: d_level_logits must have the scalar sums are kept in");
      if (logits.rows * logits.cols == 0) return;
      detail::check_gradient(logits.rows, logits.cols, "d_level_logits", "a column of level_logits", logits_.size(), 1);
    }
  }

  /// The gradient of one call, see core/method.hpp. With G = d_out, N_v, V_v and K_v the number of keys in node v (of
  /// those query i may see) and the sums of their value and key rows, C_v = V_v / N_v, c_v = K_v / N_v,
  /// p_t = <G_i, C_t> on the path of query i, and w_t its logit of level t:
  ///   dL/dw_t = alpha_t (p_t - sum_s alpha_s p_s), summed over queries the gradient by the level's logit,
  ///   dL/dV_v = sum_i (alpha_t / N_v) G_i,   dL/dN_v = -sum_i (alpha_t / N_v) p_t,
  ///   d_v_j = sum over the path of key j of dL/dV_v;
  /// by_query adds scale sum_t dL/dw_t c_t to d_q_i, (scale / N_v) sum_i dL/dw_t q_i to dL/dK_v, which d_k_j sums over
  /// the path, and sum_i dL/dw_t (1 - scale q_i . c_v) / N_v to dL/dN_v.
  ///
  /// Routing   unless RoutingGradient::none; flip and all_leaves are the same here, since every node of the tree has a
  ///           signal, and BackwardOptions::bounded changes nothing, since weights are at most 1. With g a token's soft
  ///           leaves, one for its own: for query i dL/dg_l = <G_i, out_i^l>, out_i^l what it would see from leaf l,
  ///           with the levels' weights of that path: alpha_t <G_i, C_v>, summed over the path to l; for key j
  ///           dL/dg_l = sum over the path to l of <dL/dV_v, v_j> + <dL/dK_v, k_j> + dL/dN_v. Then g = softmax(P s),
  ///           s = sign(z), and dL/dz = [|z| <= 1] P^T (g * (dL/dg - <g, dL/dg>)); see detail::leaves_to_nodes and
  ///           detail::add_routing_gradient. A node without keys gives neither: which nodes are empty stands as it is.
  /// Empty     a query without keys, a key that no query sees and a level that is off have gradient 0. A row of q or k
  ///           that is not finite gives its routing none.
  /// Cost      sums of keys again; 4 d_v flops a level of each leaf that has queries, causal or by_query 4 d_v + 6 d of
  ///           each query; additions of d_v, two a key and one a query, causal 2 (h + 1) a key. Routing: 2^(h+1) d_v
  ///           flops a token, twice that for causal keys and for queries that are causal or by_query, and 6 (2^h - 1)
  ///           d; d joins d_v by_query. Products of tokens of one panel with one another, which causal routing takes,
  ///           are not counted. Memory of 2^(h+1) (d_v + d) numbers, 3 (h + 1) a query where it is causal or by_query,
  ///           some 2^(h+1) for each token of a panel a thread, and, for causal routing, up to 16 tables of the first
  ///           size, fewer for large trees.
  /// Threads   the same bits for any context.threads: what threads share out does not depend on one another.
  /// Source    Karthikeyan, Jain, Natarajan, Jain 2021, section 4 (the tree); the rest is the chain rule.
  template <class Call, class Grads>
    requires std::is_same_v<typename Call::Sum, Sum>
  void attend_heads_backward(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                             const BackwardOptions& backward, Grads& gradients, const Context& context) const {
    const detail::WithWorkspace own(context);
    const Context& inner = own.context();
    Workspace::Frame frame(own.workspace());
    const bool routes = backward.routing != RoutingGradient::none && tree_.height() > 0;
    detail::TcGradientSums<Sum> sums(tree_, routes, gradients, frame);
    if (!calls.empty() && calls.front().q.rows > 0) {
      detail::visit_routed_heads(tree_, calls, heads_per_kv, options.mask, inner, nullptr,
                                 [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys,
                                     const detail::Router<Sum>& router) {
                                   sums.add(head(call, query_leaf, keys, options, inner), router, inner);
                                 });
    }
    sums.write(gradients);
  }

  /// Adds to `sums` the column maxima and summed squares of the weights A_ij of each call, key head c / heads_per_kv at
  /// [c / heads_per_kv * n_k]; see detail::add_path_columns. Counts as Phase::route: routing, and 5 flops a level and
  /// query, one a level and key that some query sees; by_query 2 d a level and query, d a level and key more; an
  /// exponential a level and query.
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
          detail::add_path_columns(call.q, call.k, query_leaf, keys, tree_.height(),
                                   level_weights(call.k.cols, options), key_width(call.k.cols), options.mask,
                                   {sums.largest + offset, sums.squares + offset}, *context.workspace);
          if (context.flops == nullptr) return;
          const double levels = static_cast<double>(tree_.height() + 1),
                       d = static_cast<double>(key_width(call.k.cols));
          const double n_q = static_cast<double>(call.q.rows);
          const double n_seen = static_cast<double>(keys.size(0, keys.n_leaves()));
          context.flops->add_products(Phase::route, levels * (n_q * (5 + 2 * d) + n_seen * (1 + d)));
          context.flops->add_exponentials(levels * n_q);
        });
  }

  /// Weights of the levels for keys of width d.
  detail::LevelWeights<Sum> level_weights(Index d, const AttentionOptions& options) const {
    const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d)));
    return {logits_.data(), powers_.data(), options_.by_query, static_cast<Sum>(scale)};
  }

 private:
  template <class Logits>
  static double entry(const Logits& logits, Index t) {
    return static_cast<double>(logits.cols() == 1 ? logits.coeff(t, 0) : logits.coeff(0, t));
  }
  template <class Logits>
  void check_logits(const Logits& level_logits) const {
    if (level_logits.size() != tree_.height() + 1) {
      throw ShapeError(detail::message("level_logits has ", level_logits.size(),
                                       " entries but must have height + 1 = ", tree_.height() + 1));
    }
    for (Index t = 0; t < level_logits.size(); ++t) {
      const double given = entry(level_logits, t);
      if (detail::is_finite(static_cast<Sum>(given)) || detail::is_minus_infinity(given)) continue;
      throw OptionError(
          detail::message("level_logits(", t, ") = ", given, detail::must_be_finite<Sum>(given), " or -inf"));
    }
  }
  template <class Logits>
  void write_logits(const Logits& level_logits) {
    for (Index t = 0; t < logits_.size(); ++t) logits_(t) = static_cast<Sum>(entry(level_logits, t));
    const Sum top = logits_.maxCoeff();
    for (Index t = 0; t < logits_.size(); ++t)
      powers_(t) = detail::is_minus_infinity(logits_(t)) ? Sum(0) : std::exp(logits_(t) - top);
  }

  template <class Call>
  detail::TcHead<Call> head(const Call& call, const Index* query_leaf, const detail::LeafLists& keys,
                            const AttentionOptions& options, const Context& context) const {
    return {call,
            query_leaf,
            keys,
            tree_.height(),
            level_weights(call.k.cols, options),
            options.mask,
            *context.workspace,
            detail::thread_count(context.threads)};
  }

  Index key_width(Index d) const { return options_.by_query ? d : 0; }

  DecisionTree<S> tree_;
  Vector<Sum> logits_;
  Vector<Sum> powers_;  // e^(logit - the largest)
  TcOptions options_;
};

}  // namespace heed
