#include "method.hpp"

#include <algorithm>

namespace train_treeformer {

heed::AttentionChoice method_of(const Arguments& arguments, Index length, bool causal) {
  using heed::AttentionKind;
  heed::AttentionChoice choice;
  const std::string& name = arguments.attention;
  choice.kind = name == "tf"          ? AttentionKind::tf
                : name == "tc"        ? AttentionKind::tc
                : name == "linformer" ? AttentionKind::linformer
                : name == "performer" ? AttentionKind::performer
                : name == "bigbird"   ? AttentionKind::bigbird
                : name == "window"    ? AttentionKind::window
                : name == "linear"    ? AttentionKind::linear
                                      : AttentionKind::exact;
  choice.height = arguments.height;
  choice.n_trees = arguments.trees;
  if (choice.kind == AttentionKind::tf) choice.tree_window = arguments.tree_window;
  choice.routing = arguments.routing == "all"    ? heed::RoutingGradient::all_leaves
                   : arguments.routing == "none" ? heed::RoutingGradient::none
                                                 : heed::RoutingGradient::flip;
  // Medians of the sequence would let tokens see what comes after them.
  choice.biases = causal ? heed::TreeBiases::stored : heed::TreeBiases::key_medians;
  // 4 d flops a pair: a balanced leaf has `pairs` keys, and routing 2 h d flops a token is worth h / 2 more.
  const Index pairs = std::max<Index>(2, (length >> arguments.height) + arguments.height / 2);
  choice.window = std::max<Index>(1, causal ? pairs - 1 : (pairs - 1) / 2);  // to either side, and the token itself
  choice.rank = std::max<Index>(1, pairs / 2);  // projecting keys and values costs as much as attending to them
  choice.performer.n_features = std::max<Index>(1, pairs / 2);  // features of queries and keys, likewise
  choice.performer.seed = arguments.seed;
  // As published: a query sees 3 blocks near it, 2 at the start and 3 at random; tokens of 2 blocks see all.
  choice.bigbird.block = std::max<Index>(1, pairs / 10);
  choice.bigbird.seed = arguments.seed;
  return choice;
}

}  // namespace train_treeformer
