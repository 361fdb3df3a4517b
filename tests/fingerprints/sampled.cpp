#include "sampled.hpp"

namespace fingerprints {

void sampled_cases(Recorder& recorder) {
  const auto kinds = kinds_named(
      {"plain", "bottom_right", "real_keys", "allowed_by_head", "bias_by_head", "sequences", "sinks_by_head"});
  for_each_scalar([&]<class S>() {
    for (const Shape& shape : {Shape{65, 113, 16, 20}, Shape{33, 70, 16, 8, 4, 2}, Shape{2, 7, 8, 3}})
      record_sampled<S>(recorder, "exact", shape, kinds, heed::ExactAttention<>{});
    record_sampled<S>(recorder, "exact", {300, 517, 16, 40, 7, 7}, kinds_named({"plain"}), heed::ExactAttention<>{});
  });
  const Shape shape{33, 70, 16, 8, 4, 2};
  record_sampled<float>(recorder, "window", shape, kinds, heed::WindowAttention(9, 3));
  record_sampled<float>(recorder, "bigbird", shape, kinds, heed::BigBirdAttention({.block = 8}));
  // The default path, which multiplies exactly where sampling would be slower: over heads of a layer, and (edge/) one
  // small head.
  for (const Shape& layer : {Shape{300, 300, 64, 64, 12, 12}, Shape{65, 113, 16, 20}}) {
    const Operands<float> in(layer);
    const Rows<float> x = numbers<float>(layer.n_k, 768, 71),
                      w = numbers<float>(768, layer.n_kv_heads * layer.d_v, 72, 0.04);
    for (Sampling sampling : samplings()) {
      sampling.options.path = heed::ValuePath::fastest;
      const heed::MonteCarloValues<float> values(x, w, sampling.options);
      const std::string name = layer.n_heads == 1 ? "edge/fastest_one_head/" : "sampled/fastest/";
      recorder.record(name + layer.name() + "/" + sampling.name, [&](const heed::Context& context) {
        const auto result = heed::multi_head_attend(in.q, in.k, values, {layer.n_heads, layer.n_kv_heads}, {},
                                                    heed::ExactAttention<>{}, context);
        return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
      });
    }
  }
}

}  // namespace fingerprints
