#pragma once
#include <algorithm>
#include <optional>
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
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/leaf_signals.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/routing_gradient.hpp"
#include "heed/trees/tree_sums.hpp"

namespace heed::detail {

/// Pairs of queries of leaf l with keys of leaf l ^ code, for the codes [first, end) of a set: a group each, with its
/// column. Leaves without queries or keys have none.
struct CodeTiles {
  TileList tiles;
  const Index* columns = nullptr;
};

inline CodeTiles code_tiles(const LeafSignals& set, Index first, Index end, const LeafLists& queries,
                            const LeafLists& keys, Workspace::Frame& frame) {
  const Index n_leaves = keys.n_leaves(), most = (end - first) * n_leaves;
  TokenSet *of_queries = frame.take<TokenSet>(most), *of_keys = frame.take<TokenSet>(most);
  Index *columns = frame.take<Index>(most), *first_segment = frame.take<Index>(most + 1), n = 0;
  for (Index c = first; c < end; ++c) {
    for (Index l = 0; l < n_leaves; ++l) {
      const Index other = l ^ set.code(c);
      if (queries.size(l) == 0 || keys.size(other) == 0) continue;
      of_queries[n] = queries.tokens(l);
      of_keys[n] = keys.tokens(other);
      columns[n] = c;
      first_segment[n] = n;
      ++n;
    }
  }
  first_segment[n] = n;
  return {{n, of_queries, first_segment, of_keys}, columns};
}

/// Takes the signals of tokens, by leaf, to planes, biases and tokens.
template <class T, class S>
void add_leaf_signals(const LeafSignals& set, const LeafLists& tokens, const T* u, Index n_tokens,
                      const RoutedTokens<T, S>& in, const TreeSums<T>& sums, const Context& context) {
  Workspace::Frame frame(*context.workspace);
  const Index n_leaves = tokens.n_leaves(), n_nodes = set.n_nodes();
  Index n_groups = 0;
  for (Index l = 0; l < n_leaves; ++l) n_groups += tokens.size(l) > 0;
  SignalGroup* groups = frame.take<SignalGroup>(n_groups);
  Index* leaf_of = frame.take<Index>(n_groups);
  Index* nodes = frame.take<Index>(set.same_nodes() ? n_nodes : n_groups * n_nodes);
  Index g = 0;
  for (Index l = 0; l < n_leaves; ++l) {
    if (tokens.size(l) == 0) continue;
    Index* own = nodes + (set.same_nodes() ? Index(0) : g * n_nodes);
    if (g == 0 || !set.same_nodes()) set.nodes(l, own);
    leaf_of[g] = l;
    new (groups + g++) SignalGroup{tokens.tokens(l), own, n_nodes};
  }
  add_routing_gradient(
      in, std::span<const SignalGroup>(groups, static_cast<std::size_t>(n_groups)),
      [&](const SignalPanel<T>& panel) { set.write(leaf_of[panel.group], u, n_tokens, panel); }, sums, context);
}

/// Adds the routing gradient of one tree and one head. `otherwise`: leaves out what queries see otherwise than by this
/// tree (null: nothing).
template <class Call>
void add_tree_routing(const TreeLeaves<typename Call::Sum>& tree, const PairRule* otherwise, const Call& call,
                      const AttentionOptions& options, const BackwardOptions& backward,
                      const TreeSums<typename Call::Sum>& sums, const Context& context) {
  using T = typename Call::Sum;
  constexpr Index most_groups = 4096;  // at a time
  const Index n_q = call.q.rows, n_k = call.k.rows, height = tree.router.height;
  const LeafSignals set(height, backward.routing);
  Workspace::Frame frame(*context.workspace);
  const MembershipSums<T> signals{frame.take<T>(set.n_codes() * n_q), frame.take<T>(set.n_codes() * n_k)};
  std::fill_n(signals.of_queries, set.n_codes() * n_q, T(0));
  std::fill_n(signals.of_keys, set.n_codes() * n_k, T(0));
  const LeafLists queries(tree.tiles.query_leaf, n_q, tree.keys.n_leaves(), frame);
  const auto run = [&](Index first, Index end, const PairRule* rule, bool bounded) {
    Workspace::Frame inside(*context.workspace);
    const CodeTiles tiles = code_tiles(set, first, end, queries, tree.keys, inside);
    run_memberships(tiles.tiles, tiles.columns, rule == nullptr ? PairRule{} : *rule, call, options, bounded, signals,
                    context);
  };
  run(0, 1, otherwise, false);  // weights of pairs that are seen are at most 1 as they are
  const PairRule* unseen = tree.tiles.n_fallen > 0 ? without_trees(std::span(&tree, 1), otherwise, frame) : otherwise;
  const Index step = std::max<Index>(1, most_groups / tree.keys.n_leaves());
  for (Index c = 1; c < set.n_codes(); c += step) run(c, std::min(c + step, set.n_codes()), unseen, backward.bounded);
  add_leaf_signals(set, queries, signals.of_queries, n_q,
                   RoutedTokens<T, typename Call::Query>{&tree.router, call.q, TokenRole::query, call.d_q}, sums,
                   context);
  add_leaf_signals(set, tree.keys, signals.of_keys, n_k,
                   RoutedTokens<T, typename Call::Key>{&tree.router, call.k, TokenRole::key, call.d_k}, sums, context);
}

}  // namespace heed::detail
