#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// Throws where `tree` cannot route the tokens of a call: another width, or medians that would see the future or another
/// sequence.
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

/// Calls visit(call, query_leaf, keys) for every head: the leaf of each of its queries and the leaves of its real keys, which
/// consecutive heads that share keys also share. Keys are routed once for them but counted for each, so that counts do not
/// depend on how heads are split between calls.
template <class Call, class S, class Visit>
void visit_routed_heads(const DecisionTree<S>& tree, std::span<const Call> calls, Index heads_per_kv, const Mask& mask,
                        const Context& context, Workspace& workspace, const Visit& visit) {
  using T = typename Call::Sum;
  using Query = RouteJob<T, typename Call::Query>;
  using Key = RouteJob<T, typename Call::Key>;
  const Index n_q = calls.front().q.rows, n_k = calls.front().k.rows, n_real = std::min(n_k, mask.n_real_keys);
  const int threads = thread_count(context.threads);
  for (std::size_t first = 0; first < calls.size(); first += static_cast<std::size_t>(heads_per_kv)) {
    const auto group = calls.subspan(first, std::min(calls.size() - first, static_cast<std::size_t>(heads_per_kv)));
    Workspace::Frame frame(workspace);
    const ConstView<typename Call::Key>& k = group.front().k;
    const Router<T> router = tree.router_for(k, n_real, frame, threads);
    Index* key_leaf = frame.take<Index>(static_cast<std::size_t>(n_real));
    const Key job{&router, k, n_real, TokenRole::key, key_leaf};
    route_all(std::span<const Key>(&job, 1), frame, threads);
    const LeafLists keys(key_leaf, n_real, tree.n_leaves(), frame);
    for (const Call& call : group) {
      Workspace::Frame own(workspace);
      Index* query_leaf = own.take<Index>(static_cast<std::size_t>(n_q));
      const Query queries{&router, call.q, n_q, TokenRole::query, query_leaf};
      route_all(std::span<const Query>(&queries, 1), own, threads);
      if (context.flops != nullptr) context.flops->add_products(Phase::route, route_flops(router, n_q + n_real));
      visit(call, query_leaf, keys);
    }
  }
}

}  // namespace heed::detail
