#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/approx/detail/tf_heads.hpp"
#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/engine/run_memberships.hpp"
#include "heed/trees/flipped_leaves.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/leaf_signals.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/routing_gradient.hpp"
#include "heed/trees/tree_sums.hpp"

namespace heed::detail {

/// Pairs of the queries of one leaf with the keys of one: a group each, with the column its sums go to.
class LeafPairs {
 public:
  LeafPairs(Index most, Workspace::Frame& frame)
      : queries_(frame.take<TokenSet>(most)),
        keys_(frame.take<TokenSet>(most)),
        first_segment_(frame.take<Index>(most + 1)),
        columns_(frame.take<Index>(most)) {
    first_segment_[0] = 0;
  }

  void add(const LeafLists& queries, Index query_leaf, const LeafLists& keys, Index key_leaf, Index column) {
    if (queries.size(query_leaf) == 0 || keys.size(key_leaf) == 0) return;
    queries_[n_] = queries.tokens(query_leaf);
    keys_[n_] = keys.tokens(key_leaf);
    columns_[n_++] = column;
    first_segment_[n_] = n_;
  }
  TileList tiles() const { return {n_, queries_, first_segment_, keys_}; }
  const Index* columns() const { return columns_; }

 private:
  TokenSet *queries_, *keys_;
  Index *first_segment_, *columns_, n_ = 0;
};

/// Takes the signals of tokens, by leaf, to planes, biases and tokens.
template <class T, class S>
void add_leaf_signals(const LeafSignals& set, const LeafLists& tokens, const T* u, Index n_tokens,
                      const RoutedTokens<T, S>& in, const TreeSums<T>& sums, const Context& context) {
  Workspace::Frame frame(*context.workspace);
  const Index n_leaves = tokens.n_leaves(), n_nodes = set.n_nodes();
  SignalGroup* groups = frame.take<SignalGroup>(n_leaves);
  Index* leaf_of = frame.take<Index>(n_leaves);
  Index* nodes = frame.take<Index>(n_nodes);
  for (Index v = 0; v < n_nodes; ++v) nodes[v] = v;
  std::size_t n_groups = 0;
  for (Index l = 0; l < n_leaves; ++l) {
    if (tokens.size(l) == 0) continue;
    leaf_of[n_groups] = l;
    new (groups + n_groups++) SignalGroup{tokens.tokens(l), nodes, n_nodes};
  }
  add_routing_gradient(
      in, std::span<const SignalGroup>(groups, n_groups),
      [&](const SignalPanel<T>& panel) { set.write(leaf_of[panel.group], u, n_tokens, panel); }, sums, context);
}

/// The signals of one tree and one head: a column of n_q and n_k numbers for each leaf that tokens hear of.
/// `otherwise`: leaves out what queries see otherwise than by this tree (null: nothing).
template <class Call>
class TreeSignals {
 public:
  using T = typename Call::Sum;

  TreeSignals(const TreeLeaves<T>& tree, const PairRule* otherwise, const Call& call, const AttentionOptions& options,
              const BackwardOptions& backward, Workspace::Frame& frame)
      : tree_(tree),
        call_(call),
        options_(options),
        backward_(backward),
        set_(tree.router.height, backward.routing),
        n_leaves_(tree.keys.n_leaves()),
        queries_(tree.tiles.query_leaf, call.q.rows, n_leaves_, frame),
        otherwise_(otherwise),
        unseen_(tree.tiles.n_fallen > 0 ? without_trees(std::span(&tree, 1), otherwise, frame) : otherwise),
        sums_{frame.take<T>(set_.n_columns() * call.q.rows), frame.take<T>(set_.n_columns() * call.k.rows)} {
    std::fill_n(sums_.of_queries, set_.n_columns() * call.q.rows, T(0));
    std::fill_n(sums_.of_keys, set_.n_columns() * call.k.rows, T(0));
  }

  void compute(const Context& context) const {
    // Weights of pairs that are seen are at most 1 as they are.
    run_codes(0, 1, otherwise_, false, context);
    if (!set_.all()) return run_flips(context);
    const Index step = std::max<Index>(1, most_groups / n_leaves_);
    for (Index c = 1; c < n_leaves_; c += step)
      run_codes(c, std::min(c + step, n_leaves_), unseen_, backward_.bounded, context);
  }

  /// Adds what they are to planes, biases, queries and keys.
  void add_to(const TreeSums<T>& sums, const Context& context) const {
    add_leaf_signals(set_, queries_, sums_.of_queries, call_.q.rows,
                     RoutedTokens<T, typename Call::Query>{&tree_.router, call_.q, TokenRole::query, call_.d_q}, sums,
                     context);
    add_leaf_signals(set_, tree_.keys, sums_.of_keys, call_.k.rows,
                     RoutedTokens<T, typename Call::Key>{&tree_.router, call_.k, TokenRole::key, call_.d_k}, sums,
                     context);
  }

 private:
  static constexpr Index most_groups = 4096;  // at a time

  // Queries of each leaf l with keys of l ^ c: such keys stand to the queries as the queries to them.
  void run_codes(Index first, Index end, const PairRule* rule, bool bounded, const Context& context) const {
    Workspace::Frame frame(*context.workspace);
    LeafPairs pairs((end - first) * n_leaves_, frame);
    for (Index c = first; c < end; ++c) {
      for (Index l = 0; l < n_leaves_; ++l) pairs.add(queries_, l, tree_.keys, l ^ c, c);
    }
    run(pairs, rule, bounded, sums_, context);
  }

  // Queries with the keys of each leaf they would come to; keys with the queries of each leaf they would come to.
  void run_flips(const Context& context) const {
    const Index n_real = tree_.n_real_keys, height = tree_.router.height;
    for (const TokenRole role : {TokenRole::query, TokenRole::key}) {
      Workspace::Frame frame(*context.workspace);
      const bool is_query = role == TokenRole::query;
      const Index n = is_query ? call_.q.rows : n_real;
      Index* flipped = frame.take<Index>(height * n);
      if (is_query) {
        flipped_leaves(tree_.router, call_.q, n, role, tree_.tiles.query_leaf, flipped, context);
      } else {
        flipped_leaves(tree_.router, call_.k, n, role, tree_.tiles.key_leaf, flipped, context);
      }
      LeafPairs pairs(height * n_leaves_, frame);
      for (Index t = 0; t < height; ++t) {
        const LeafLists tokens(flipped + t * n, n, n_leaves_, frame);
        for (Index l = 0; l < n_leaves_; ++l)
          pairs.add(is_query ? tokens : queries_, l, is_query ? tree_.keys : tokens, l, t + 1);
      }
      run(pairs, unseen_, backward_.bounded,
          {is_query ? sums_.of_queries : nullptr, is_query ? nullptr : sums_.of_keys}, context);
    }
  }

  void run(const LeafPairs& pairs, const PairRule* rule, bool bounded, const MembershipSums<T>& sums,
           const Context& context) const {
    run_memberships(pairs.tiles(), pairs.columns(), rule == nullptr ? PairRule{} : *rule, call_, options_, bounded,
                    sums, context);
  }

  const TreeLeaves<T>& tree_;
  const Call& call_;
  const AttentionOptions& options_;
  const BackwardOptions& backward_;
  LeafSignals set_;
  Index n_leaves_;
  LeafLists queries_;
  const PairRule *otherwise_, *unseen_;
  MembershipSums<T> sums_;
};

}  // namespace heed::detail
