// Few queries of one head or of many over many keys: every option, and those that differ by head, against the oracle of
// each head.
#include <cstddef>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/rounding.hpp"

namespace heed::test::decode_options {
namespace {

struct Shape {
  Index n_q, n_k, n_heads, n_kv_heads, d, d_v;
};

/// Packed operands, and options of which each head has its own.
template <class S>
struct Decoding {
  Shape shape;
  Matrix<S> q, k, v;
  Matrix<bool> allowed;
  Matrix<float> bias;
  Eigen::MatrixXd masking_bias;  // column-major, with -inf
  Matrix<double> shared_bias;    // of all heads, masks some pairs
  std::vector<double> slopes;
  std::vector<double> steep_slopes;  // the first head sees little but the last keys
  std::vector<float> sinks;          // of every third head larger than any score
  std::vector<Index> query_offsets, key_offsets;

  explicit Decoding(const Shape& s)
      : shape(s),
        q(random_matrix<S>(s.n_q, s.n_heads * s.d, 1)),
        k(random_matrix<S>(s.n_k, s.n_kv_heads * s.d, 2)),
        v(random_matrix<S>(s.n_k, s.n_kv_heads * s.d_v, 3)),
        allowed(s.n_heads * s.n_q, s.n_k),
        bias(random_matrix<float>(s.n_heads * s.n_q, s.n_k, 4)),
        masking_bias(random_matrix<double>(s.n_heads * s.n_q, s.n_k, 5)),
        query_offsets{0, s.n_q / 2, s.n_q},
        key_offsets{0, s.n_k / 3, s.n_k} {
    NumberStream numbers(6);
    for (Index i = 0; i < allowed.rows(); ++i) {
      for (Index j = 0; j < s.n_k; ++j) {
        allowed(i, j) = numbers.uniform() < 0.6;
        if (numbers.uniform() < 0.3) fill(masking_bias.block(i, j, 1, 1), minus_infinity_of<double>());
      }
    }
    shared_bias = masking_bias.topRows(s.n_q);
    for (Index h = 0; h < s.n_heads; ++h) {
      slopes.push_back(0.02 * static_cast<double>(h + 1));
      steep_slopes.push_back(h == 0 ? 8.0 : 0.001 * static_cast<double>(h));
      sinks.push_back(h % 3 == 0 ? 200.0f : h % 3 == 1 ? 4.0f : -1.0f);
    }
  }

  Inputs<S> head(Index h) const {
    const Index kv = h / (shape.n_heads / shape.n_kv_heads);
    return {q.middleCols(h * shape.d, shape.d), k.middleCols(kv * shape.d, shape.d),
            v.middleCols(kv * shape.d_v, shape.d_v)};
  }
};

template <class S>
struct Kind {
  const char* name;
  void (*apply)(AttentionOptions&, const Decoding<S>&);
};

template <class S>
std::vector<Kind<S>> kinds() {
  using O = AttentionOptions;
  using D = Decoding<S>;
  return {
      {"none", [](O&, const D&) {}},
      {"causal", [](O& o, const D&) { o.mask.causal = Causal::bottom_right; }},
      {"window",
       [](O& o, const D& at) { o.mask.causal = Causal::bottom_right, o.mask.window_left = at.shape.n_k / 2; }},
      {"padding", [](O& o, const D& at) { o.mask.n_real_keys = at.shape.n_k - at.shape.n_k / 5; }},
      {"allowed", [](O& o, const D& at) { o.mask.allowed = at.allowed; }},
      {"bias", [](O& o, const D& at) { o.mask.bias = at.bias; }},
      {"masking bias", [](O& o, const D& at) { o.mask.bias = at.masking_bias; }},
      {"slopes beside one bias for all heads",
       [](O& o, const D& at) { o.mask.bias = at.shared_bias, o.mask.alibi_slope = at.steep_slopes; }},
      {"slopes", [](O& o, const D& at) { o.mask.alibi_slope = at.slopes, o.mask.causal = Causal::bottom_right; }},
      {"softcap", [](O& o, const D&) { o.softcap = 1.5; }},
      {"sinks", [](O& o, const D& at) { o.sinks = at.sinks; }},
      {"one large sink", [](O& o, const D&) { o.sinks = 200.0; }},
      {"scale", [](O& o, const D&) { o.scale = -0.8; }},
      {"sequences",
       [](O& o, const D& at) {
         o.mask.sequence_offsets = at.query_offsets, o.mask.key_sequence_offsets = at.key_offsets;
         o.mask.alibi_slope = at.slopes, o.sinks = at.sinks;
       }},
      {"all by head",
       [](O& o, const D& at) {
         o.mask.allowed = at.allowed, o.mask.bias = at.masking_bias, o.mask.alibi_slope = at.slopes, o.sinks = at.sinks;
         o.softcap = 2.0, o.mask.causal = Causal::bottom_right, o.mask.window_left = at.shape.n_k / 2;
       }},
  };
}

template <class S>
void expect_each_head(const Decoding<S>& at, const MultiHeadResult<S>& got, const AttentionOptions& options) {
  for (Index h = 0; h < at.shape.n_heads; ++h) {
    const Inputs<S> in = at.head(h);
    const auto exact = in.template cast<Exact<S>>();
    const auto want = reference_attention(exact.q, exact.k, exact.v, options, NoScoreMod{}, h);
    const RoundingError rounding = rounding_against<S>(want, in, options, NoScoreMod{}, h);
    SCOPED_TRACE("head " + std::to_string(h));
    EXPECT_MATRIX_NEAR(got.out.middleCols(h * at.shape.d_v, at.shape.d_v).eval(), want.out, rounding.out);
    EXPECT_MATRIX_NEAR(got.lse.col(h).eval(), want.lse, rounding.lse);
  }
}

template <class S>
void expect_every_option(const Shape& shape) {
  const Decoding<S> at(shape);
  KeyValueCache<S> cache(shape.d, shape.d_v, shape.n_kv_heads);
  for (Index first = 0, n = 1; first < shape.n_k; first += n, n = std::min(2 * n + 1, shape.n_k - first))
    cache.append(at.k.middleRows(first, n), at.v.middleRows(first, n));
  for (const Kind<S>& kind : kinds<S>()) {
    SCOPED_TRACE(std::string(kind.name) + ", " + std::to_string(shape.n_q) + " queries of " +
                 std::to_string(shape.n_heads) + " heads on " + std::to_string(shape.n_kv_heads) + ", " +
                 std::to_string(shape.n_k) + " keys");
    AttentionOptions options;
    kind.apply(options, at);
    const auto got =
        multi_head_attend(at.q, at.k, at.v, {.n_heads = shape.n_heads, .n_kv_heads = shape.n_kv_heads}, options);
    expect_each_head(at, got, options);
    const auto cached = attend(at.q, cache, options);
    EXPECT_SAME_BITS(cached.out, got.out);
    EXPECT_SAME_BITS(cached.lse, got.lse);
  }
}

// One head and one chunk of keys; heads apart; more heads than run side by side over shared keys; several chunks; a few
// queries.
constexpr Shape shapes[] = {{1, 70, 1, 1, 8, 5},    {1, 333, 4, 4, 8, 8},    {1, 333, 7, 1, 5, 9},
                            {1, 2600, 12, 4, 8, 8}, {1, 2100, 2, 1, 64, 64}, {2, 333, 4, 2, 8, 5},
                            {3, 4500, 3, 1, 8, 3},  {5, 600, 8, 2, 8, 8}};

TEST(DecodeOptions, EveryOptionByHeadGivesTheAnswerOfTheOracleInFloat) {
  for (const Shape& shape : shapes) expect_every_option<float>(shape);
}

TEST(DecodeOptions, EveryOptionByHeadGivesTheAnswerOfTheOracleInDouble) {
  for (const Shape& shape : shapes) expect_every_option<double>(shape);
}

TEST(DecodeOptions, EveryOptionByHeadGivesTheAnswerOfTheOracleInSixteenBits) {
  for (const Shape& shape : {shapes[1], shapes[2], shapes[3], shapes[5]}) {
    expect_every_option<Eigen::half>(shape);
    expect_every_option<Eigen::bfloat16>(shape);
  }
}

/// Float queries over keys stored in 16 bits.
template <class Stored>
void expect_float_queries_over() {
  const Shape shape{1, 2600, 8, 2, 16, 12};
  Decoding<float> at(shape);
  KeyValueCache<Stored> cache(shape.d, shape.d_v, shape.n_kv_heads);
  cache.append(at.k, at.v);
  at.k = at.k.cast<Stored>().template cast<float>().eval();
  at.v = at.v.cast<Stored>().template cast<float>().eval();
  for (const Kind<float>& kind : kinds<float>()) {
    SCOPED_TRACE(kind.name);
    AttentionOptions options;
    kind.apply(options, at);
    expect_each_head(at, attend(at.q, cache, options), options);
  }
}

TEST(DecodeOptions, FloatQueriesOverSixteenBitKeysGiveTheAnswerOfTheOracle) {
  expect_float_queries_over<Eigen::half>();
  expect_float_queries_over<Eigen::bfloat16>();
}

}  // namespace
}  // namespace heed::test::decode_options
