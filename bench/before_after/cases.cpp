#include "cases.hpp"

#include <cmath>
#include <cstdint>
#include <memory>
#include <sstream>
#include <type_traits>
#include <utility>

#include <Eigen/Core>

namespace before_after {
namespace {

using heed::Index;
template <class S>
using Rows = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using Sum = std::conditional_t<std::is_same_v<S, double>, double, float>;

// Bell-shaped numbers of variance 1, the same in every build (splitmix64).
template <class S>
Rows<S> numbers(Index rows, Index cols, std::uint64_t seed, double size = 1.0) {
  std::uint64_t state = seed;
  const auto uniform = [&] {
    state += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  };
  Rows<S> m(rows, cols);
  for (Index i = 0; i < rows; ++i) {
    for (Index c = 0; c < cols; ++c)
      m(i, c) = static_cast<S>(static_cast<float>(size * (2.0 * (uniform() + uniform() + uniform()) - 3.0)));
  }
  return m;
}

// "a", 3, "b" -> "a3b".
template <class... Parts>
std::string text_of(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  return text.str();
}

struct Sizes {
  Index n_q, n_k, n_heads = 12, n_kv_heads = 12, d = 64;
  std::string name() const {
    const std::string keys = n_q == n_k ? "" : text_of("x", n_k);
    const std::string shared = n_kv_heads == n_heads ? "" : text_of("/", n_kv_heads);
    return text_of(n_q, keys, ", ", n_heads, shared, n_heads == 1 ? " head" : " heads");
  }
  heed::HeadOptions heads() const { return {n_heads, n_kv_heads}; }
};

/// Packed operands, results and memory of one case.
template <class S>
struct Layer {
  Sizes sizes;
  Rows<S> q, k, v, out;
  Rows<Sum<S>> lse;
  heed::Workspace workspace;
  explicit Layer(const Sizes& s)
      : sizes(s),
        q(numbers<S>(s.n_q, s.n_heads * s.d, 1)),
        k(numbers<S>(s.n_k, s.n_kv_heads * s.d, 2)),
        v(numbers<S>(s.n_k, s.n_kv_heads * s.d, 3)),
        out(s.n_q, s.n_heads * s.d),
        lse(s.n_q, s.n_heads) {}
};

// A balanced tree: random planes, biases at the medians of the first head's keys.
template <class S>
heed::DecisionTree<S> balanced_tree(const Layer<S>& layer, Index height) {
  const Index n_nodes = (Index(1) << height) - 1;
  const Rows<Sum<S>> planes = numbers<Sum<S>>(n_nodes, layer.sizes.d, 4), biases = Rows<Sum<S>>::Zero(n_nodes, 1);
  return heed::DecisionTree<S>(planes, biases, {.biases = heed::TreeBiases::key_medians})
      .with_biases_of(layer.k.leftCols(layer.sizes.d));
}

class Collector {
 public:
  explicit Collector(Index threads) : threads_(threads) {}

  void add(std::string name, std::function<std::function<void()>()> prepare) {
    cases.push_back({std::move(name), std::move(prepare)});
  }

  /// Attention of packed heads by the method that make(layer) returns, under the options that options(layer, store)
  /// sets; `store` is an object those options may view.
  template <class S, class Store, class SetOptions, class Make>
  void layer(const std::string& name, const Sizes& sizes, Store store, SetOptions set, Make make) {
    const Index threads = threads_;
    add(name + " " + sizes.name(), [=] {
      auto at = std::make_shared<Layer<S>>(sizes);
      auto stored = std::make_shared<Store>(store);
      auto options = std::make_shared<heed::AttentionOptions>();
      set(*options, *stored, sizes);
      using Method = decltype(make(*at));
      auto method = std::make_shared<Method>(make(*at));
      return [=] {
        heed::multi_head_attend_into(at->out, at->lse, at->q, at->k, at->v, at->sizes.heads(), *options, *method,
                                     {.workspace = &at->workspace, .threads = threads});
      };
    });
  }
  template <class S, class Make>
  void method(const std::string& name, const Sizes& sizes, Make make, heed::Causal causal = heed::Causal::none) {
    layer<S>(
        name, sizes, 0, [causal](heed::AttentionOptions& o, int, const Sizes&) { o.mask.causal = causal; }, make);
  }
  template <class S>
  void exact(const std::string& name, const Sizes& sizes, heed::Causal causal = heed::Causal::none) {
    method<S>(
        name, sizes, [](const Layer<S>&) { return heed::ExactAttention<>{}; }, causal);
  }

  /// attend(q, k, values) of a layer of 768 features, with values that make(x, w) returns.
  template <class MakeValues, class Make>
  void values(const std::string& name, const Sizes& sizes, MakeValues make_values, Make make) {
    const Index threads = threads_;
    add(name + " " + sizes.name(), [=] {
      auto at = std::make_shared<Layer<float>>(sizes);
      auto x = std::make_shared<Rows<float>>(numbers<float>(sizes.n_k, 768, 5));
      auto w = std::make_shared<Rows<float>>(numbers<float>(768, sizes.n_kv_heads * sizes.d, 6, 0.036));
      using Values = decltype(make_values(*x, *w));
      auto made = std::make_shared<Values>(make_values(*x, *w));
      using Method = decltype(make(*at));
      auto method = std::make_shared<Method>(make(*at));
      return [=] {
        (void)x, (void)w;  // viewed by *made
        heed::multi_head_attend_into(at->out, at->lse, at->q, at->k, *made, at->sizes.heads(), {}, *method,
                                     {.workspace = &at->workspace, .threads = threads});
      };
    });
  }

  std::vector<Case> cases;

 private:
  Index threads_;
};

constexpr auto exact_method = [](const auto&) { return heed::ExactAttention<>{}; };
constexpr auto no_options = [](heed::AttentionOptions&, const auto&, const Sizes&) {};

void exact_cases(Collector& to) {
  for (const Index n : {16, 64, 128, 512, 2048, 4096}) {
    to.exact<float>("exact", {n, n, 1, 1});
    to.exact<float>("exact", {n, n});
  }
  for (const Index n : {64, 512, 2048, 4096}) to.exact<float>("causal", {n, n}, heed::Causal::square);
  to.exact<float>("causal, 12 on 4", {512, 512, 12, 4}, heed::Causal::square);
  to.exact<double>("double", {512, 512});
  to.exact<Eigen::half>("half", {512, 512});
  to.exact<Eigen::bfloat16>("bfloat16", {512, 512});
  using O = heed::AttentionOptions;
  const Sizes sizes{512, 512};
  to.layer<float>(
      "window 256", {2048, 2048}, 0, [](O& o, int, const Sizes&) { o.mask.window_left = 256, o.mask.window_right = 0; },
      exact_method);
  to.layer<float>(
      "alibi", sizes, 0, [](O& o, int, const Sizes&) { o.mask.alibi_slope = 0.1; }, exact_method);
  to.layer<float>(
      "softcap", sizes, 0, [](O& o, int, const Sizes&) { o.softcap = 30.0; }, exact_method);
  to.layer<float>(
      "sinks", sizes, 0, [](O& o, int, const Sizes&) { o.sinks = 0.5; }, exact_method);
  to.layer<float>(
      "bias", sizes, numbers<float>(512, 512, 7),
      [](O& o, const Rows<float>& bias, const Sizes&) { o.mask.bias = bias; }, exact_method);
  const Rows<bool> allowed = (numbers<float>(512, 512, 8).array() < 0.8f).matrix();
  to.layer<float>(
      "allowed", sizes, allowed, [](O& o, const Rows<bool>& some, const Sizes&) { o.mask.allowed = some; },
      exact_method);
  to.layer<float>("functor", sizes, 0, no_options, [](const auto&) {
    return heed::ExactAttention{[](float s, Index i, Index j) { return s + 0.01f * static_cast<float>(i - j); }};
  });
}

template <class S>
void cached_case(Collector& to, const std::string& name, const Sizes& sizes, Index threads) {
  to.add(name + " " + sizes.name(), [=] {
    auto at = std::make_shared<Layer<float>>(sizes);
    auto cache = std::make_shared<heed::KeyValueCache<S>>(sizes.d, sizes.d, sizes.n_kv_heads, sizes.n_k);
    cache->append(at->k, at->v);
    return [=] {
      heed::attend_into(at->out, at->lse, at->q, *cache, {}, heed::ExactAttention<>{},
                        {.workspace = &at->workspace, .threads = threads});
    };
  });
}

void decode_cases(Collector& to, Index threads) {
  for (const Index n_k : {128, 4096, 65536}) {
    to.exact<float>("decode", {1, n_k});
    to.exact<float>("decode", {1, n_k, 12, 4});
    cached_case<float>(to, "cache", {1, n_k, 12, 4}, threads);
    cached_case<Eigen::bfloat16>(to, "bfloat16 cache", {1, n_k, 12, 4}, threads);
  }
  cached_case<float>(to, "cache", {4, 4096, 12, 4}, threads);
}

void tree_cases(Collector& to) {
  const auto tf = [](const Layer<float>& layer) { return heed::TfAttention<float>(balanced_tree(layer, 8)); };
  for (const Index n : {4096, 16384}) to.method<float>("tf, 256 leaves,", {n, n}, tf);
  to.method<float>("causal tf, 256 leaves,", {4096, 4096}, tf, heed::Causal::square);
  to.method<float>("tf, 8 leaves,", {128, 128},
                   [](const Layer<float>& layer) { return heed::TfAttention<float>(balanced_tree(layer, 3)); });
  to.method<float>("tf and window,", {4096, 4096}, [](const Layer<float>& layer) {
    return heed::TfAttention<float>(balanced_tree(layer, 8), {.window_left = 32, .n_sinks = 4});
  });
  const auto tc = [](const Layer<float>& layer) {
    return heed::TcAttention<float>(balanced_tree(layer, 8), heed::Vector<float>::Ones(9).eval());
  };
  to.method<float>("tc, 256 leaves,", {4096, 4096}, tc);
  to.method<float>("causal tc, 256 leaves,", {4096, 4096}, tc, heed::Causal::square);
  to.method<float>("bigbird", {4096, 4096}, [](const Layer<float>&) { return heed::BigBirdAttention{}; });
}

void importance_cases(Collector& to, Index threads) {
  for (const Index n : {64, 512, 2048}) {
    to.add(text_of("importance ", n), [=] {
      auto at = std::make_shared<Layer<float>>(Sizes{n, n, 1, 1});
      return [=] {
        heed::key_importance(at->q, at->k, {}, heed::ExactAttention<>{},
                             {.workspace = &at->workspace, .threads = threads});
      };
    });
  }
  to.add("importance of tf 4096", [=] {
    auto at = std::make_shared<Layer<float>>(Sizes{4096, 4096, 1, 1});
    auto tf = std::make_shared<heed::TfAttention<float>>(balanced_tree(*at, 6));
    return [=] { heed::key_importance(at->q, at->k, {}, *tf, {.workspace = &at->workspace, .threads = threads}); };
  });
}

void value_cases(Collector& to) {
  using Options = heed::MonteCarloOptions;
  const auto sampled = [](Options options) {
    return
        [options](const Rows<float>& x, const Rows<float>& w) { return heed::MonteCarloValues<float>(x, w, options); };
  };
  const auto projected = [](const Rows<float>& x, const Rows<float>& w) { return heed::ProjectedValues<float>(x, w); };
  to.values("projected", {512, 512}, projected, exact_method);
  to.values("projected", {1, 512}, projected, exact_method);
  to.values("monte carlo, as given,", {512, 512}, sampled({}), exact_method);
  to.values("monte carlo, sampled,", {512, 512}, sampled({.path = heed::ValuePath::sampled}), exact_method);
  to.values("monte carlo, constant,", {512, 512},
            sampled({.budget = heed::Budget::constant, .fraction = 0.2, .path = heed::ValuePath::sampled}),
            exact_method);
  to.values("monte carlo, largest,", {512, 512},
            sampled({.estimator = heed::Estimator::largest,
                     .budget = heed::Budget::constant,
                     .fraction = 0.2,
                     .path = heed::ValuePath::sampled}),
            exact_method);
  to.values("monte carlo over tf,", {2048, 2048}, sampled({.path = heed::ValuePath::sampled}),
            [](const Layer<float>& layer) { return heed::TfAttention<float>(balanced_tree(layer, 5)); });
}

void tiny_cases(Collector& to, Index threads) {
  struct Tiny {
    Rows<float> q, k, v, out;
    heed::Vector<float> lse;
    heed::Workspace workspace;
  };
  for (const Index n : {1, 4, 16}) {
    for (const bool reuse : {true, false}) {
      const Index n_k = n == 1 ? 16 : n;
      to.add(text_of("tiny ", n, "x", n_k, "x8", reuse ? "" : ", no workspace"), [=] {
        auto at = std::make_shared<Tiny>();
        at->q = numbers<float>(n, 8, 1), at->k = numbers<float>(n_k, 8, 2), at->v = numbers<float>(n_k, 8, 3);
        at->out.resize(n, 8), at->lse.resize(n);
        return [=] {
          heed::attend_into(at->out, at->lse, at->q, at->k, at->v, {}, heed::ExactAttention<>{},
                            {.workspace = reuse ? &at->workspace : nullptr, .threads = threads});
        };
      });
    }
  }
}

void sequence_cases(Collector& to, Index threads) {
  struct Packed {
    Layer<float> layer;
    std::vector<Index> offsets;
  };
  for (const Index length : {16, 64, 256}) {
    const Index n = 4096;
    const auto packed = [=] {
      auto at = std::make_shared<Packed>(Packed{Layer<float>({n, n, 4, 4}), {}});
      for (Index first = 0; first <= n; first += length) at->offsets.push_back(first);
      return at;
    };
    const std::string name = text_of(n / length, " sequences of ", length, ", ");
    to.add(name + "one call", [=] {
      auto at = packed();
      return [=] {
        heed::AttentionOptions options;
        options.mask.sequence_offsets = at->offsets;
        heed::multi_head_attend_into(at->layer.out, at->layer.lse, at->layer.q, at->layer.k, at->layer.v,
                                     at->layer.sizes.heads(), options, heed::ExactAttention<>{},
                                     {.workspace = &at->layer.workspace, .threads = threads});
      };
    });
    to.add(name + "a loop", [=] {
      auto at = packed();
      return [=] {
        for (Index first = 0; first < n; first += length) {
          heed::multi_head_attend_into(at->layer.out.middleRows(first, length), at->layer.lse.middleRows(first, length),
                                       at->layer.q.middleRows(first, length), at->layer.k.middleRows(first, length),
                                       at->layer.v.middleRows(first, length), at->layer.sizes.heads(), {},
                                       heed::ExactAttention<>{},
                                       {.workspace = &at->layer.workspace, .threads = threads});
        }
      };
    });
  }
}

}  // namespace

std::vector<Case> all_cases(Index threads) {
  Collector to(threads);
  tiny_cases(to, threads);
  exact_cases(to);
  decode_cases(to, threads);
  tree_cases(to);
  importance_cases(to, threads);
  value_cases(to);
  sequence_cases(to, threads);
  return std::move(to.cases);
}

}  // namespace before_after
