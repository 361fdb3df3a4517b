#include "heed/exact/int8_cache.hpp"

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/rounding.hpp"

namespace heed::test::int8_cache {
namespace {

struct Shape {
  Index n, d, d_v, n_heads = 4, n_kv_heads = 2;
};

/// Tokens in an 8-bit cache, and the float rows they then stand for.
struct Stored {
  Shape shape;
  KeyValueCache<Int8> cache;
  Matrix<float> k, v;

  Stored(const Shape& s, const Matrix<float>& keys, const Matrix<float>& values)
      : shape(s), cache(s.d, s.d_v, s.n_kv_heads), k(keys), v(values) {
    cache.append(keys, values);
    for (Index h = 0; h < s.n_kv_heads; ++h) {
      const detail::Int8Rows rows = cache.tokens(h);
      for (Index j = 0; j < s.n; ++j) {
        rows.widen_key(j, &k(j, h * s.d));
        rows.widen_value(j, &v(j, h * s.d_v));
      }
    }
  }
  explicit Stored(const Shape& s)
      : Stored(s, random_matrix<float>(s.n, s.n_kv_heads * s.d, 2),
               random_matrix<float>(s.n, s.n_kv_heads * s.d_v, 3)) {}
};

/// Queries that 8 bits hold as they are: whole numbers of which one of each head is 127, over 64.
Matrix<float> whole_queries(Index n_q, Index n_heads, Index d) {
  Matrix<float> q(n_q, n_heads * d);
  NumberStream numbers(7);
  for (Index i = 0; i < n_q; ++i) {
    for (Index c = 0; c < q.cols(); ++c)
      q(i, c) = static_cast<float>(c % d == 0 ? 127 : numbers.below(255) - 127) / 64.0f;
  }
  return q;
}

/// Every head against the oracle over the rows the cache stands for. Weights have 14 bits within a page.
template <class Got>
void expect_oracle(const Got& got, const Matrix<float>& q, const Stored& stored, const AttentionOptions& options,
                   const OptionStore& store, const OptionKind* first, const OptionKind* second) {
  const Shape& s = stored.shape;
  const Index per_kv = s.n_heads / s.n_kv_heads;
  for (Index h = 0; h < s.n_heads; ++h) {
    const Inputs<float> in{q.middleCols(h * s.d, s.d), stored.k.middleCols(h / per_kv * s.d, s.d),
                           stored.v.middleCols(h / per_kv * s.d_v, s.d_v)};
    const OptionStore own = store.head(h);
    AttentionOptions one = options;
    if (first != nullptr) first->apply(one = AttentionOptions(), own);
    if (second != nullptr) second->apply(one, own);
    const auto exact = in.cast<double>();
    const auto want = reference_attention(exact.q, exact.k, exact.v, one);
    const RoundingError rounding = rounding_against<float>(want, in, one);
    const double bits = 2e-4 * in.v.cwiseAbs().maxCoeff();
    EXPECT_MATRIX_NEAR(got.out.middleCols(h * s.d_v, s.d_v).eval(), want.out, rounding.out + bits);
    EXPECT_MATRIX_NEAR(got.lse.col(h).eval(), want.lse, rounding.lse);
  }
}

TEST(Int8Cache, EveryTwoOptionsAgreeWithTheOracleOverWhatItHolds) {
  const Shape shape{237, 20, 7};
  const Stored stored(shape);
  for (const Index n_q : {1, 21}) {
    const Matrix<float> q = whole_queries(n_q, shape.n_heads, shape.d);
    const OptionStore store(n_q, shape.n, shape.n_heads);
    const std::vector<OptionKind> kinds = option_kinds(store);
    for (std::size_t a = 0; a < kinds.size(); ++a) {
      for (std::size_t b = a; b < kinds.size(); ++b) {
        if (a != b && !fit_together(kinds[a], kinds[b])) continue;
        SCOPED_TRACE(std::to_string(n_q) + " queries, " + std::string(kinds[a].name) + " and " +
                     std::string(kinds[b].name));
        const AttentionOptions options = a == b ? options_of(store, kinds[a]) : options_of(store, kinds[a], kinds[b]);
        const auto got = attend(q, stored.cache, options);
        expect_oracle(got, q, stored, options, store, &kinds[a], a == b ? nullptr : &kinds[b]);
        EXPECT_SAME_BITS(attend(q, stored.cache, options, {.threads = 2}).out, got.out);
        if (HasFailure()) return;
      }
    }
  }
}

TEST(Int8Cache, EverySizeOffTheGridAgreesWithTheOracle) {
  for (const Index n : {1, 3, 4, 5, 31, 36, 99, 100, 101, 131, 132, 133, 4200}) {
    for (const Index d : {1, 7, 8, 9, 64, 130}) {
      SCOPED_TRACE("n = " + std::to_string(n) + ", d = " + std::to_string(d));
      const Shape shape{n, d, d == 9 ? 33 : d, 6, 1};
      const Stored stored(shape);
      for (const Index n_q : {1, 3}) {
        const Matrix<float> q = whole_queries(n_q, shape.n_heads, d);
        expect_oracle(attend(q, stored.cache), q, stored, {}, OptionStore(n_q, n, shape.n_heads), nullptr, nullptr);
      }
    }
  }
}

TEST(Int8Cache, HoldsTokensToAStepOfEightBits) {
  const Shape shape{1000, 64, 64};
  const Matrix<float> k = random_matrix<float>(1000, 128, 2), v = random_matrix<float>(1000, 128, 3);
  const Stored stored(shape, k, v);
  for (Index j = 0; j < 1000; ++j) {
    for (Index h = 0; h < 2; ++h) {
      const float top = v.row(j).segment(64 * h, 64).cwiseAbs().maxCoeff();
      // Half a step, and a scale that bfloat16 rounds upwards; what is left of a key is at most twice the largest.
      EXPECT_LE((stored.v.row(j) - v.row(j)).segment(64 * h, 64).cwiseAbs().maxCoeff(), top / 127 * 0.505);
      EXPECT_LE((stored.k.row(j) - k.row(j)).segment(64 * h, 64).cwiseAbs().maxCoeff(), 6.0 / 127 * 0.505);
    }
    if (j < 4 || j >= 1000 - 64) {
      EXPECT_EQ(stored.k.row(j), k.row(j)) << "the first and the newest are float, token " << j;
      EXPECT_EQ(stored.v.row(j), v.row(j)) << "token " << j;
    }
  }
}

TEST(Int8Cache, BytesDependOnTheTokensNotOnHowTheyCame) {
  const Shape shape{500, 12, 5};
  const Matrix<float> k = random_matrix<float>(500, 24, 2), v = random_matrix<float>(500, 10, 3),
                      q = random_matrix<float>(1, 48, 4);
  KeyValueCache<Int8> at_once(12, 5, 2, 500), in_steps(12, 5, 2);
  at_once.append(k, v);
  for (Index i = 0, step = 1; i < 500; i += step, step = std::min<Index>(step * 2 % 61, 500 - i))
    in_steps.append(k.middleRows(i, step), v.middleRows(i, step));
  ASSERT_EQ(in_steps.size(), 500);
  EXPECT_SAME_BITS(attend(q, in_steps).out, attend(q, at_once).out);
  EXPECT_SAME_BITS(attend(q, in_steps).lse, attend(q, at_once).lse);
  const Stored a(shape, k, v);
  for (Index h = 0; h < 2; ++h) {
    Matrix<float> row(1, 12);
    for (Index j = 0; j < 500; ++j) {
      in_steps.tokens(h).widen_key(j, row.data());
      EXPECT_EQ(row, a.k.row(j).segment(12 * h, 12));
    }
  }
}

TEST(Int8Cache, TruncatedTokensAreForgotten) {
  const Shape shape{300, 8, 8};
  const Matrix<float> k = random_matrix<float>(300, 16, 2), v = random_matrix<float>(300, 16, 3),
                      q = whole_queries(1, 4, 8);
  for (const Index left : {0, 2, 4, 36, 50, 150, 230, 240, 299, 300}) {
    SCOPED_TRACE("left " + std::to_string(left));
    KeyValueCache<Int8> cache(8, 8, 2);
    cache.append(k, v);
    Matrix<float> held = Stored(shape, k, v).k, values = Stored(shape, k, v).v;
    cache.truncate(left);
    EXPECT_EQ(cache.size(), left);
    // What is left stands for the same numbers; others come behind.
    cache.append(v.topRows(40), k.topRows(40));
    EXPECT_EQ(cache.size(), left + 40);
    Matrix<float> all_k(left + 40, 16), all_v(left + 40, 16);
    all_k << held.topRows(left), v.topRows(40);
    all_v << values.topRows(left), k.topRows(40);
    KeyValueCache<float> floats(8, 8, 2);
    floats.append(all_k, all_v);
    // Pages closed anew have rounded once more.
    EXPECT_MATRIX_NEAR(attend(q, cache).out, attend(q, floats).out, 0.03);
  }
  KeyValueCache<Int8> cache(8, 8, 2), never(8, 8, 2);
  cache.append(k.topRows(270), v.topRows(270));
  never = cache;
  cache.append(v.topRows(15), k.topRows(15));  // closes no page
  cache.truncate(270);
  EXPECT_SAME_BITS(attend(q, cache).out, attend(q, never).out);
  cache.clear();
  EXPECT_EQ(cache.size(), 0);
  EXPECT_TRUE(attend(q, cache).out.isZero());
}

TEST(Int8Cache, CopiesHaveTheRoomOfTheirOriginal) {
  const Matrix<float> k = random_matrix<float>(300, 16, 2);
  KeyValueCache<Int8> cache(8, 8, 2, 2000);
  cache.append(k, k);
  KeyValueCache<Int8> copy = cache;
  EXPECT_EQ(copy.capacity(), 2000);
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer owns malloc";
  const std::uint64_t before = allocations();
  for (int i = 0; i < 5; ++i) copy.append(k, k);
  EXPECT_EQ(allocations(), before) << "room that a copy says it has is there";
}

TEST(Int8Cache, CopiesAreApartAndWhatWasMovedFromIsEmpty) {
  const Matrix<float> k = random_matrix<float>(200, 16, 2), q = random_matrix<float>(1, 16, 4);
  KeyValueCache<Int8> cache(8, 8, 2);
  cache.append(k, k);
  const auto want = attend(q, cache);
  KeyValueCache<Int8> copy = cache;
  copy.append(k, k);
  EXPECT_SAME_BITS(attend(q, cache).out, want.out);
  const KeyValueCache<Int8> moved = std::move(cache);
  EXPECT_SAME_BITS(attend(q, moved).out, want.out);
  EXPECT_EQ(cache.size(), 0);  // NOLINT(bugprone-use-after-move)
  EXPECT_TRUE(attend(q, cache).out.isZero());
  cache.append(k, k);
  EXPECT_SAME_BITS(attend(q, cache).out, want.out);
}

TEST(Int8Cache, RefusesWhatItCannotHoldAndStaysAsItWas) {
  Matrix<float> k = random_matrix<float>(100, 8, 2);
  const Matrix<float> v = k, q = random_matrix<float>(1, 8, 4);
  KeyValueCache<Int8> cache(8);
  cache.append(k, v);
  const auto before = attend(q, cache);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    k(17, 3) = bad;
    EXPECT_THROW(cache.append(k, v), OptionError);
    EXPECT_THROW(cache.append(v, k), OptionError);
  }
  EXPECT_THROW(cache.append(v.leftCols(7).eval(), v), ShapeError);
  EXPECT_THROW(cache.append(v, v.topRows(3).eval()), ShapeError);
  EXPECT_THROW(cache.truncate(101), OptionError);
  EXPECT_THROW(cache.truncate(-1), OptionError);
  EXPECT_THROW(KeyValueCache<Int8>(0), OptionError);
  EXPECT_THROW(KeyValueCache<Int8>(40000), OptionError);
  EXPECT_THROW(KeyValueCache<Int8>(8, 8, 1, -1), OptionError);
  EXPECT_THROW(attend(random_matrix<float>(1, 9, 1), cache), ShapeError);
  EXPECT_SAME_BITS(attend(q, cache).out, before.out);
}

TEST(Int8Cache, OneTokenDoesNotSpoilItsNeighbours) {
  const Shape shape{300, 16, 16, 1, 1};
  Matrix<float> k = random_matrix<float>(300, 16, 2), v = random_matrix<float>(300, 16, 3);
  const Matrix<float> plain_v = v;
  v.row(40).setConstant(1e30f);
  k(70, 3) = 1e6f;
  const Stored stored(shape, k, v);
  for (Index j = 36; j < 68; ++j) {
    if (j == 40) continue;
    EXPECT_MATRIX_NEAR(stored.v.row(j).eval(), plain_v.row(j).eval(), 3.0 / 127 * 0.51);
  }
  // Keys stand around the page's mean, which one coordinate moves: the step of the others is a 32nd of it over 127.
  for (Index j = 68; j < 100; ++j) {
    if (j == 70) continue;
    EXPECT_MATRIX_NEAR(stored.k.row(j).eval(), k.row(j).eval(), 1e6 / 32 / 127 * 0.52);
  }
  EXPECT_TRUE(stored.k.allFinite() && stored.v.allFinite());
}

TEST(Int8Cache, ExtremeTokensGiveFiniteAnswers) {
  const Matrix<float> q = random_matrix<float>(1, 16, 4);
  for (const float size : {0.0f, 1e-38f, 1e-30f, 1e-3f, 1e3f, 1e15f}) {
    SCOPED_TRACE(size);
    const Matrix<float> k = random_matrix<float>(400, 16, 2) * size, v = random_matrix<float>(400, 16, 3) * size;
    KeyValueCache<Int8> cache(16);
    cache.append(k, v);
    const Matrix<float> out = attend(q, cache).out;
    EXPECT_TRUE(out.allFinite());
    EXPECT_LE(out.cwiseAbs().maxCoeff(), 3.05f * size);
  }
  KeyValueCache<Int8> same(16);
  same.append(Matrix<float>::Constant(400, 16, 0.7f).eval(), Matrix<float>::Constant(400, 16, -3.0f).eval());
  EXPECT_MATRIX_NEAR(attend(q, same).out, Matrix<float>::Constant(1, 16, -3.0f).eval(), 3.0 / 254 + 1e-3);
  Matrix<float> nan = q;
  nan(0, 5) = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(attend(nan, same).out.array().isNaN().all()) << "NaN in a query stays in its row";
}

TEST(Int8Cache, AQueryWithOneLargeChannelKeepsTheOthers) {
  const Shape shape{3000, 64, 64, 4, 2};
  Matrix<float> k = random_matrix<float>(3000, 128, 2), q = random_matrix<float>(1, 256, 4);
  for (Index h = 0; h < 2; ++h) k.col(64 * h) = 0.1f * k.col(64 * h) + Matrix<float>::Constant(3000, 1, 40.0f);
  const Stored stored(shape, k, random_matrix<float>(3000, 128, 3));
  for (Index h = 0; h < 4; h += 2) q(0, 64 * h) = 40.0f;  // heads 1 and 3 have no such channel
  KeyValueCache<float> floats(64, 64, 2);
  floats.append(stored.k, stored.v);
  const Matrix<float> want = attend(q, floats).out, got = attend(q, stored.cache).out;
  for (Index h = 0; h < 4; ++h) {
    const auto of = [&](const Matrix<float>& out) { return out.middleCols(64 * h, 64).eval(); };
    EXPECT_LE((of(got) - of(want)).norm(), (h % 2 == 0 ? 0.002 : 0.012) * static_cast<double>(of(want).norm()));
  }
  EXPECT_SAME_BITS(attend(q, stored.cache, {}, {.threads = 2}).out, got);
}

TEST(Int8Cache, MethodsOfPositionsAndFunctorsRunOverIt) {
  const Shape shape{400, 16, 16, 2, 1};
  const Stored stored(shape);
  KeyValueCache<float> floats(16, 16, 1);
  floats.append(stored.k, stored.v);
  for (const Index n_q : {1, 40}) {
    const Matrix<float> q = whole_queries(n_q, 2, 16);
    const AttentionOptions causal{.mask = {.causal = Causal::bottom_right}};
    const auto expect_same = [&](const auto& method) {
      FlopCounter flops, float_flops;
      const auto got = attend(q, stored.cache, causal, method, {.flops = &flops});
      const auto want = attend(q, floats, causal, method, {.flops = &float_flops});
      EXPECT_MATRIX_NEAR(got.out, want.out, 2e-3);
      EXPECT_EQ(flops.products(), float_flops.products());
    };
    expect_same(WindowAttention{120});
    expect_same(BigBirdAttention{});
    expect_same(ExactAttention{[](float s, Index, Index j) { return j % 3 == 0 ? s : 0.5f * s; }});
  }
}

TEST(Int8Cache, SixteenBitQueriesMeetItToo) {
  const Stored stored({200, 16, 16, 1, 1});
  const Matrix<float> q = whole_queries(1, 1, 16);
  const Matrix<Eigen::half> half = q.cast<Eigen::half>();
  const auto got = attend(half, stored.cache);
  static_assert(std::is_same_v<typename decltype(got.out)::Scalar, Eigen::half>);
  EXPECT_MATRIX_NEAR(got.out.cast<float>().eval(), attend(q, stored.cache).out, 2e-3);
}

TEST(Int8Cache, TakesThreeTenthsOfTheMemoryOfFloat) {
  const Index n = 65536, d = 64;
  KeyValueCache<Int8> cache(d, d, 1, n);
  const std::uint64_t least = 65536 / 32 * (2 * 32 * 64 + 2 * 2 * 32 + 2 * 2 * 64);  // of pages, scales and means
  EXPECT_GE(cache.bytes(), least);
  EXPECT_LE(static_cast<double>(cache.bytes()), 0.31 * static_cast<double>(2 * n * d) * sizeof(float));
}

}  // namespace
}  // namespace heed::test::int8_cache
