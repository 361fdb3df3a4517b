#include "support.hpp"

namespace fingerprints {
namespace {

template <class S, class Method>
void over(Recorder& recorder, const std::string& method_name, const Shape& shape, const std::vector<Kind>& kinds,
          const Method& method) {
  const Operands<S> in(shape);
  const Store store(shape);
  const std::string first = std::is_same_v<S, Eigen::bfloat16> ? "edge/bfloat16_weights/" : "";
  for (const Kind& kind : kinds) {
    heed::AttentionOptions options;
    kind.apply(options, store);
    recorder.record(first + "importance/" + method_name + "/" + scalar_name<S>() + "/" + shape.name() + "/" + kind.name,
                    [&](const heed::Context& context) {
                      const auto weights = heed::key_importance(in.q, in.k, options, method, context);
                      return std::vector<std::uint64_t>{hash_of(weights.largest), hash_of(weights.norm)};
                    });
  }
}

}  // namespace

void importance_cases(Recorder& recorder) {
  for_each_scalar([&]<class S>() {
    using T = Sum<S>;
    const auto run = [&](const Shape& shape, const std::vector<Kind>& kinds) {
      const auto tree = random_tree<S>(3, shape.d);
      const heed::Vector<T> logits = numbers<T>(4, 1, 61).col(0);
      over<S>(recorder, "exact", shape, kinds, heed::ExactAttention<>{});
      over<S>(recorder, "window", shape, kinds, heed::WindowAttention(13, 2));
      over<S>(recorder, "bigbird", shape, kinds,
              heed::BigBirdAttention({.block = 16, .n_near = 1, .n_global = 1, .n_random = 2}));
      over<S>(recorder, "tf", shape, kinds, heed::TfAttention<S>(tree));
      over<S>(recorder, "tf/near", shape, kinds, heed::TfAttention<S>(tree, {.window_left = 5, .n_sinks = 2}));
      over<S>(recorder, "tc", shape, kinds, heed::TcAttention<S>(tree, logits));
      over<S>(recorder, "tc/by_query", shape, kinds, heed::TcAttention<S>(tree, logits, {.by_query = true}));
    };
    for (const Shape& shape : option_shapes()) run(shape, all_kinds());
    for (const Shape& shape : grid_shapes()) run(shape, few_kinds());
    run({1, 5003, 64, 64}, few_kinds());
  });
  // Over a pattern, and with a functor.
  const Operands<float> in({65, 113, 33, 17});
  recorder.record("importance/over/leaves", [&](const heed::Context& context) {
    const heed::LeafPattern leaves(random_tree<float>(3, 33), in.q, in.k);
    const auto weights = heed::key_importance_over(leaves, in.q, in.k, {}, context, [](float s, Index i, Index j) {
      return s + 0.25f * static_cast<float>((i + 2 * j) % 7);
    });
    return std::vector<std::uint64_t>{hash_of(weights.largest), hash_of(weights.norm)};
  });
}

}  // namespace fingerprints
