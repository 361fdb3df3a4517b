#pragma once
#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <initializer_list>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include <heed/heed.hpp>

// What all files of this program share: inputs, options, and how a result becomes a line. It uses nothing but heed.hpp,
// so that the same files compile against two states of the library.

namespace fingerprints {

using heed::Index;
template <class S>
using Rows = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class S>
using Sum = std::conditional_t<std::is_same_v<S, double>, double, float>;

template <class S>
std::string scalar_name() {
  if constexpr (std::is_same_v<S, double>) return "double";
  if constexpr (std::is_same_v<S, float>) return "float";
  if constexpr (std::is_same_v<S, Eigen::half>) return "half";
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return "bfloat16";
}

/// FNV-1a over the bytes of numbers. Every NaN counts as the same one: its sign and payload are nobody's promise.
class Hash {
 public:
  template <class S>
  void number(const S& x) {
    if constexpr (std::is_same_v<S, double>) {
      add(x != x ? 0x7ff8000000000000u : std::bit_cast<std::uint64_t>(x), 8);
    } else if constexpr (std::is_same_v<S, float>) {
      add(x != x ? 0x7fc00000u : std::bit_cast<std::uint32_t>(x), 4);
    } else if constexpr (std::is_integral_v<S>) {
      add(static_cast<std::uint64_t>(x), sizeof(S));
    } else {
      const float wide = static_cast<float>(x);
      add(wide != wide ? 0x7fc0u : std::bit_cast<std::uint16_t>(x), 2);
    }
  }
  template <class Matrix>
  void all(const Matrix& m) {
    for (Index i = 0; i < m.rows(); ++i) {
      for (Index c = 0; c < m.cols(); ++c) number(m(i, c));
    }
  }
  std::uint64_t value() const { return value_; }

 private:
  void add(std::uint64_t bits, std::size_t bytes) {
    for (std::size_t b = 0; b < bytes; ++b) {
      value_ ^= bits >> (8 * b) & 0xffu;
      value_ *= 0x100000001b3u;
    }
  }
  std::uint64_t value_ = 0xcbf29ce484222325u;
};

template <class... Matrices>
std::uint64_t hash_of(const Matrices&... matrices) {
  Hash hash;
  (hash.all(matrices), ...);
  return hash.value();
}

/// Bell-shaped numbers of variance 1 in [-3, 3], the same with every compiler (splitmix64).
class Numbers {
 public:
  explicit Numbers(std::uint64_t seed) : state_(seed) {}
  double uniform() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return static_cast<double>((z ^ (z >> 31)) >> 11) * 0x1p-53;
  }
  double normal() {
    const double a = uniform(), b = uniform(), c = uniform();
    return 2.0 * (a + b + c) - 3.0;
  }

 private:
  std::uint64_t state_;
};

template <class S>
Rows<S> numbers(Index rows, Index cols, std::uint64_t seed, double size = 1.0) {
  Numbers stream(seed);
  Rows<S> m(rows, cols);
  for (Index i = 0; i < rows; ++i) {
    for (Index c = 0; c < cols; ++c) m(i, c) = static_cast<S>(static_cast<Sum<S>>(size * stream.normal()));
  }
  return m;
}

/// Sizes of one call; widths are those of one head.
struct Shape {
  Index n_q, n_k, d, d_v;
  Index n_heads = 1, n_kv_heads = 1;
  std::string name() const {
    std::ostringstream text;
    text << n_q << 'x' << n_k << 'x' << d << 'x' << d_v;
    if (n_heads > 1) text << 'h' << n_heads << '/' << n_kv_heads;
    return text.str();
  }
};

/// Packed operands of all heads.
template <class S>
struct Operands {
  Shape shape;
  Rows<S> q, k, v;
  explicit Operands(const Shape& s, double size = 1.0)
      : shape(s),
        q(numbers<S>(s.n_q, s.n_heads * s.d, 11, size)),
        k(numbers<S>(s.n_k, s.n_kv_heads * s.d, 12)),
        v(numbers<S>(s.n_k, s.n_kv_heads * s.d_v, 13)) {}
};

/// Memory that options view: masks, biases, slopes, sinks and offsets for the heads of one shape.
struct Store {
  Shape shape;
  Rows<bool> allowed, allowed_by_head;
  Rows<float> bias, bias_by_head;
  Eigen::MatrixXd masking_bias, masking_bias_by_head;  // column-major, with -inf
  Rows<Eigen::half> half_bias;
  Rows<Eigen::bfloat16> bfloat16_bias;
  std::vector<double> slopes;
  std::vector<float> sinks;
  std::vector<Index> query_offsets, key_offsets;

  explicit Store(const Shape& s)
      : shape(s),
        allowed_by_head(s.n_heads * s.n_q, s.n_k),
        bias_by_head(numbers<float>(s.n_heads * s.n_q, s.n_k, 21)),
        masking_bias_by_head(numbers<double>(s.n_heads * s.n_q, s.n_k, 22)) {
    Numbers stream(23);
    for (Index i = 0; i < allowed_by_head.rows(); ++i) {
      for (Index j = 0; j < s.n_k; ++j) {
        allowed_by_head(i, j) = stream.uniform() < 0.7 && i % 11 != 3 && j % 17 != 5;
        if (stream.uniform() < 0.3 || i % 13 == 6 || j % 19 == 2)
          masking_bias_by_head(i, j) = -std::numeric_limits<double>::infinity();
      }
    }
    allowed = allowed_by_head.topRows(s.n_q);
    bias = bias_by_head.topRows(s.n_q);
    masking_bias = masking_bias_by_head.topRows(s.n_q);
    half_bias = bias.cast<Eigen::half>();
    bfloat16_bias = bias.cast<Eigen::bfloat16>();
    for (Index h = 0; h < s.n_heads; ++h) {
      slopes.push_back(0.05 * static_cast<double>(h + 1));
      sinks.push_back(0.5f * static_cast<float>(h) - 0.25f);
    }
    query_offsets = {0, s.n_q / 3, s.n_q / 3, s.n_q};  // the middle sequence has keys and no queries
    key_offsets = {0, s.n_k / 4, s.n_k / 2, s.n_k};
  }
};

/// One way to use options. What a method or a shape does not allow is recorded as refused.
struct Kind {
  const char* name;
  void (*apply)(heed::AttentionOptions&, const Store&);
};

inline void no_options(heed::AttentionOptions&, const Store&) {}

/// Every member of Mask and of AttentionOptions by itself, and some together.
inline const std::vector<Kind>& all_kinds() {
  using O = heed::AttentionOptions;
  using C = heed::Causal;
  static const std::vector<Kind> kinds{
      {"plain", no_options},
      {"square", [](O& o, const Store&) { o.mask.causal = C::square; }},
      {"top_left", [](O& o, const Store&) { o.mask.causal = C::top_left; }},
      {"bottom_right", [](O& o, const Store&) { o.mask.causal = C::bottom_right; }},
      {"window", [](O& o, const Store&) { o.mask.window_left = 7, o.mask.window_right = 3; }},
      {"window_left", [](O& o, const Store&) { o.mask.window_left = 20; }},
      {"window_right", [](O& o, const Store&) { o.mask.window_right = 0; }},
      {"real_keys", [](O& o, const Store& s) { o.mask.n_real_keys = s.shape.n_k - s.shape.n_k / 3; }},
      {"real_keys_0", [](O& o, const Store&) { o.mask.n_real_keys = 0; }},
      {"allowed", [](O& o, const Store& s) { o.mask.allowed = s.allowed; }},
      {"allowed_by_head", [](O& o, const Store& s) { o.mask.allowed = s.allowed_by_head; }},
      {"bias", [](O& o, const Store& s) { o.mask.bias = s.bias; }},
      {"bias_by_head", [](O& o, const Store& s) { o.mask.bias = s.bias_by_head; }},
      {"masking_bias", [](O& o, const Store& s) { o.mask.bias = s.masking_bias; }},
      {"masking_bias_by_head", [](O& o, const Store& s) { o.mask.bias = s.masking_bias_by_head; }},
      {"half_bias", [](O& o, const Store& s) { o.mask.bias = s.half_bias; }},
      {"bfloat16_bias", [](O& o, const Store& s) { o.mask.bias = s.bfloat16_bias; }},
      {"alibi", [](O& o, const Store&) { o.mask.alibi_slope = 0.1; }},
      {"alibi_by_head", [](O& o, const Store& s) { o.mask.alibi_slope = s.slopes; }},
      {"same_sequences", [](O& o, const Store& s) { o.mask.sequence_offsets = s.query_offsets; }},
      {"sequences",
       [](O& o, const Store& s) {
         o.mask.sequence_offsets = s.query_offsets, o.mask.key_sequence_offsets = s.key_offsets;
       }},
      {"softcap", [](O& o, const Store&) { o.softcap = 1.5; }},
      {"sink", [](O& o, const Store&) { o.sinks = 0.3; }},
      {"large_sink", [](O& o, const Store&) { o.sinks = 200.0; }},
      {"sinks_by_head", [](O& o, const Store& s) { o.sinks = s.sinks; }},
      {"scale", [](O& o, const Store&) { o.scale = 0.75; }},
      {"negative_scale", [](O& o, const Store&) { o.scale = -0.3; }},
      {"zero_scale", [](O& o, const Store&) { o.scale = 0.0; }},
      {"large_scale", [](O& o, const Store&) { o.scale = 90.0; }},
      {"bottom_right+window+bias+alibi+softcap+sinks",
       [](O& o, const Store& s) {
         o.mask.causal = C::bottom_right, o.mask.window_left = 33, o.mask.bias = s.bias;
         o.mask.alibi_slope = s.slopes, o.softcap = 2.5, o.sinks = s.sinks;
       }},
      {"top_left+allowed+real_keys",
       [](O& o, const Store& s) {
         o.mask.causal = C::top_left, o.mask.allowed = s.allowed_by_head;
         o.mask.n_real_keys = s.shape.n_k - s.shape.n_k / 5;
       }},
      {"sequences+bottom_right+alibi+sinks",
       [](O& o, const Store& s) {
         o.mask.sequence_offsets = s.query_offsets, o.mask.key_sequence_offsets = s.key_offsets;
         o.mask.causal = C::bottom_right, o.mask.alibi_slope = s.slopes, o.sinks = s.sinks;
       }},
      {"sequences+top_left+real_keys",
       [](O& o, const Store& s) {
         o.mask.sequence_offsets = s.query_offsets, o.mask.key_sequence_offsets = s.key_offsets;
         o.mask.causal = C::top_left, o.mask.n_real_keys = s.shape.n_k - s.shape.n_k / 5;
       }},
      {"sequences+window+masking_bias",
       [](O& o, const Store& s) {
         o.mask.sequence_offsets = s.query_offsets, o.mask.key_sequence_offsets = s.key_offsets;
         o.mask.window_left = 9, o.mask.window_right = 2, o.mask.bias = s.masking_bias_by_head;
       }},
      {"allowed+masking_bias+softcap+negative_scale",
       [](O& o, const Store& s) {
         o.mask.allowed = s.allowed, o.mask.bias = s.masking_bias_by_head, o.softcap = 3.0, o.scale = -0.5;
       }},
  };
  return kinds;
}

/// Those with these names.
inline std::vector<Kind> kinds_named(std::initializer_list<std::string_view> names) {
  std::vector<Kind> some;
  for (const Kind& kind : all_kinds()) {
    if (std::find(names.begin(), names.end(), kind.name) != names.end()) some.push_back(kind);
  }
  return some;
}
inline const std::vector<Kind>& few_kinds() {
  static const std::vector<Kind> kinds = kinds_named({"plain", "bottom_right", "real_keys", "allowed", "bias",
                                                      "sequences", "bottom_right+window+bias+alibi+softcap+sinks"});
  return kinds;
}

/// Writes the lines. A case whose name lacks the text the program was given is not run.
class Recorder {
 public:
  explicit Recorder(std::string filter) : filter_(std::move(filter)) {}

  bool wants(const std::string& name) const { return filter_.empty() || name.find(filter_) != std::string::npos; }

  /// One line of hashes, of a call that does not depend on threads.
  void line(const std::string& name, std::initializer_list<std::uint64_t> hashes) const {
    std::fputs(name.c_str(), stdout);
    for (const std::uint64_t hash : hashes) std::printf(" %016llx", static_cast<unsigned long long>(hash));
    std::fputc('\n', stdout);
  }

  /// Runs call(context), which returns a vector of hashes, with one thread and a workspace full of other cases'
  /// numbers, and with two threads and memory of its own. One line where the two agree, and a second for what was
  /// counted.
  template <class Call>
  void record(const std::string& name, const Call& call) {
    if (!wants(name)) return;
    try {
      heed::FlopCounter flops;
      const std::vector<std::uint64_t> one =
          call(heed::Context{.flops = &flops, .workspace = &workspace_, .threads = 1});
      const std::vector<std::uint64_t> two = call(heed::Context{.threads = 2});
      print(name, one);
      if (one != two) print(name + "/TWO_THREADS_DIFFER", two);
      Hash counted;
      for (const heed::Phase phase : {heed::Phase::route, heed::Phase::project, heed::Phase::sample,
                                      heed::Phase::scores, heed::Phase::values, heed::Phase::far_field}) {
        counted.number(flops.products(phase));
      }
      counted.number(flops.exponentials());
      line("flops/" + name, {counted.value()});
    } catch (const std::invalid_argument&) {
      std::printf("%s refused\n", name.c_str());
    }
  }

 private:
  static void print(const std::string& name, const std::vector<std::uint64_t>& hashes) {
    std::fputs(name.c_str(), stdout);
    for (const std::uint64_t hash : hashes) std::printf(" %016llx", static_cast<unsigned long long>(hash));
    std::fputc('\n', stdout);
  }

  std::string filter_;
  heed::Workspace workspace_;
};

/// Records attention of these operands by `method`, one or a list, under each of the kinds.
template <class S, class Method>
void record_method(Recorder& recorder, const std::string& method_name, const Operands<S>& in,
                   const std::vector<Kind>& kinds, const Method& method) {
  const Store store(in.shape);
  for (const Kind& kind : kinds) {
    heed::AttentionOptions options;
    kind.apply(options, store);
    const std::string name = method_name + "/" + scalar_name<S>() + "/" + in.shape.name() + "/" + kind.name;
    recorder.record(name, [&](const heed::Context& context) {
      const heed::HeadOptions heads{in.shape.n_heads, in.shape.n_kv_heads};
      const auto result = heed::multi_head_attend(in.q, in.k, in.v, heads, options, method, context);
      return std::vector<std::uint64_t>{hash_of(result.out), hash_of(result.lse)};
    });
  }
}

/// Sizes off the tile grid.
inline const std::vector<Shape>& grid_shapes() {
  static const std::vector<Shape> shapes{{1, 1, 1, 1},        {2, 7, 8, 3},      {7, 2, 33, 8},      {1, 63, 64, 64},
                                         {63, 64, 64, 64},    {64, 65, 33, 16},  {65, 63, 8, 33},    {1, 203, 128, 128},
                                         {203, 113, 128, 64}, {113, 203, 64, 1}, {300, 517, 64, 64}, {5, 1, 16, 16}};
  return shapes;
}
/// Those every kind of option is tried on.
inline const std::vector<Shape>& option_shapes() {
  static const std::vector<Shape> shapes{{65, 65, 33, 17}, {113, 203, 64, 64}, {2, 130, 64, 64}};
  return shapes;
}
inline const std::vector<Shape>& head_shapes() {
  static const std::vector<Shape> shapes{
      {33, 70, 16, 8, 4, 2}, {1, 70, 16, 8, 7, 1}, {33, 70, 16, 8, 7, 7}, {3, 130, 64, 64, 8, 2}};
  return shapes;
}

/// A tree of random hyperplanes.
template <class S>
heed::DecisionTree<S> random_tree(Index height, Index d, const heed::TreeOptions<Sum<S>>& options = {},
                                  std::uint64_t seed = 31) {
  const Index n_nodes = (Index(1) << height) - 1;
  const Rows<Sum<S>> planes = numbers<Sum<S>>(n_nodes, d, seed), biases = numbers<Sum<S>>(n_nodes, 1, seed + 1, 0.5);
  return heed::DecisionTree<S>(planes, biases, options);
}

/// Calls f.template operator()<S>() for each scalar.
template <class F>
void for_each_scalar(const F& f) {
  f.template operator()<float>();
  f.template operator()<double>();
  f.template operator()<Eigen::half>();
  f.template operator()<Eigen::bfloat16>();
}

// Each in a file of its own.
void exact_cases(Recorder& recorder);
void decode_cases(Recorder& recorder);
void pattern_cases(Recorder& recorder);
void tf_cases(Recorder& recorder);
void tc_cases(Recorder& recorder);
void projected_cases(Recorder& recorder);
void sampled_cases(Recorder& recorder);
void sampled_tree_cases(Recorder& recorder);
void importance_cases(Recorder& recorder);

}  // namespace fingerprints
