#include "support.hpp"

namespace fingerprints {
namespace {

template <class S>
void methods(Recorder& recorder, const Operands<S>& in, const std::vector<Kind>& kinds) {
  using T = Sum<S>;
  const Index d = in.shape.d;
  const auto tree = random_tree<S>(3, d);
  const heed::Vector<T> logits = numbers<T>(4, 1, 61).col(0), deep = numbers<T>(7, 1, 62).col(0);
  heed::Vector<T> off = logits;
  off(0) = off(2) = -std::numeric_limits<T>::infinity();
  const heed::TreeLift<T> lift{T(8), numbers<T>(7, 1, 33).col(0)};
  record_method(recorder, "tc", in, kinds, heed::TcAttention<S>(tree, logits));
  record_method(recorder, "tc/by_query", in, kinds, heed::TcAttention<S>(tree, logits, {.by_query = true}));
  record_method(recorder, "tc/levels_off", in, kinds, heed::TcAttention<S>(tree, off));
  record_method(recorder, "tc/by_query/levels_off", in, kinds, heed::TcAttention<S>(tree, off, {.by_query = true}));
  record_method(recorder, "tc/extreme", in, kinds, heed::TcAttention<S>(tree, (T(60) * logits).eval()));
  record_method(recorder, "tc/height_6", in, kinds, heed::TcAttention<S>(random_tree<S>(6, d), deep));
  record_method(recorder, "tc/height_0", in, kinds,
                heed::TcAttention<S>(heed::DecisionTree<S>{}, logits.head(1).eval()));
  record_method(recorder, "tc/lift", in, kinds, heed::TcAttention<S>(random_tree<S>(3, d, {.lift = lift}), logits));
  record_method(recorder, "tc/medians", in, kinds,
                heed::TcAttention<S>(random_tree<S>(3, d, {.biases = heed::TreeBiases::key_medians}), logits));
  record_method(
      recorder, "edge/median_lift/tc", in, kinds,
      heed::TcAttention<S>(random_tree<S>(3, d, {.biases = heed::TreeBiases::key_medians, .lift = lift}), logits));
}

template <class S>
void states(Recorder& recorder) {
  using T = Sum<S>;
  const Operands<S> in({65, 65, 33, 17});
  const heed::Vector<T> logits = numbers<T>(4, 1, 61).col(0);
  for (const bool by_query : {false, true}) {
    for (const double scale : {0.0, 0.7}) {
      recorder.record("tc/state/" + scalar_name<S>() + (by_query ? "/by_query" : "") + (scale != 0 ? "/scale" : ""),
                      [&](const heed::Context&) {
                        heed::AttentionOptions options;
                        if (scale != 0) options.scale = scale;
                        heed::TcState<S> state(
                            heed::TcAttention<S>(random_tree<S>(3, 33), logits, {.by_query = by_query}), 17, 0,
                            options);
                        std::vector<std::uint64_t> hashes;
                        for (Index first = 0, n = 0; first < 65; first += n) {
                          n = std::min<Index>(1 + first, 65 - first);
                          state.append(in.k.middleRows(first, n), in.v.middleRows(first, n));
                          hashes.push_back(hash_of(state.attend(in.q.middleRows(first, n))));
                        }
                        return hashes;
                      });
    }
  }
}

}  // namespace

void tc_cases(Recorder& recorder) {
  const auto kinds =
      kinds_named({"plain", "square", "top_left", "bottom_right", "real_keys", "real_keys_0", "same_sequences",
                   "sequences", "scale", "negative_scale", "zero_scale", "sequences+top_left+real_keys", "window",
                   "allowed", "bias", "alibi", "softcap", "sink"});
  for_each_scalar([&]<class S>() {
    for (const Shape& shape : option_shapes()) methods<S>(recorder, Operands<S>(shape), kinds);
    for (const Shape& shape : head_shapes()) methods<S>(recorder, Operands<S>(shape), kinds);
    for (const Shape& shape : grid_shapes()) methods<S>(recorder, Operands<S>(shape), kinds);
    states<S>(recorder);
  });
}

}  // namespace fingerprints
