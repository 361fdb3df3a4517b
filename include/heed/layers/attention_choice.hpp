#pragma once

#include <optional>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/performer_attention.hpp"
#include "heed/core/check_option.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/types.hpp"
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
  std::optional<Index> tree_window{};  ///< tf: also keys up to this far before the query, and its own; >= 0
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
    if (choice.tree_window) {
      check_at_least(*choice.tree_window, 0, "AttentionChoice::tree_window");
      if (choice.kind == AttentionKind::tc) {
        throw OptionError(message("AttentionChoice::tree_window = ", *choice.tree_window,
                                  " must be left out for AttentionKind::tc: it sees means of nodes alone"));
      }
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

}  // namespace detail
}  // namespace heed
