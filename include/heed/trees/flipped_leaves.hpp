#pragma once
#include <algorithm>

#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// Where tokens would be if one decision of their path were the other one and those behind it their own: of token i and
/// the decision at depth t at flipped[t * n_tokens + i]. `leaf`: where they are; LeafLists::none stays none.
///
/// Cost    h (h - 1) / 2 decisions of 2 d flops for each token that has a leaf (Phase::route).
template <class T, class S>
void flipped_leaves(const Router<T>& router, const ConstView<S>& tokens, Index n_tokens, TokenRole role,
                    const Index* leaf, Index* flipped, const Context& context) {
  const Index height = router.height, n_nodes = router.n_nodes();
  Workspace::Frame frame(*context.workspace);
  const bool lifts = router.lift != nullptr && role == TokenRole::key;
  struct Worker {
    RouteScratch<T> rows;
    T* z;
    Index* node;
  };
  const Index among_paths = height * (height - 1) / 2;
  const double n_decisions = static_cast<double>(among_paths);
  const double width = static_cast<double>(router.d + (lifts ? 1 : 0));
  for_each_task(
      (n_tokens + route_rows - 1) / route_rows,
      route_threads(2 * n_decisions * width * static_cast<double>(n_tokens), thread_count(context.threads)), frame,
      [&](Scratch& scratch) {
        return Worker{RouteScratch<T>(scratch, tokens.cols), scratch.take<T>(route_rows),
                      scratch.take<Index>(route_rows)};
      },
      [&](const Worker& worker, Index task) {
        const Index first = task * route_rows, n = std::min(route_rows, n_tokens - first);
        if (lifts) lift_rows(tokens, first, n, router.radius, worker.rows.extra);
        with_rows(tokens, first, n, worker.rows, [&](const auto& kernels, const auto* rows, Index stride) {
          for (Index t = 0; t < height; ++t) {
            for (Index i = 0; i < n; ++i) {  // the sibling of the node at depth t + 1
              const Index own = std::max(leaf[first + i], Index(0)) >> (height - 1 - t);
              worker.node[i] = (Index(2) << t) - 1 + (own ^ 1);
            }
            for (Index depth = t + 1; depth < height; ++depth) {
              kernels.project(rows, stride, n, router.d, router.planes, router.stride, lifts ? router.lift : nullptr,
                              lifts ? worker.rows.extra : nullptr, worker.node, worker.z);
              for (Index i = 0; i < n; ++i) {
                const bool second = worker.z[i] + router.biases[worker.node[i]] >= 0;
                worker.node[i] = 2 * worker.node[i] + (second ? 2 : 1);
              }
            }
            for (Index i = 0; i < n; ++i) {
              const bool has_leaf = leaf[first + i] != LeafLists::none;
              flipped[t * n_tokens + first + i] = has_leaf ? worker.node[i] - n_nodes : LeafLists::none;
            }
          }
        });
      });
  if (context.flops == nullptr) return;
  const auto n_routed = static_cast<double>(n_tokens - std::count(leaf, leaf + n_tokens, LeafLists::none));
  context.flops->add_products(Phase::route, 2 * n_decisions * width * n_routed);
}

}  // namespace heed::detail
