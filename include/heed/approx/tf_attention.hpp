#pragma once
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/engine.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/leaf_tiles.hpp"
#include "heed/trees/routed_heads.hpp"

namespace heed {

template <RealScalar S>
class TfAttention {
 public:
  static constexpr bool has_softmax = true;

  explicit TfAttention(DecisionTree<S> tree) : tree_(std::move(tree)) {}

  const DecisionTree<S>& tree() const { return tree_; }

  template <class Call>
    requires std::is_same_v<typename Call::Sum, Accumulator<S>>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    if (calls.empty()) return;
    const Call& one = calls.front();
    detail::check_tree(tree_, one.k.cols, options.mask);
    const Index n_q = one.q.rows, n_k = one.k.rows;
    if (tree_.height() == 0) {
      detail::run_engine(DensePattern{n_q, n_k}, calls, heads_per_kv, options, NoScoreMod{}, context);
      return;
    }
    std::optional<Workspace> own;
    Context inner = context;
    inner.workspace = context.workspace != nullptr ? context.workspace : &own.emplace();
    detail::visit_routed_heads(
        tree_, calls, heads_per_kv, options.mask, inner, *inner.workspace,
        [&](const Call& call, const Index* query_leaf, const detail::LeafLists& keys) {
          Workspace::Frame frame(*inner.workspace);
          const detail::LeafTiles tiles =
              detail::leaf_tiles(query_leaf, n_q, n_k, keys, tree_.height(), options.mask, call.head, frame);
          detail::run_engine(tiles, std::span<const Call>(&call, 1), Index(1), options, NoScoreMod{}, inner);
        });
  }

 private:
  DecisionTree<S> tree_;
};

}  // namespace heed
