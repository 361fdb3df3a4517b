#include "heed/approx/tf_attention.hpp"

#include <vector>

#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/multi_head.hpp"
#include "support/conformance.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

constexpr Index height = 3;

template <class S>
DecisionTree<S> tree_for(const Inputs<S>& in) {
  return random_tree<S>(height, in.q.cols());
}

constexpr auto small_tree = []<class S>(const Inputs<S>& in) { return TfAttention<S>(tree_for(in)); };
constexpr auto one_leaf = []<class S>(const Inputs<S>&) { return TfAttention<S>(DecisionTree<S>()); };
constexpr auto same_leaf = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_of_tree(tree_for(in), in, options);
};

/// Products of kept pairs, and h decisions a token.
FlopCounter tf_flops(const FlopCase& sizes) {
  FlopCounter flops = exact_flops(sizes);
  const double tokens = static_cast<double>(sizes.n_q) + sizes.real_keys;
  flops.add_products(Phase::route, 2.0 * static_cast<double>(height * sizes.d) * tokens);
  return flops;
}

INSTANTIATE_METHOD_SUITE(TfAttention, {.make = small_tree,
                                       .exact_when = one_leaf,
                                       .keeps = same_leaf,
                                       .flops = tf_flops,
                                       .reads_keys_to_choose = true,
                                       .falls_back = true});

}  // namespace
}  // namespace heed::test
