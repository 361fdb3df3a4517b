#pragma once
#include <algorithm>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/kept_keys.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/leaf_tiles.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// Throws where `tree` cannot route the tokens of a call: another width, or medians that would see the future or
/// another sequence.
template <class S>
void check_tree(const DecisionTree<S>& tree, Index d, const Mask& mask) {
  tree.check_width(d, "q");
  if (tree.bias_rule() != TreeBiases::key_medians) return;
  if (mask.causal != Causal::none) {
    throw OptionError(
        "heed: TreeBiases::key_medians looks at all keys of the call, so Mask::causal must be Causal::none; store the "
        "biases instead (DecisionTree::with_biases_of)");
  }
  if (!mask.sequence_offsets.empty()) {
    throw OptionError(
        "heed: TreeBiases::key_medians looks at all keys of the call, so Mask::sequence_offsets must not be given; "
        "store the biases instead (DecisionTree::with_biases_of)");
  }
}

/// Whether two views are the same rows of memory.
template <class A, class B>
bool are_same_rows(const ConstView<A>& a, const ConstView<B>& b) {
  return static_cast<const void*>(a.data) == static_cast<const void*>(b.data) && std::is_same_v<A, B> &&
         a.rows == b.rows && a.cols == b.cols && a.row_stride == b.row_stride && a.col_stride == b.col_stride;
}

/// Flags the real keys that some query of head `head` keeps; null where all are.
inline const bool* seen_keys(const Mask& mask, Index n_q, Index n_k, Index n_real, Index head,
                             Workspace::Frame& frame) {
  if (!hides_keys(mask, n_q, n_k)) return nullptr;
  const KeptKeys kept(mask, n_q, n_k, head);
  if (n_q > 0 && !kept.has_pairs() && !mask.keys.given()) {
    const KeyRange last = kept.bounds().of(n_q - 1);
    if (last.low == 0 && last.high >= n_real) return nullptr;
  }
  bool* seen = frame.take<bool>(n_real);
  std::fill_n(seen, n_real, false);
  flag_kept_keys(kept, n_q, seen, n_real);
  return seen;
}

/// The keys below n_real that are there, as a list.
inline TokenSet present_keys(const BoolView& keys, Index n_real, Workspace::Frame& frame) {
  Index* list = frame.take<Index>(n_real);
  Index n = 0;
  for (Index j = 0; j < n_real; ++j) {
    if (keys.at(0, j) != 0.0) list[n++] = j;
  }
  return {0, n, list};
}

/// Calls visit(call, query_leaf, keys) for every head: the leaf of each of its queries and the leaves of its real keys
/// (LeafLists::none where no query keeps one), which consecutive heads that share keys also share. Keys are routed once
/// for them but counted for each, so that counts do not depend on how heads are split between calls. Queries that are
/// the keys, the same rows of memory, are neither routed nor counted again. Leaves live as long as `kept`, or, without
/// it, as long as the visits of heads that share keys. A visit of four arguments also gets the router, with the biases
/// of these keys.
template <class Call, class S, class Visit>
void visit_routed_heads(const DecisionTree<S>& tree, std::span<const Call> calls, Index heads_per_kv, const Mask& mask,
                        const Context& context, Workspace::Frame* kept, const Visit& visit) {
  using T = typename Call::Sum;
  using Query = RouteJob<T, typename Call::Query>;
  using Key = RouteJob<T, typename Call::Key>;
  const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows, n_real = std::min(n_k, mask.n_real_keys);
  const int threads = thread_count(context.threads);
  const bool medians = tree.bias_rule() == TreeBiases::key_medians;
  if (mask.allowed.given() || mask.bias.given()) heads_per_kv = 1;  // heads may see different keys
  for (std::size_t first = 0; first < calls.size(); first += static_cast<std::size_t>(heads_per_kv)) {
    const auto group = calls.subspan(first, std::min(calls.size() - first, static_cast<std::size_t>(heads_per_kv)));
    std::optional<Workspace::Frame> own;
    Workspace::Frame& frame = kept != nullptr ? *kept : own.emplace(*context.workspace);
    const ConstView<typename Call::Key>& k = group.front().k;
    Index* key_leaf = frame.take<Index>(n_real);
    Index* query_leaves = frame.take<Index>(n_q * static_cast<Index>(group.size()));
    constexpr bool wants_router = std::is_invocable_v<Visit, const Call&, const Index*, LeafLists, Router<T>>;
    Router<T> used = tree.router();
    T* biases = wants_router && medians ? frame.take<T>(used.n_nodes()) : nullptr;
    {
      Workspace::Frame inside(*context.workspace);
      const bool* seen = seen_keys(mask, n_q, n_k, n_real, group.front().head, inside);
      const Router<T> router = tree.router_for(k, n_real, medians ? seen : nullptr, inside, threads);
      const auto is_k = [&](const Call& call) {
        return n_q == n_real && router.lift == nullptr && are_same_rows(call.q, k);
      };
      // Keys that are not there need no leaf, unless queries are the keys.
      const bool some = mask.keys.given() && std::none_of(group.begin(), group.end(), is_k);
      const TokenSet routed = some ? present_keys(mask.keys, n_real, inside) : TokenSet{0, n_real};
      const Key job{&router, k, routed.size, TokenRole::key, key_leaf, routed.list};
      route_all(std::span<const Key>(&job, 1), inside, threads);
      if (biases != nullptr) std::copy_n(router.biases, router.n_nodes(), biases);
      for (std::size_t c = 0; c < group.size(); ++c) {
        Index* leaves = query_leaves + static_cast<Index>(c) * n_q;
        double flops = route_flops(router, routed.size, TokenRole::key);
        if (is_k(group[c])) {
          std::copy_n(key_leaf, n_q, leaves);
        } else {
          Workspace::Frame route(*context.workspace);
          const Query queries{&router, group[c].q, n_q, TokenRole::query, leaves};
          route_all(std::span<const Query>(&queries, 1), route, threads);
          flops += route_flops(router, n_q, TokenRole::query);
        }
        if (context.flops != nullptr) context.flops->add_products(Phase::route, flops);
      }
      // A key that no query keeps joins no leaf: wherever it were routed it would shift how the others are summed.
      for (Index j = 0; seen != nullptr && j < n_real; ++j) key_leaf[j] = seen[j] ? key_leaf[j] : LeafLists::none;
    }
    const LeafLists keys(key_leaf, n_real, tree.n_leaves(), frame);
    if (biases != nullptr) used.biases = biases;
    for (std::size_t c = 0; c < group.size(); ++c) {
      const Index* query_leaf = query_leaves + static_cast<Index>(c) * n_q;
      if constexpr (wants_router) {
        visit(group[c], query_leaf, keys, used);
      } else {
        visit(group[c], query_leaf, keys);
      }
    }
  }
}

}  // namespace heed::detail
