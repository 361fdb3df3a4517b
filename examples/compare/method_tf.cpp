// Treeformer's layers: with the tree that the model was trained with, where the data bring one, and with an untrained
// tree, fitted to the head's own keys and queries with about 64 keys a leaf. Published TF and TC are trained with their
// tree; untrained they are no approximation of softmax attention, and the errors here show it.
#include <algorithm>

#include <Eigen/Core>

#include "attend_attempt.hpp"

namespace compare {
namespace {

heed::DecisionTree<float> fitted_tree(const Head& head, const Settings& settings) {
  Index height = 0;
  while (height < 12 && (Index{64} << (height + 1)) <= head.k->rows()) ++height;
  return heed::fit_tree(*head.k, *head.q,
                        {.height = height, .points = heed::FitPoints::keys_and_queries, .seed = settings.seed});
}

std::unique_ptr<Attempt> tf(const Head& head, const Settings& settings) {
  return attend_attempt<float>(head, settings.options, settings.threads,
                               heed::TfAttention<float>{fitted_tree(head, settings)});
}

std::unique_ptr<Attempt> tf_near(const Head& head, const Settings& settings) {
  return attend_attempt<float>(
      head, settings.options, settings.threads,
      heed::TfAttention<float>{fitted_tree(head, settings), {.window_left = settings.window, .n_sinks = 4}});
}

std::unique_ptr<Attempt> tc(const Head& head, const Settings& settings) {
  const auto tree = fitted_tree(head, settings);
  const Eigen::VectorXf logits = Eigen::VectorXf::Zero(tree.height() + 1);
  return attend_attempt<float>(head, settings.options, settings.threads, heed::TcAttention<float>{tree, logits});
}

heed::DecisionTree<float> stored_tree(const Head& head) {
  return heed::DecisionTree<float>(*head.tree_planes, head.tree_biases->transpose());
}

std::unique_ptr<Attempt> tf_trained(const Head& head, const Settings& settings) {
  return attend_attempt<float>(head, settings.options, settings.threads, heed::TfAttention<float>{stored_tree(head)});
}

std::unique_ptr<Attempt> tc_trained(const Head& head, const Settings& settings) {
  return attend_attempt<float>(
      head, settings.options, settings.threads,
      heed::TcAttention<float>{stored_tree(head), head.level_logits->row(0).transpose().eval()});
}

const Registration trained_leaves{{.name = "tf-trained",
                                   .description = "Treeformer TF with the tree that this layer was trained with",
                                   .family = Family::trees,
                                   .by_default = true,
                                   .needs = Needs::tf_tree,
                                   .bind = tf_trained}};
const Registration trained_path{{.name = "tc-trained",
                                 .description = "Treeformer TC with the tree and weights of its own training",
                                 .family = Family::trees,
                                 .by_default = true,
                                 .needs = Needs::tc_tree,
                                 .bind = tc_trained}};
const Registration leaves{{.name = "tf-untrained",
                           .description = "Treeformer TF with a fitted, untrained tree: no approximation of softmax",
                           .family = Family::trees,
                           .bind = tf}};
const Registration near{
    {.name = "tf-untrained-window",
     .description = "Treeformer TF as tf-untrained, united with the --window keys before and the first 4",
     .family = Family::trees,
     .by_default = true,
     .bind = tf_near}};
const Registration path{{.name = "tc-untrained",
                         .description = "Treeformer TC, equal level weights, untrained: no approximation of softmax",
                         .family = Family::trees,
                         .bind = tc}};

}  // namespace
}  // namespace compare
