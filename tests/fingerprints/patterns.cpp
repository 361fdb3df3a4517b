#include "support.hpp"

namespace fingerprints {
namespace {

/// Query i sees the keys j with j % stride == i % stride, in two segments.
class Strided {
 public:
  Strided(Index n_q, Index n_k, Index stride) : queries_(list(n_q, stride)), keys_(list(n_k, stride)) {}
  Index n_groups() const { return static_cast<Index>(queries_.size()); }
  heed::TokenSet queries(Index g) const { return set(queries_[static_cast<std::size_t>(g)]); }
  Index n_segments(Index) const { return 2; }
  heed::TokenSet keys(Index g, Index s) const {
    const heed::TokenSet all = set(keys_[static_cast<std::size_t>(g)]);
    const Index half = all.size / 2;
    return s == 0 ? all.part(0, half) : all.part(half, all.size - half);
  }

 private:
  using Lists = std::vector<std::vector<Index>>;
  static Lists list(Index n, Index stride) {
    Lists lists(static_cast<std::size_t>(stride));
    for (Index t = 0; t < n; ++t) lists[static_cast<std::size_t>(t % stride)].push_back(t);
    return lists;
  }
  static heed::TokenSet set(const std::vector<Index>& tokens) {
    return {0, static_cast<Index>(tokens.size()), tokens.data()};
  }
  Lists queries_, keys_;
};

/// Blocks of 40 queries, each with a range of 90 keys; the last queries are in no group.
struct Blocks {
  Index n_q, n_k;
  Index n_groups() const { return n_q / 40; }
  heed::TokenSet queries(Index g) const { return {40 * g, 40}; }
  Index n_segments(Index) const { return 1; }
  heed::TokenSet keys(Index g, Index) const {
    const Index first = std::min(n_k, 30 * g);
    return {first, std::min<Index>(90, n_k - first)};
  }
};

/// The keys just before the query's own position, as a rule.
struct LastKeys {
  static constexpr bool refines = true;
  Index n_q, n_k, width;
  Index n_groups() const { return 1; }
  heed::TokenSet queries(Index) const { return {0, n_q}; }
  Index n_segments(Index) const { return 1; }
  heed::TokenSet keys(Index, Index) const { return {0, n_k}; }
  bool sees(Index i, Index j) const { return j <= i && i - j < width; }
};

template <class S>
void methods(Recorder& recorder) {
  const auto run = [&](const Operands<S>& in, const std::vector<Kind>& kinds) {
    record_method(recorder, "window", in, kinds, heed::WindowAttention(13, 2));
    record_method(recorder, "bigbird", in, kinds,
                  heed::BigBirdAttention({.block = 16, .n_near = 1, .n_global = 1, .n_random = 2, .seed = 3}));
    record_method(recorder, "pattern", in, kinds, heed::PatternAttention{[](Index n_q, Index n_k) {
                    return Blocks{n_q, n_k};
                  }});
  };
  for (const Shape& shape : option_shapes()) run(Operands<S>(shape), all_kinds());
  for (const Shape& shape : head_shapes()) run(Operands<S>(shape), all_kinds());
  for (const Shape& shape : grid_shapes()) run(Operands<S>(shape), few_kinds());
  record_method(recorder, "bigbird/64", Operands<S>({300, 517, 64, 64}), few_kinds(), heed::BigBirdAttention{});
}

template <class S, class Pattern, class... ScoreMod>
void over(Recorder& recorder, const std::string& method_name, const Operands<S>& in, const std::vector<Kind>& kinds,
          const Pattern& pattern_for) {
  const Store store(in.shape);
  for (const Kind& kind : kinds) {
    heed::AttentionOptions options;
    kind.apply(options, store);
    recorder.record(method_name + "/" + scalar_name<S>() + "/" + in.shape.name() + "/" + kind.name,
                    [&](const heed::Context& context) {
                      const auto result =
                          heed::attend_over(pattern_for(options.mask), in.q, in.k, in.v, options, context);
                      return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
                    });
  }
}

template <class S>
void patterns(Recorder& recorder, const Shape& shape, const std::vector<Kind>& kinds) {
  const Operands<S> in(shape);
  const Index n_q = shape.n_q, n_k = shape.n_k;
  const auto tree = random_tree<S>(3, shape.d);
  over(recorder, "over/strided", in, kinds, [&](const heed::Mask&) { return Strided(n_q, n_k, 5); });
  over(recorder, "over/leaves", in, kinds,
       [&](const heed::Mask& mask) { return heed::LeafPattern(tree, in.q, in.k, mask); });
  over(recorder, "over/strided+last", in, kinds, [&](const heed::Mask&) {
    return heed::PatternUnion{Strided(n_q, n_k, 5), LastKeys{n_q, n_k, 12}};
  });
  over(recorder, "over/leaves+last", in, kinds, [&](const heed::Mask& mask) {
    return heed::PatternUnion{heed::LeafPattern(tree, in.q, in.k, mask), LastKeys{n_q, n_k, 12}};
  });
}

// Unions of unions, on either side.
template <class S>
void nested(Recorder& recorder, const Shape& shape, const std::vector<Kind>& kinds) {
  const Operands<S> in(shape);
  const Index n_q = shape.n_q, n_k = shape.n_k;
  const auto tree = random_tree<S>(3, shape.d);
  over(recorder, "over/(leaves+strided)+(last+blocks)", in, kinds, [&](const heed::Mask& mask) {
    return heed::PatternUnion{heed::PatternUnion{heed::LeafPattern(tree, in.q, in.k, mask), Strided(n_q, n_k, 5)},
                              heed::PatternUnion{LastKeys{n_q, n_k, 12}, Blocks{n_q, n_k}}};
  });
  over(recorder, "over/last", in, kinds, [&](const heed::Mask&) { return LastKeys{n_q, n_k, 12}; });
  over(recorder, "over/dense", in, kinds, [&](const heed::Mask&) { return heed::DensePattern{n_q, n_k}; });
}

void pattern_with_functor(Recorder& recorder) {
  const Operands<float> in({65, 113, 33, 17});
  recorder.record("over/strided+last/functor", [&](const heed::Context& context) {
    const auto result =
        heed::attend_over(heed::PatternUnion{Strided(65, 113, 5), LastKeys{65, 113, 12}}, in.q, in.k, in.v, {}, context,
                          [](float s, Index i, Index j) { return s + 0.25f * static_cast<float>((i + 2 * j) % 7); });
    return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
  });
}

}  // namespace

void pattern_cases(Recorder& recorder) {
  for_each_scalar([&]<class S>() {
    methods<S>(recorder);
    for (const Shape& shape : {Shape{65, 65, 33, 17}, Shape{113, 203, 64, 64}})
      patterns<S>(recorder, shape, all_kinds());
    for (const Shape& shape : {Shape{2, 7, 8, 3}, Shape{300, 517, 64, 64}, Shape{1, 203, 64, 64}})
      patterns<S>(recorder, shape, few_kinds());
  });
  for (const Shape& shape : {Shape{113, 203, 64, 64}, Shape{2, 7, 8, 3}}) {
    nested<float>(recorder, shape, all_kinds());
    nested<Eigen::bfloat16>(recorder, shape, few_kinds());
  }
  pattern_with_functor(recorder);
}

}  // namespace fingerprints
