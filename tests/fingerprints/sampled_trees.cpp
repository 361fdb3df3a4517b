#include "sampled.hpp"

namespace fingerprints {

void sampled_tree_cases(Recorder& recorder) {
  const auto kinds = kinds_named({"plain", "bottom_right", "real_keys", "allowed_by_head", "sequences"});
  const auto tc_kinds = kinds_named({"plain", "top_left", "bottom_right", "real_keys", "sequences"});
  for_each_scalar([&]<class S>() {
    using T = Sum<S>;
    for (const Shape& shape : {Shape{65, 113, 16, 20}, Shape{33, 70, 16, 8, 4, 2}}) {
      const auto tree = random_tree<S>(3, shape.d);
      const heed::Vector<T> logits = numbers<T>(4, 1, 61).col(0);
      record_sampled<S>(recorder, "tf", shape, kinds, heed::TfAttention<S>(tree));
      record_sampled<S>(recorder, "tf/near", shape, kinds,
                        heed::TfAttention<S>(tree, {.window_left = 5, .n_sinks = 2}));
      record_sampled<S>(recorder, "tc", shape, tc_kinds, heed::TcAttention<S>(tree, logits));
      record_sampled<S>(recorder, "tc/by_query", shape, tc_kinds,
                        heed::TcAttention<S>(tree, logits, {.by_query = true}));
    }
  });
}

}  // namespace fingerprints
