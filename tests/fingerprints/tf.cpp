#include "support.hpp"

namespace fingerprints {
namespace {

template <class S>
void methods(Recorder& recorder, const Operands<S>& in, const std::vector<Kind>& kinds) {
  using T = Sum<S>;
  const Index d = in.shape.d;
  const auto tree = random_tree<S>(3, d);
  record_method(recorder, "tf", in, kinds, heed::TfAttention<S>(tree));
  record_method(recorder, "tf/near", in, kinds, heed::TfAttention<S>(tree, {.window_left = 5, .n_sinks = 2}));
  record_method(recorder, "tf/window", in, kinds, heed::TfAttention<S>(tree, {.window_left = 11}));
  record_method(recorder, "tf/cap", in, kinds, heed::TfAttention<S>(tree, {.leaf_cap = 4}));
  record_method(recorder, "tf/near+cap", in, kinds,
                heed::TfAttention<S>(tree, {.window_left = 5, .n_sinks = 2, .leaf_cap = 4}));
  record_method(recorder, "tf/height_0", in, kinds, heed::TfAttention<S>(heed::DecisionTree<S>{}));
  record_method(recorder, "tf/height_6", in, kinds, heed::TfAttention<S>(random_tree<S>(6, d)));
  record_method(recorder, "tf/medians", in, kinds,
                heed::TfAttention<S>(random_tree<S>(3, d, {.biases = heed::TreeBiases::key_medians})));
  const heed::TreeLift<T> lift{T(8), numbers<T>(7, 1, 33).col(0)};
  record_method(recorder, "tf/lift", in, kinds, heed::TfAttention<S>(random_tree<S>(3, d, {.lift = lift})));
  record_method(recorder, "edge/median_lift/tf", in, kinds,
                heed::TfAttention<S>(random_tree<S>(3, d, {.biases = heed::TreeBiases::key_medians, .lift = lift})));
}

template <class S>
void trees(Recorder& recorder) {
  using T = Sum<S>;
  const Operands<S> in({113, 203, 33, 17});
  const auto leaves = [&](const std::string& name, const heed::DecisionTree<S>& tree) {
    recorder.record(name + "/" + scalar_name<S>(), [&](const heed::Context& context) {
      const heed::Mask mask{.n_real_keys = 190};
      const heed::LeafPattern pattern(tree, in.q, in.k, mask);
      Hash tiles;
      tiles.number(pattern.n_fallen());
      const auto add = [&](const heed::TokenSet& tokens) {
        for (Index t = 0; t < tokens.size; ++t) tiles.number(tokens[t]);
      };
      for (Index g = 0; g < pattern.n_groups(); ++g) {
        add(pattern.queries(g));
        for (Index s = 0; s < pattern.n_segments(g); ++s) add(pattern.keys(g, s));
      }
      return std::vector<std::uint64_t>{hash_of(tree.planes()),
                                        hash_of(tree.biases()),
                                        hash_of(tree.leaf_of(in.q, context)),
                                        hash_of(tree.leaf_of_keys(in.k, context)),
                                        tiles.value(),
                                        hash_of(tree.with_biases_of(in.k).biases())};
    });
  };
  const heed::TreeLift<T> lift{T(8), numbers<T>(31, 1, 33).col(0)};
  leaves("leaves/random", random_tree<S>(5, 33));
  leaves("leaves/height_10", random_tree<S>(10, 33));
  leaves("leaves/medians", random_tree<S>(5, 33, {.biases = heed::TreeBiases::key_medians}));
  leaves("leaves/lift", random_tree<S>(5, 33, {.lift = lift}));
  leaves("edge/median_lift/leaves", random_tree<S>(5, 33, {.biases = heed::TreeBiases::key_medians, .lift = lift}));
  for (const heed::Split split : {heed::Split::principal_direction, heed::Split::two_means}) {
    const std::string name = split == heed::Split::two_means ? "leaves/fit/two_means" : "leaves/fit/principal";
    leaves(name, heed::fit_tree(in.k, in.q, {.height = 4, .split = split, .seed = 5}));
    leaves(name + "/queries",
           heed::fit_tree(in.k, in.q, {.height = 4, .split = split, .points = heed::FitPoints::keys_and_queries}));
    leaves(name + "/lift", heed::fit_tree(in.k, in.q, {.height = 4, .split = split, .inner_product_lift = true}));
  }
}

template <class S>
void lists(Recorder& recorder) {
  for (const Shape& shape : {Shape{33, 70, 16, 8, 4, 2}, Shape{1, 70, 16, 8, 4, 2}}) {
    std::vector<heed::TfAttention<S>> by_key_head, by_head;
    for (std::uint64_t h = 0; h < 4; ++h) {
      const auto tree = random_tree<S>(static_cast<Index>(2 + h % 2), 16, {}, 50 + 2 * h);
      by_head.emplace_back(tree, heed::TfOptions{.n_sinks = static_cast<Index>(h)});
      if (h < 2) by_key_head.emplace_back(tree);
    }
    record_method(recorder, "tf/list_by_head", Operands<S>(shape), few_kinds(), by_head);
    record_method(recorder, "tf/list_by_key_head", Operands<S>(shape), few_kinds(), by_key_head);
  }
}

}  // namespace

void tf_cases(Recorder& recorder) {
  for_each_scalar([&]<class S>() {
    for (const Shape& shape : option_shapes()) methods<S>(recorder, Operands<S>(shape), all_kinds());
    for (const Shape& shape : head_shapes()) methods<S>(recorder, Operands<S>(shape), all_kinds());
    for (const Shape& shape : grid_shapes()) methods<S>(recorder, Operands<S>(shape), few_kinds());
    trees<S>(recorder);
    lists<S>(recorder);
  });
}

}  // namespace fingerprints
