#pragma once
#include <algorithm>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/leaf_tiles.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/routed_heads.hpp"

namespace heed {

/// The pairs of TF-attention as a pattern, for attend_over and unions: the queries of a leaf with its keys. A query
/// whose leaf holds no key that `mask` keeps for it stands with the keys of the deepest node on its path that does.
/// Padding joins no leaf. Give attend_over the same mask. Keeps its own lists; the tree and the tokens may go.
///
/// Shapes  q: n_q x d, k: n_k x d.
/// Errors  ShapeError if their width is not the tree's, and what an attention call with this mask would throw.
/// Cost    2 h d flops a token and O(n_q + n_k + 2^h) memory.
/// Threads const and re-entrant.
/// Source  Madaan, Bhojanapalli, Jain, Jain 2023, section 3.1; the rules for empty leaves and causal masks are ours.
class LeafPattern {
 public:
  template <class S, class Q, class K>
  LeafPattern(const DecisionTree<S>& tree, const Q& q, const K& k, const Mask& given = {}) {
    const auto queries = view_of(q);
    const auto keys = view_of(k);
    using T = Accumulator<S>;
    using Token = typename decltype(queries)::Scalar;
    static_assert(std::is_same_v<Token, typename decltype(keys)::Scalar> && std::is_same_v<Accumulator<Token>, T>,
                  "heed: q and k must have the scalar of the tree (a float tree also routes half and bfloat16)");
    detail::check_attention<T>(queries.cols, keys.rows, keys.cols, keys.rows, {queries.rows, keys.rows, keys.cols, 1},
                               {.scale = 1.0, .mask = given});
    const Mask mask = detail::real_tokens_of({.mask = given}, queries.rows, keys.rows, 1).options.mask;
    detail::check_tree(tree, keys.cols, mask);
    Workspace::Frame frame(memory_);  // what it takes stays: nothing else takes from this workspace
    const Index n_q = queries.rows, n_k = keys.rows, n_real = std::min(n_k, mask.n_real_keys);
    const bool medians = tree.bias_rule() == TreeBiases::key_medians;
    const bool* counts = medians ? detail::seen_keys(mask, n_q, n_k, n_real, 0, frame) : nullptr;
    const detail::Router<T> router = tree.router_for(keys, n_real, counts, frame, 1);
    Index* key_leaf = frame.take<Index>(n_real);
    Index* query_leaf = frame.take<Index>(n_q);
    const detail::RouteJob<T, Token> jobs[] = {{&router, keys, n_real, TokenRole::key, key_leaf},
                                               {&router, queries, n_q, TokenRole::query, query_leaf}};
    detail::route_all(std::span<const detail::RouteJob<T, Token>>(jobs), frame, 1);
    const detail::LeafLists lists(key_leaf, n_real, tree.n_leaves(), frame);
    n_real_ = n_real;
    tiles_ = detail::leaf_tiles(query_leaf, n_q, n_k, lists, tree.height(), mask, 0, n_k, frame);
  }
  /// Leaves the other without groups.
  LeafPattern(LeafPattern&& other) noexcept
      : memory_(std::move(other.memory_)), tiles_(std::exchange(other.tiles_, {})), n_real_(other.n_real_) {}
  LeafPattern& operator=(LeafPattern&& other) noexcept {
    memory_ = std::move(other.memory_);
    tiles_ = std::exchange(other.tiles_, {});
    n_real_ = other.n_real_;
    return *this;
  }

  Index n_groups() const { return tiles_.n_groups(); }
  TokenSet queries(Index g) const { return tiles_.queries(g); }
  Index n_segments(Index g) const { return tiles_.n_segments(g); }
  TokenSet keys(Index g, Index s) const { return tiles_.keys(g, s); }
  /// True when query i sees key j but for what the mask says of the pair.
  bool sees(Index i, Index j) const { return j < n_real_ && tiles_.sees(i, j); }
  /// Queries that see an ancestor's keys.
  Index n_fallen() const { return tiles_.n_fallen; }

 private:
  Workspace memory_;
  detail::LeafTiles tiles_;
  Index n_real_ = 0;
};

static_assert(KeyPattern<LeafPattern>);

}  // namespace heed
