#include "heed/exact/key_value_cache.hpp"

#include <cstdint>
#include <exception>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/rounding.hpp"

namespace heed::test {
namespace {

/// 4 query heads over 2 key/value heads, d = 6, d_v = 5.
struct CachedTokens {
  Index n;
  Matrix<float> q = random_matrix<float>(n, 24, 1);
  Matrix<float> k = random_matrix<float>(n, 12, 2);
  Matrix<float> v = random_matrix<float>(n, 10, 3);
};
constexpr HeadOptions grouped_heads{.n_heads = 4, .n_kv_heads = 2};
constexpr AttentionOptions newest_sees_all{.mask = {.causal = Causal::bottom_right}};

TEST(KeyValueCache, OneTokenAtATimeEqualsTheFullCausalPass) {
  const CachedTokens tokens{150};
  const auto full = multi_head_attend(tokens.q, tokens.k, tokens.v, grouped_heads, newest_sees_all);
  KeyValueCache<float> cache(6, 5, 2);
  Matrix<float> out(150, 20), lse(150, 4);
  for (Index i = 0; i < 150; ++i) {
    cache.append(tokens.k.row(i), tokens.v.row(i));
    const auto one = attend(tokens.q.row(i), cache);
    out.row(i) = one.out;
    lse.row(i) = one.lse;
  }
  EXPECT_EQ(cache.size(), 150);
  const double rounding = rounding_of(random_inputs<float>({.n_q = 150, .n_k = 150, .d = 6, .d_v = 5})).out;
  EXPECT_MATRIX_NEAR(out, full.out, 2.0 * rounding);
  EXPECT_MATRIX_NEAR(lse, full.lse, 2.0 * rounding);
}

TEST(KeyValueCache, SeveralTokensAtATimeEqualTheFullCausalPass) {
  const CachedTokens tokens{150};
  const auto full = multi_head_attend(tokens.q, tokens.k, tokens.v, grouped_heads, newest_sees_all);
  const double rounding = rounding_of(random_inputs<float>({.n_q = 150, .n_k = 150, .d = 6, .d_v = 5})).out;
  KeyValueCache<float> cache(6, 5, 2, 7);
  for (Index i = 0, step = 1; i < 150; i += step, step = std::min<Index>(step + 3, 150 - i)) {
    cache.append(tokens.k.middleRows(i, step), tokens.v.middleRows(i, step));
    const auto some = attend(tokens.q.middleRows(i, step), cache, newest_sees_all);
    EXPECT_MATRIX_NEAR(some.out, full.out.middleRows(i, step).eval(), 2.0 * rounding);
  }
}

TEST(KeyValueCache, MethodAndContextAreGivenAsEverywhere) {
  const CachedTokens tokens{30};
  KeyValueCache<float> cache(6, 5, 2);
  cache.append(tokens.k, tokens.v);
  const auto last_only = [](float score, Index, Index j) { return j == 29 ? score : minus_infinity_of<float>(); };
  FlopCounter by_method, by_default;
  const auto got = attend(tokens.q.row(29), cache, {}, ExactAttention{last_only}, {.flops = &by_method});
  EXPECT_MATRIX_NEAR(got.out.leftCols(5).eval(), tokens.v.row(29).leftCols(5).eval(), 1e-6);
  EXPECT_SAME_BITS(attend(tokens.q, cache, {}, {}, {.threads = 2}).out, attend(tokens.q, cache).out);
  EXPECT_SAME_BITS(attend(tokens.q, cache, {}, {.flops = &by_default}).out, attend(tokens.q, cache).out);
  EXPECT_GT(by_method.products(), 0.0);
  EXPECT_GT(by_default.products(), by_method.products());
}

TEST(KeyValueCache, GrowingKeepsWhatIsThere) {
  const CachedTokens tokens{300};
  KeyValueCache<float> at_once(6, 5, 2, 300), one_by_one(6, 5, 2);
  at_once.append(tokens.k, tokens.v);
  Index growths = 0, capacity = one_by_one.capacity();
  for (Index i = 0; i < 300; ++i) {
    one_by_one.append(tokens.k.row(i), tokens.v.row(i));
    growths += one_by_one.capacity() != capacity;
    capacity = one_by_one.capacity();
  }
  EXPECT_LT(growths, 20) << "growth is amortised";
  EXPECT_EQ(at_once.bytes(), 2u * 300 * (6 + 5) * sizeof(float));
  const auto want = attend(tokens.q, at_once), got = attend(tokens.q, one_by_one);
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
  EXPECT_SAME_BITS(got.out, multi_head_attend(tokens.q, tokens.k, tokens.v, grouped_heads).out);
}

template <class Stored>
void expect_cache_rounds_to() {
  const CachedTokens tokens{500};
  KeyValueCache<Stored> cache(6, 5, 2);
  cache.append(tokens.k, tokens.v);
  for (const Index n_q : {1, 2, 70}) {
    // Float queries over stored keys: exact for the keys as they were rounded.
    const Matrix<float> k = tokens.k.cast<Stored>().template cast<float>(),
                        v = tokens.v.cast<Stored>().template cast<float>();
    const auto got = attend(tokens.q.topRows(n_q), cache);
    for (Index h = 0; h < 4; ++h) {
      const Inputs<float> in{tokens.q.block(0, 6 * h, n_q, 6), k.middleCols(6 * (h / 2), 6),
                             v.middleCols(5 * (h / 2), 5)};
      const auto exact = in.cast<double>();
      const auto want = reference_attention(exact.q, exact.k, exact.v);
      EXPECT_MATRIX_NEAR(got.out.middleCols(5 * h, 5).eval(), want.out, rounding_against<float>(want, in).out);
    }
    // Queries in the cache's scalar get an answer in it.
    const Matrix<Stored> q = tokens.q.topRows(n_q).template cast<Stored>();
    const auto stored = attend(q, cache);
    static_assert(std::is_same_v<typename decltype(stored.out)::Scalar, Stored>);
    for (Index h = 0; h < 4; ++h) {
      const Inputs<Stored> in{q.middleCols(6 * h, 6), k.middleCols(6 * (h / 2), 6).template cast<Stored>(),
                              v.middleCols(5 * (h / 2), 5).template cast<Stored>()};
      const auto exact = in.template cast<double>();
      const auto want = reference_attention(exact.q, exact.k, exact.v);
      EXPECT_MATRIX_NEAR(stored.out.middleCols(5 * h, 5).eval(), want.out, rounding_against<Stored>(want, in).out);
    }
  }
}

TEST(KeyValueCache, MayStoreSixteenBits) {
  expect_cache_rounds_to<Eigen::half>();
  expect_cache_rounds_to<Eigen::bfloat16>();
}

/// What the oracle says of one query of 4 heads over these keys and values of 2.
template <class Got>
void expect_each_head(const Got& got, const Matrix<float>& q, const Matrix<float>& k, const Matrix<float>& v,
                      const AttentionOptions& options) {
  for (Index h = 0; h < 4; ++h) {
    const Inputs<float> in{q.middleCols(6 * h, 6), k.middleCols(6 * (h / 2), 6), v.middleCols(5 * (h / 2), 5)};
    const auto exact = in.cast<double>();
    const auto want = reference_attention(exact.q, exact.k, exact.v, options);
    const RoundingError rounding = rounding_against<float>(want, in, options);
    EXPECT_MATRIX_NEAR(got.out.middleCols(5 * h, 5).eval(), want.out, rounding.out);
    EXPECT_MATRIX_NEAR(got.lse.col(h).eval(), want.lse, rounding.lse);
  }
}

TEST(KeyValueCache, LongOnesAreSplitOverKeysWithoutChangingABit) {
  const Matrix<float> q = random_matrix<float>(1, 24, 1), k = random_matrix<float>(40000, 12, 2),
                      v = random_matrix<float>(40000, 10, 3);
  KeyValueCache<Eigen::half> halves(6, 5, 2);
  KeyValueCache<float> floats(6, 5, 2);
  halves.append(k, v);
  floats.append(k, v);
  for (const AttentionOptions& options :
       {AttentionOptions{}, AttentionOptions{.mask = {.causal = Causal::bottom_right, .window_left = 33000}},
        AttentionOptions{.sinks = 3.0}}) {
    const auto want = attend(q, floats, options, {.threads = 1});
    const auto want_half = attend(q, halves, options, {.threads = 1});
    expect_each_head(want, q, k, v, options);
    expect_each_head(want_half, q, k.cast<Eigen::half>().cast<float>(), v.cast<Eigen::half>().cast<float>(), options);
    for (const Index threads : {2, 3, 5, 0}) {
      EXPECT_SAME_BITS(attend(q, floats, options, {.threads = threads}).out, want.out);
      EXPECT_SAME_BITS(attend(q, halves, options, {.threads = threads}).out, want_half.out);
    }
    EXPECT_SAME_BITS(multi_head_attend(q, k, v, grouped_heads, options).out, want.out);
  }
}

TEST(KeyValueCache, HeadsAreTheSameAloneAndInCompany) {
  const CachedTokens tokens{700};
  KeyValueCache<float> all(6, 5, 2), second(6, 5, 1);
  all.append(tokens.k, tokens.v);
  second.append(tokens.k.rightCols(6), tokens.v.rightCols(5));
  const auto want = attend(tokens.q.topRows(1), all);
  const auto pair = attend(tokens.q.block(0, 12, 1, 12), second);
  const auto alone = attend(tokens.q.block(0, 18, 1, 6), second);
  EXPECT_SAME_BITS(pair.out, want.out.rightCols(10).eval());
  EXPECT_SAME_BITS(alone.out, want.out.rightCols(5).eval());
}

TEST(KeyValueCache, AttendIntoAllocatesNothingTheSecondTime) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations cannot be counted here";
  const CachedTokens tokens{40000};
  KeyValueCache<float> cache(6, 5, 2, 40000);
  cache.append(tokens.k, tokens.v);
  Matrix<float> out(1, 20), lse(1, 4);
  for (const Index threads : {1, 2}) {
    Workspace workspace;
    std::uint64_t before = 0;
    for (int turn = 0; turn < 2; ++turn) {
      before = allocations();
      attend_into(out, lse, tokens.q.row(0), cache, newest_sees_all, {.workspace = &workspace, .threads = threads});
    }
    EXPECT_EQ(allocations(), before) << "threads = " << threads;
  }
}

TEST(KeyValueCache, AppendingWithinItsCapacityAllocatesNothing) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations cannot be counted here";
  const CachedTokens tokens{10};
  KeyValueCache<Eigen::bfloat16> cache(6, 5, 2, 20);
  const std::uint64_t before = allocations();
  cache.append(tokens.k, tokens.v);
  cache.append(tokens.k, tokens.v);
  EXPECT_EQ(allocations(), before);
}

TEST(KeyValueCache, ForgetsWhatIsTruncated) {
  const CachedTokens tokens{30};
  KeyValueCache<float> cache(6, 5, 2), fresh(6, 5, 2);
  cache.append(tokens.k, tokens.v);
  cache.truncate(10);
  cache.append(tokens.k.bottomRows(5), tokens.v.bottomRows(5));
  fresh.append(tokens.k.topRows(10), tokens.v.topRows(10));
  fresh.append(tokens.k.bottomRows(5), tokens.v.bottomRows(5));
  EXPECT_SAME_BITS(attend(tokens.q, cache).out, attend(tokens.q, fresh).out);
  cache.clear();
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(attend(tokens.q, cache).out.cwiseAbs().maxCoeff(), 0.0f) << "no key, no value";
}

/// All that a cache says of itself.
template <class S>
struct CacheContents {
  explicit CacheContents(const KeyValueCache<S>& cache) : size(cache.size()), capacity(cache.capacity()) {
    for (Index h = 0; h < cache.n_kv_heads(); ++h) {
      for (const ConstView<S>& rows : {cache.keys(h), cache.values(h)}) {
        for (Index i = 0; i < rows.rows; ++i)
          for (Index c = 0; c < rows.cols; ++c) numbers.push_back(static_cast<double>(rows(i, c)));
      }
    }
  }
  bool operator==(const CacheContents&) const = default;
  Index size, capacity;
  std::vector<double> numbers;
};

TEST(KeyValueCache, RowsOfTheCacheItselfMayBeAppended) {
  for (const Index capacity : {5, 8, 100}) {  // where it must grow, and where it need not
    SCOPED_TRACE(capacity);
    const Matrix<float> k = random_matrix<float>(5, 6, 2), v = random_matrix<float>(5, 4, 3);
    KeyValueCache<float> cache(6, 4, 1, capacity), want(6, 4, 1);
    cache.append(k, v);
    want.append(k, v);
    for (int turn = 0; turn < 3; ++turn) {
      const CacheContents<float> before(cache);
      const Matrix<float> own_k = Eigen::Map<const Matrix<float>>(cache.keys(0).data, cache.size(), 6),
                          own_v = Eigen::Map<const Matrix<float>>(cache.values(0).data, cache.size(), 4);
      cache.append(Eigen::Map<const Matrix<float>>(cache.keys(0).data, cache.size(), 6),
                   Eigen::Map<const Matrix<float>>(cache.values(0).data, cache.size(), 4));
      want.append(own_k, own_v);
      EXPECT_TRUE(CacheContents<float>(cache).numbers == CacheContents<float>(want).numbers);
    }
  }
}

TEST(KeyValueCache, ForgottenRowsOfTheCacheItselfMayBeAppendedAgain) {
  const Matrix<float> k = random_matrix<float>(20, 6, 2), v = random_matrix<float>(20, 4, 3);
  KeyValueCache<float> cache(6, 4, 1, 20), want(6, 4, 1);
  cache.append(k, v);
  want.append(k.topRows(10), v.topRows(10));
  want.append(k.middleRows(8, 6), v.middleRows(8, 6));
  const float *keys = cache.keys(0).data, *values = cache.values(0).data;
  cache.truncate(10);
  cache.append(Eigen::Map<const Matrix<float>>(keys + 8 * 6, 6, 6),  // written where they are read
               Eigen::Map<const Matrix<float>>(values + 8 * 4, 6, 4));
  EXPECT_TRUE(CacheContents<float>(cache).numbers == CacheContents<float>(want).numbers);
}

TEST(KeyValueCache, AFailedAllocationLeavesItAsItWas) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations cannot be made to fail here";
  const CachedTokens tokens{30};
  KeyValueCache<float> cache(6, 5, 2, 10), narrow(3, 2, 1);
  cache.append(tokens.k.topRows(10), tokens.v.topRows(10));
  narrow.append(tokens.k.leftCols(3), tokens.v.leftCols(2));
  // Keys and values are two allocations at least.
  const auto expect_strong = [&](const char* what, const auto& change) {
    const CacheContents<float> before(cache);
    const int failed =
        with_each_allocation_failing(change, [&] { EXPECT_TRUE(CacheContents<float>(cache) == before) << what; });
    EXPECT_GE(failed, 2) << what;
    EXPECT_FALSE(CacheContents<float>(cache) == before) << what;
  };
  expect_strong("append", [&] { cache.append(tokens.k.bottomRows(3), tokens.v.bottomRows(3)); });
  EXPECT_EQ(cache.size(), 13);
  expect_strong("reserve", [&] { cache.reserve(50); });
  EXPECT_EQ(cache.capacity(), 50);
  expect_strong("assignment", [&] { cache = narrow; });
  EXPECT_TRUE(CacheContents<float>(cache) == CacheContents<float>(narrow));
  EXPECT_EQ(cache.d(), 3);
}

TEST(KeyValueCache, OneThatWasMovedFromIsEmptyAndUsable) {
  const CachedTokens tokens{30};
  KeyValueCache<float> cache(6, 5, 2);
  cache.append(tokens.k, tokens.v);
  const CacheContents<float> before(cache);
  KeyValueCache<float> moved = std::move(cache);
  EXPECT_TRUE(CacheContents<float>(moved) == before);
  EXPECT_EQ(cache.size(), 0);
  EXPECT_EQ(cache.capacity(), 0);
  cache.append(tokens.k, tokens.v);
  EXPECT_TRUE(CacheContents<float>(cache).numbers == before.numbers);
  cache = std::move(moved);
  EXPECT_TRUE(CacheContents<float>(cache) == before);
  EXPECT_EQ(moved.size(), 0);
  const KeyValueCache<float>& self = cache;
  cache = self;
  EXPECT_TRUE(CacheContents<float>(cache).numbers == before.numbers);
}

TEST(KeyValueCache, SizesWhoseProductsOverflowAreRefusedBeforeAnythingIsAllocated) {
  constexpr Index huge = std::numeric_limits<Index>::max(), half = Index(1) << 62, root = Index(1) << 32;
  const auto expect_refused = [](Index d, Index d_v, Index n_kv_heads, Index capacity, const char* name) {
    const std::uint64_t before = allocations();
    std::string said = "nothing";
    try {
      KeyValueCache<float>(d, d_v, n_kv_heads, capacity);
    } catch (const OptionError& error) {
      said = error.what();
    } catch (const std::exception& error) {
      said = std::string("not an OptionError: ") + error.what();
    }
    EXPECT_NE(said.find(name), std::string::npos) << said;
    EXPECT_LT(allocations() - before, 30u) << "but for the message";
  };
  expect_refused(huge, 0, 1, 0, "d = 9223372036854775807");
  expect_refused(1, huge, 1, 0, "d_v = 9223372036854775807");
  expect_refused(1, 1, huge, 0, "n_kv_heads = 9223372036854775807");
  expect_refused(1, 1, 1, huge, "capacity = 9223372036854775807");
  expect_refused(4, 4, 1, half, "capacity = 4611686018427387904");  // times 4 is 0
  expect_refused(root, 1, root, 1, "n_kv_heads = 4294967296");
  expect_refused(1, root, root, 0, "n_kv_heads = 4294967296");
  expect_refused(root, 1, 1, root, "capacity = 4294967296");
}

TEST(KeyValueCache, MoreTokensThanMemoryHoldsAreRefusedAndTheCacheStays) {
  const Matrix<float> k = random_matrix<float>(3, 4, 1);
  KeyValueCache<float> cache(4);
  cache.append(k, k);
  const CacheContents<float> before(cache);
  EXPECT_THROW(cache.reserve(Index(1) << 60), OptionError);
  EXPECT_THROW(cache.reserve(std::numeric_limits<Index>::max()), OptionError);
  // One row told as many: a stride of 0.
  const Eigen::Map<const Matrix<float>, Eigen::Unaligned, Eigen::OuterStride<>> many(k.data(), Index(1) << 60, 4,
                                                                                     Eigen::OuterStride<>(0));
  EXPECT_THROW(cache.append(many, many), OptionError);
  EXPECT_TRUE(CacheContents<float>(cache) == before);
}

TEST(KeyValueCache, RefusesWrongShapesAndStaysAsItWas) {
  const CachedTokens tokens{3};
  KeyValueCache<float> cache(6, 5, 2);
  cache.append(tokens.k, tokens.v);
  const auto said = [](const auto& wrong) {
    try {
      wrong();
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const auto expect_said = [&](const auto& wrong, std::initializer_list<const char*> parts) {
    const std::string text = said(wrong);
    for (const char* part : parts)
      EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
    EXPECT_EQ(cache.size(), 3);
  };
  expect_said([&] { cache.append(tokens.k.leftCols(11), tokens.v); }, {"cols(k_new) = 11", "12"});
  expect_said([&] { cache.append(tokens.k, tokens.v.leftCols(9)); }, {"cols(v_new) = 9", "10"});
  expect_said([&] { cache.append(tokens.k, tokens.v.topRows(2)); }, {"rows(k_new) = 3", "rows(v_new) = 2"});
  expect_said([&] { attend(tokens.q.leftCols(23), cache); }, {"cols(q) = 23", "6"});
  expect_said([&] { attend(tokens.q.leftCols(18), cache); }, {"cols(q) = 18", "n_kv_heads = 2"});
  expect_said([&] { cache.truncate(4); }, {"size = 4", "3"});
  expect_said([&] { KeyValueCache<float>(0); }, {"d = 0", "must be >= 1"});
  expect_said([&] { KeyValueCache<float>(4, -1); }, {"d_v = -1", "must be >= 1"});
  expect_said([&] { KeyValueCache<float>(4, 4, 0); }, {"n_kv_heads = 0", "must be >= 1"});
  expect_said([&] { KeyValueCache<float>(4, 4, 1, -5); }, {"capacity = -5", "must be >= 0"});
}

}  // namespace
}  // namespace heed::test
