#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/linear_attention.hpp"
#include "heed/approx/linformer_attention.hpp"
#include "heed/approx/performer_attention.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/core/check_option.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"
#include "heed/trees/decision_tree.hpp"

namespace heed {

/// The methods a layer can be told to use.
enum class AttentionKind { exact, window, bigbird, tf, tc, linformer, performer, linear };

/// Which method a layer of attention uses, chosen at run time, and what the method is told.
struct AttentionChoice {
  AttentionKind kind = AttentionKind::exact;
  Index height = 5;                             ///< of trees: 2^height leaves; 0 .. 24
  Index n_trees = 1;                            ///< tf: trees of a head, united; >= 1. tc: 1
  TreeBiases biases = TreeBiases::key_medians;  ///< of trees: medians of the sequence, or stored ones; causal: stored
  RoutingGradient routing = RoutingGradient::all_leaves;  ///< of trees
  bool bounded = true;                                    ///< of trees: weights of other leaves at most 1
  bool by_query = false;                                  ///< tc: levels weighed by q . mean key
  Index window = 64;                                      ///< window: keys to either side, causal: before; >= 0
  BigBirdOptions bigbird{};                               ///< bigbird
  Index rank = 32;                                        ///< linformer, not causal: projected keys; >= 1
  PerformerOptions performer{};                           ///< performer
};

namespace detail {

inline bool has_trees(AttentionKind kind) { return kind == AttentionKind::tf || kind == AttentionKind::tc; }

/// Throws OptionError where no layer can use `choice`, or none that is `causal`. Whoever takes a choice calls it before
/// anything changes, so that all refuse the same. What the method does not read may be anything.
inline void check_choice(const AttentionChoice& choice, bool causal) {
  check_enumerator(choice.kind, AttentionKind::linear, "AttentionChoice::kind");
  if (has_trees(choice.kind)) {
    constexpr Index most = DecisionTree<float>::most_height;
    if (choice.height < 0 || choice.height > most)
      throw OptionError(message("AttentionChoice::height = ", choice.height, " must be 0 .. ", most));
    check_size(choice.n_trees, 1, "AttentionChoice::n_trees");
    if (choice.kind == AttentionKind::tc && choice.n_trees != 1) {
      throw OptionError(message("AttentionChoice::n_trees = ", choice.n_trees,
                                " must be 1 for AttentionKind::tc: it has no union of trees"));
    }
    check_enumerator(choice.biases, TreeBiases::key_medians, "AttentionChoice::biases");
    check_enumerator(choice.routing, RoutingGradient::none, "AttentionChoice::routing");
    if (causal && choice.biases == TreeBiases::key_medians) {
      throw OptionError(
          "heed: AttentionChoice::biases = TreeBiases::key_medians looks at all keys of a sequence, but the layer is "
          "causal (AttentionLayerOptions::causal): it must be TreeBiases::stored");
    }
  }
  switch (choice.kind) {
    case AttentionKind::window: return check_at_least(choice.window, 0, "AttentionChoice::window");
    case AttentionKind::bigbird: return static_cast<void>(BigBirdAttention(choice.bigbird));
    case AttentionKind::performer: return static_cast<void>(PerformerAttention<float>(choice.performer));
    case AttentionKind::linformer: {
      check_size(choice.rank, 1, "AttentionChoice::rank");
      if (!causal) return;
      throw OptionError(
          "heed: AttentionChoice::kind = AttentionKind::linformer projects all keys at once, but the layer is causal "
          "(AttentionLayerOptions::causal): it must be another kind");
    }
    default: return;
  }
}

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

  /// Calls visit(method, or a list of one a head).
  template <class Visit>
  void visit(const ParameterStore<T>& store, bool causal, const Visit& visit) const {
    switch (choice_.kind) {
      case AttentionKind::exact:
      default: return visit(ExactAttention<>{});
      case AttentionKind::window: return visit(WindowAttention(choice_.window, causal ? Index(0) : choice_.window));
      case AttentionKind::bigbird: return visit(BigBirdAttention(choice_.bigbird));
      case AttentionKind::performer: return visit(PerformerAttention<T>(choice_.performer));
      case AttentionKind::linear: return visit(LinearAttention{});
      case AttentionKind::tf: {
        std::vector<TfAttention<T>> methods;
        for (Index h = 0; h < n_heads_; ++h) {
          std::vector<DecisionTree<T>> trees;
          for (Index t = 0; t < n_trees(); ++t) trees.push_back(tree(store, h * n_trees() + t));
          methods.emplace_back(std::move(trees));
        }
        return visit(methods);
      }
      case AttentionKind::tc: {
        std::vector<TcAttention<T>> methods;
        for (Index h = 0; h < n_heads_; ++h) {
          methods.emplace_back(tree(store, h), row_of(store.values(levels_), h).matrix().eval(),
                               TcOptions{.by_query = choice_.by_query});
        }
        return visit(methods);
      }
      case AttentionKind::linformer: {
        std::vector<LinformerAttention<T>> methods;
        const ConstView<T> keys = store.values(keys_), values = store.values(values_);
        for (Index h = 0; h < n_heads_; ++h) methods.emplace_back(block(keys, h), block(values, h));
        return visit(methods);
      }
    }
  }

  /// Adds the gradients of the methods, one a head, to those of the parameters. Stored biases that medians stand in for
  /// take no part in the result: their gradient stays 0.
  template <class Gradients>
  void add(ParameterStore<T>& store, const std::vector<Gradients>& of_heads) const {
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
  void follow_medians(ParameterStore<T>& store, const ConstView<T>& keys, double share) const {
    if (!has_trees()) return;
    using Keys = Eigen::Map<const Matrix<T>, 0, Eigen::OuterStride<>>;
    for (Index n = 0; n < n_heads_ * n_trees(); ++n) {
      const Keys own(keys.data + n / n_trees() * d_, keys.rows, d_, Eigen::OuterStride<>(keys.row_stride));
      const Vector<T> medians = tree(store, n, TreeBiases::key_medians).with_biases_of(own).biases();
      auto stored = row_of(store.values(biases_), n);
      stored += static_cast<T>(share) * (medians.transpose().array() - stored);
    }
  }

  /// Tree `number` = head * n_trees + tree.
  DecisionTree<T> tree(const ParameterStore<T>& store, Index number) const {
    return tree(store, number, choice_.biases);
  }
  void set_biases(TreeBiases biases) { choice_.biases = biases; }

 private:
  Index n_trees() const { return choice_.kind == AttentionKind::tf ? choice_.n_trees : 1; }
  DecisionTree<T> tree(const ParameterStore<T>& store, Index number, TreeBiases rule) const {
    using Rows = Eigen::Map<const Matrix<T>>;
    const Index n_nodes = biases_.cols;
    return DecisionTree<T>(Rows(store.values(planes_).data + number * n_nodes * d_, n_nodes, d_),
                           Rows(store.values(biases_).data + number * n_nodes, 1, n_nodes), {.biases = rule});
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

}  // namespace detail
}  // namespace heed
