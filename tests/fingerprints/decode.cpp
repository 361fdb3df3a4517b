#include "support.hpp"

namespace fingerprints {
namespace {

// Few queries over many keys: more than a chunk, so that parts are merged.
template <class S>
void long_decode(Recorder& recorder) {
  const auto kinds = kinds_named(
      {"plain", "bottom_right", "window", "window_left", "real_keys", "allowed_by_head", "bias_by_head",
       "masking_bias_by_head", "alibi_by_head", "sequences", "softcap", "sinks_by_head", "large_sink", "negative_scale",
       "bottom_right+window+bias+alibi+softcap+sinks", "sequences+bottom_right+alibi+sinks"});
  for (const Shape& shape : {Shape{1, 9001, 64, 64}, Shape{3, 5003, 33, 17}, Shape{1, 5003, 64, 64, 4, 1},
                             Shape{1, 5003, 16, 40, 7, 1}, Shape{2, 5003, 64, 64, 8, 2}, Shape{5, 8200, 64, 64}})
    record_method(recorder, "decode", Operands<S>(shape), kinds, heed::ExactAttention<>{});
}

// Queries of scalar SQ over a cache that stores S, filled in three pieces.
template <class SQ, class S>
void cached(Recorder& recorder) {
  const auto kinds = kinds_named({"plain", "bottom_right", "window", "real_keys", "allowed_by_head", "bias_by_head",
                                  "alibi_by_head", "softcap", "sinks_by_head", "scale"});
  for (const Shape& shape : {Shape{1, 203, 64, 64, 4, 4}, Shape{1, 203, 33, 17, 7, 1}, Shape{3, 203, 64, 64, 8, 2},
                             Shape{65, 113, 16, 16, 2, 1}, Shape{1, 5003, 64, 64, 4, 1}, Shape{1, 5003, 128, 64}}) {
    const Operands<S> in(shape);
    const Rows<SQ> q = numbers<SQ>(shape.n_q, shape.n_heads * shape.d, 11);
    heed::KeyValueCache<S> cache(shape.d, shape.d_v, shape.n_kv_heads);
    for (Index first = 0, n = 0; first < shape.n_k; first += n) {
      n = std::min<Index>(1 + 2 * first, shape.n_k - first);
      cache.append(in.k.middleRows(first, n), in.v.middleRows(first, n));
    }
    const Store store(shape);
    for (const Kind& kind : kinds) {
      heed::AttentionOptions options;
      kind.apply(options, store);
      recorder.record("cache/" + scalar_name<SQ>() + "_over_" + scalar_name<S>() + "/" + shape.name() + "/" + kind.name,
                      [&](const heed::Context& context) {
                        const auto result = heed::attend(q, cache, options, heed::ExactAttention<>{}, context);
                        return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
                      });
    }
  }
}

void cached_tf(Recorder& recorder) {
  const Shape shape{3, 203, 16, 16, 4, 2};
  const Operands<float> in(shape);
  heed::KeyValueCache<float> cache(shape.d, shape.d_v, shape.n_kv_heads);
  cache.append(in.k, in.v);
  recorder.record("cache/tf", [&](const heed::Context& context) {
    const auto result = heed::attend(in.q, cache, {}, heed::TfAttention<float>(random_tree<float>(3, 16)), context);
    return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
  });
}

}  // namespace

void decode_cases(Recorder& recorder) {
  for_each_scalar([&]<class S>() { long_decode<S>(recorder); });
  cached<float, float>(recorder);
  cached<double, double>(recorder);
  cached<Eigen::half, Eigen::half>(recorder);
  cached<Eigen::bfloat16, Eigen::bfloat16>(recorder);
  cached<float, Eigen::half>(recorder);
  cached<float, Eigen::bfloat16>(recorder);
  cached_tf(recorder);
}

}  // namespace fingerprints
