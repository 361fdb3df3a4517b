#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/linear_attention.hpp"
#include "heed/approx/linformer_attention.hpp"
#include "heed/approx/performer_attention.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/core/check_option.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/layers/attention_choice.hpp"
#include "heed/layers/kept_methods.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/median_biases.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// The parameters of a layer's method, and the method made of them: one a head where it has parameters.
template <class T>
class LayerMethod {
 public:
  LayerMethod() = default;
  /// Adds what the method learns: planes N(0, 1 / d) as "<name>.planes", biases 0 as "<name>.biases", level logits 0 as
  /// "<name>.levels", projections N(0, 1 / n_keys) as "<name>.keys" and "<name>.values". All of them, or where it
  /// throws none. `choice` has passed check_choice.
  LayerMethod(ParameterStore<T>& store, const std::string& name, const AttentionChoice& choice, Index n_heads, Index d,
              Index n_keys, std::uint64_t seed)
      : choice_(choice), n_heads_(n_heads), d_(d) {
    store.add_all_or_none([&] {
      const SliceOptions plain{.decays = false};
      if (has_trees()) {
        const Index n_nodes = (Index(1) << choice.height) - 1;
        checked_product("planes of trees: n_heads * n_trees * 2^height * d",
                        {n_heads, n_trees(), Index(1) << choice.height, d});
        const Index n = n_heads * n_trees();
        planes_ = store.add(name + ".planes", n * n_nodes, d, plain);
        biases_ = store.add(name + ".biases", n, n_nodes, plain);
        store.fill_normal(planes_, 1.0 / std::sqrt(static_cast<double>(d)), seed);
      }
      if (choice.kind == AttentionKind::tc) levels_ = store.add(name + ".levels", n_heads, choice.height + 1, plain);
      if (choice.kind == AttentionKind::linformer) {
        const Index n = checked_product("n_heads * AttentionChoice::rank", {n_heads, choice.rank});
        check_size(n_keys, 1, "tokens of a sequence (linformer)");
        keys_ = store.add(name + ".keys", n, n_keys);
        values_ = store.add(name + ".values", n, n_keys);
        for (const Slice& slice : {keys_, values_})
          store.fill_normal(slice, 1.0 / std::sqrt(static_cast<double>(n_keys)), seed);
      }
    });
  }

  const AttentionChoice& choice() const { return choice_; }
  bool has_trees() const { return detail::has_trees(choice_.kind); }
  /// Of trees: n_heads n_trees (2^height - 1) x d planes, tree after tree, and n_heads n_trees x (2^height - 1) biases.
  const Slice& planes() const { return planes_; }
  const Slice& biases() const { return biases_; }
  bool has_softmax() const {
    return choice_.kind != AttentionKind::tc && choice_.kind != AttentionKind::performer &&
           choice_.kind != AttentionKind::linear;
  }
  BackwardOptions backward() const { return {.routing = choice_.routing, .bounded = choice_.bounded}; }

  /// Calls visit(method, or a list of one a head), lists being those of `kept` with the numbers of the store.
  template <class Visit>
  void visit(const ParameterStore<T>& store, bool causal, KeptMethods<T>& kept, const Visit& visit) const {
    switch (choice_.kind) {
      case AttentionKind::exact:
      default: return visit(ExactAttention<>{});
      case AttentionKind::window: return visit(WindowAttention(choice_.window, causal ? Index(0) : choice_.window));
      case AttentionKind::bigbird: return visit(BigBirdAttention(choice_.bigbird));
      case AttentionKind::performer: return visit(PerformerAttention<T>(choice_.performer));
      case AttentionKind::linear: return visit(LinearAttention{});
      case AttentionKind::tf: return visit(trees_of(store, kept.template of<TfAttention<T>>().methods));
      case AttentionKind::tc: return visit(trees_of(store, kept.template of<TcAttention<T>>().methods));
      case AttentionKind::linformer:
        return visit(projections_of(store, kept.template of<LinformerAttention<T>>().methods));
    }
  }

  /// Adds the gradients of the methods, one a head, to those of the parameters. Stored biases that medians stand in for
  /// take no part in the result: their gradient stays 0.
  template <class Gradients>
  void add(ParameterStore<T>& store, std::span<const Gradients> of_heads) const {
    const Index n_nodes = biases_.cols;
    const auto add_tree = [&](const TreeGradient<T>& gradient, Index number) {
      const View<T> planes = store.gradients(planes_).rows_from(number * n_nodes, n_nodes);
      for (Index v = 0; v < n_nodes; ++v) {
        row_of(planes, v) += gradient.planes.row(v).array();
        if (choice_.biases == TreeBiases::stored) store.gradients(biases_)(number, v) += gradient.biases(v);
      }
    };
    for (Index h = 0; h < static_cast<Index>(of_heads.size()); ++h) {
      const Gradients& own = of_heads[static_cast<std::size_t>(h)];
      if constexpr (requires { own.d_trees; }) {
        for (std::size_t t = 0; t < own.d_trees.size(); ++t)
          add_tree(own.d_trees[t], h * n_trees() + static_cast<Index>(t));
      }
      if constexpr (requires { own.d_tree; }) {
        if (n_trees() == 1) add_tree(own.d_tree, h);
      }
      if constexpr (requires { own.d_level_logits; })
        row_of(store.gradients(levels_), h) += own.d_level_logits.transpose().array();
      if constexpr (requires { own.d_key_projection; }) {
        add_block(store.gradients(keys_), h, own.d_key_projection);
        add_block(store.gradients(values_), h, own.d_value_projection);
      }
    }
  }

  /// Moves the stored biases of trees towards the medians of `keys` (n x n_heads d): running means for inference.
  void follow_medians(ParameterStore<T>& store, const ConstView<T>& keys, double share, Workspace& workspace) const {
    const Index n_nodes = biases_.cols, stride = padded_width(d_);
    if (n_nodes == 0) return;
    for (Index n = 0; n < n_heads_ * n_trees(); ++n) {
      Workspace::Frame frame(workspace);
      T* planes = frame.take<T>(n_nodes * stride);
      std::fill_n(planes, n_nodes * stride, T(0));
      for (Index v = 0; v < n_nodes; ++v) std::copy_n(planes_of(store, n).data() + v * d_, d_, planes + v * stride);
      const Router<T> router{planes, stride, nullptr, nullptr, T(0), choice_.height, d_};
      const T* medians =
          median_biases(router, keys.columns(n / n_trees() * d_, d_), keys.rows, nullptr, frame, /*threads=*/1);
      auto stored = row_of(store.values(biases_), n);
      for (Index v = 0; v < n_nodes; ++v) stored[v] += static_cast<T>(share) * (medians[v] - stored[v]);
    }
  }

  /// Tree `number` = head * n_trees + tree.
  DecisionTree<T> tree(const ParameterStore<T>& store, Index number) const {
    return DecisionTree<T>(planes_of(store, number), biases_of(store, number), {.biases = choice_.biases});
  }
  void set_biases(TreeBiases biases) { choice_.biases = biases; }

 private:
  Index n_trees() const { return choice_.kind == AttentionKind::tf ? choice_.n_trees : 1; }
  using Rows = Eigen::Map<const Matrix<T>>;
  Rows planes_of(const ParameterStore<T>& store, Index number) const {
    return Rows(store.values(planes_).data + number * biases_.cols * d_, biases_.cols, d_);
  }
  Rows biases_of(const ParameterStore<T>& store, Index number) const {
    return Rows(store.values(biases_).data + number * biases_.cols, 1, biases_.cols);
  }
  auto logits_of(const ParameterStore<T>& store, Index head) const {
    return row_of(store.values(levels_), head).matrix();
  }

  bool fits(const DecisionTree<T>& tree) const {
    return tree.planes().rows() == biases_.cols && tree.planes().cols() == d_ && tree.bias_rule() == choice_.biases;
  }
  const std::vector<TfAttention<T>>& trees_of(const ParameterStore<T>& store,
                                              std::vector<TfAttention<T>>& methods) const {
    const auto n = static_cast<std::size_t>(n_trees());
    if (!has_one_a_head(methods) || methods.front().trees().size() != n || !fits(methods.front().tree()) ||
        methods.front().options().window_left != choice_.tree_window) {
      methods.clear();
      for (Index h = 0; h < n_heads_; ++h) {
        std::vector<DecisionTree<T>> trees;
        for (Index t = 0; t < n_trees(); ++t) trees.push_back(tree(store, h * n_trees() + t));
        methods.emplace_back(std::move(trees), TfOptions{.window_left = choice_.tree_window});
      }
      return methods;
    }
    for (Index number = 0; number < n_heads_ * n_trees(); ++number) {
      methods[static_cast<std::size_t>(number / n_trees())].set_numbers(
          static_cast<std::size_t>(number % n_trees()), planes_of(store, number), biases_of(store, number));
    }
    return methods;
  }
  const std::vector<TcAttention<T>>& trees_of(const ParameterStore<T>& store,
                                              std::vector<TcAttention<T>>& methods) const {
    const bool fit = has_one_a_head(methods) && fits(methods.front().tree()) &&
                     methods.front().options().by_query == choice_.by_query;
    if (!fit) methods.clear();
    for (Index h = 0; h < n_heads_; ++h) {
      if (fit) {
        methods[static_cast<std::size_t>(h)].set_numbers(planes_of(store, h), biases_of(store, h), logits_of(store, h));
      } else {
        methods.emplace_back(tree(store, h), logits_of(store, h), TcOptions{.by_query = choice_.by_query});
      }
    }
    return methods;
  }
  const std::vector<LinformerAttention<T>>& projections_of(const ParameterStore<T>& store,
                                                           std::vector<LinformerAttention<T>>& methods) const {
    const ConstView<T> keys = store.values(keys_), values = store.values(values_);
    const bool fit = has_one_a_head(methods) && methods.front().key_projection().rows() == choice_.rank &&
                     methods.front().key_projection().cols() == keys.cols;
    if (!fit) methods.clear();
    for (Index h = 0; h < n_heads_; ++h) {
      if (fit) {
        methods[static_cast<std::size_t>(h)].set_projections(block(keys, h), block(values, h));
      } else {
        methods.emplace_back(block(keys, h), block(values, h));
      }
    }
    return methods;
  }
  template <class Method>
  bool has_one_a_head(const std::vector<Method>& methods) const {
    return static_cast<Index>(methods.size()) == n_heads_;
  }
  Eigen::Map<const Matrix<T>> block(const ConstView<T>& all, Index h) const {
    return Eigen::Map<const Matrix<T>>(all.data + h * choice_.rank * all.cols, choice_.rank, all.cols);
  }
  void add_block(const View<T>& all, Index h, const Matrix<T>& gradient) const {
    Eigen::Map<Matrix<T>>(all.data + h * choice_.rank * all.cols, choice_.rank, all.cols) += gradient;
  }

  AttentionChoice choice_;
  Index n_heads_ = 0, d_ = 0;
  Slice planes_, biases_, levels_, keys_, values_;
};

}  // namespace heed::detail
