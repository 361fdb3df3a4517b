#include "heed/exact/attend_over.hpp"

#include <algorithm>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/pattern.hpp"
#include "heed/core/values.hpp"
#include "heed/exact/attend.hpp"
#include "support/conformance.hpp"

namespace heed::test {
namespace {

/// Groups made of any lists of tokens; lists that happen to be contiguous are told as ranges when `ranges` is set.
struct ListedPattern {
  std::vector<std::vector<Index>> query_lists;
  std::vector<std::vector<std::vector<Index>>> key_lists;  // per group, per segment
  bool ranges = false;

  Index n_groups() const { return static_cast<Index>(query_lists.size()); }
  TokenSet queries(Index g) const { return set_of(query_lists[static_cast<std::size_t>(g)]); }
  Index n_segments(Index g) const { return static_cast<Index>(key_lists[static_cast<std::size_t>(g)].size()); }
  TokenSet keys(Index g, Index s) const {
    return set_of(key_lists[static_cast<std::size_t>(g)][static_cast<std::size_t>(s)]);
  }

  TokenSet set_of(const std::vector<Index>& list) const {
    const Index size = static_cast<Index>(list.size());
    if (ranges && size > 0 && list.back() - list.front() == size - 1) return {list.front(), size};
    return {0, size, list.data()};
  }
  PairMatrix pairs(Index n_q, Index n_k) const {
    PairMatrix seen = PairMatrix::Constant(n_q, n_k, false);
    for (std::size_t g = 0; g < query_lists.size(); ++g) {
      for (const Index i : query_lists[g]) {
        for (const auto& segment : key_lists[g]) {
          for (const Index j : segment) seen(i, j) = true;
        }
      }
    }
    return seen;
  }
};
static_assert(KeyPattern<ListedPattern>);

/// Token t belongs to group (t * 7 + t / 5) % n_groups: scattered lists of unequal lengths.
ListedPattern scattered(Index n_q, Index n_k, Index n_groups) {
  ListedPattern pattern;
  pattern.query_lists.resize(static_cast<std::size_t>(n_groups));
  pattern.key_lists.assign(static_cast<std::size_t>(n_groups), {{}});
  const auto group = [&](Index t) { return static_cast<std::size_t>((t * 7 + t / 5) % n_groups); };
  for (Index i = 0; i < n_q; ++i) pattern.query_lists[group(i)].push_back(i);
  for (Index j = 0; j < n_k; ++j) pattern.key_lists[group(j)][0].push_back(j);
  return pattern;
}

/// Blocks of 20 queries that see the first 3 keys, their own block, and some keys far away.
ListedPattern blocks(Index n_q, Index n_k) {
  ListedPattern pattern;
  for (Index start = 0; start < n_q; start += 20) {
    std::vector<Index> queries, first, own, far;
    for (Index i = start; i < std::min(n_q, start + 20); ++i) queries.push_back(i);
    for (Index j = 0; j < std::min<Index>(3, n_k); ++j) first.push_back(j);
    for (Index j = std::max<Index>(3, start); j < std::min(n_k, start + 20); ++j) own.push_back(j);
    for (Index j = std::max<Index>(3, start + 31); j < n_k; j += 11) far.push_back(j);
    pattern.query_lists.push_back(queries);
    pattern.key_lists.push_back({first, own, far});
  }
  pattern.ranges = true;
  return pattern;
}

template <class S>
void expect_equals_the_boolean_mask(const ListedPattern& pattern, const Sizes& sizes) {
  const auto in = random_inputs<S>(sizes);
  const Index n_q = in.q.rows(), n_k = in.k.rows();
  const OptionStore store(n_q, n_k);
  std::vector<OptionKind> kinds{{"no option", "", [](AttentionOptions&, const OptionStore&) {}}};
  for (const OptionKind& kind : option_kinds(store)) kinds.push_back(kind);
  MethodCase pattern_case;
  pattern_case.keeps = [&](const auto&, const AttentionOptions&) { return pattern.pairs(n_q, n_k); };
  for (const OptionKind& kind : kinds) {
    SCOPED_TRACE(kind.name);
    const AttentionOptions options = options_of(store, kind);
    const Expected<S> want = expected_of(pattern_case, in, options);
    FlopCounter flops;
    const auto got = attend_over(pattern, in.q, in.k, in.v, options, {.flops = &flops, .threads = 1});
    EXPECT_MATRIX_NEAR(got.out, want.result.out, want.rounding.out);
    EXPECT_MATRIX_NEAR(got.lse, want.result.lse, want.rounding.lse);
    EXPECT_SAME_BITS(attend_over(pattern, in.q, in.k, in.v, options, {.threads = 3}).out, got.out);
    const auto kept = static_cast<double>(kept_pairs(pattern_case, in, options).count());
    EXPECT_EQ(flops.products(), 2.0 * static_cast<double>(in.q.cols() + in.v.cols()) * kept);
    EXPECT_EQ(flops.exponentials(), kept);
  }
}

TEST(AttendOver, EqualsABooleanMaskOfThePatternsPairs) {
  expect_equals_the_boolean_mask<float>(scattered(113, 203, 4), {.n_q = 113, .n_k = 203, .d = 40, .d_v = 30});
  expect_equals_the_boolean_mask<float>(scattered(60, 60, 23), {.n_q = 60, .n_k = 60, .d = 8, .d_v = 5});
  expect_equals_the_boolean_mask<float>(blocks(113, 203), {.n_q = 113, .n_k = 203, .d = 8, .d_v = 5});
  expect_equals_the_boolean_mask<float>(scattered(1, 40, 3), {.n_q = 1, .n_k = 40, .d = 8, .d_v = 5});
  expect_equals_the_boolean_mask<Eigen::bfloat16>(blocks(65, 90), {.n_q = 65, .n_k = 90, .d = 8, .d_v = 5});
}

TEST(AttendOver, ADensePatternIsExactAttentionBitForBit) {
  const auto in = random_inputs<float>({.n_q = 113, .n_k = 203, .d = 8, .d_v = 5});
  const auto want = attend(in.q, in.k, in.v);
  const auto got = attend_over(DensePattern{113, 203}, in.q, in.k, in.v);
  EXPECT_SAME_BITS(got.out, want.out);
  EXPECT_SAME_BITS(got.lse, want.lse);
}

TEST(AttendOver, QueriesInNoGroupAndGroupsWithoutKeysAreEmpty) {
  const auto in = random_inputs<float>({.n_q = 30, .n_k = 40, .d = 8, .d_v = 5});
  const ListedPattern pattern{{{0, 1, 2}, {5, 9}, {}}, {{{1, 2}}, {{}}, {{7}}}};
  const auto got = attend_over(pattern, in.q, in.k, in.v);
  for (Index i = 0; i < 30; ++i) {
    const bool empty = i > 2;
    EXPECT_EQ(heed::detail::is_minus_infinity(got.lse(i)), empty) << "query " << i;
    EXPECT_EQ((got.out.row(i).array() == 0.0f).all(), empty) << "query " << i;
  }
}

TEST(AttendOver, TakesValuesFromASource) {
  const auto in = random_inputs<float>({.n_q = 30, .n_k = 40, .d = 8, .d_v = 5});
  const StoredValues<float> values(in.v);
  EXPECT_EQ(values.n_keys(), 40);
  EXPECT_EQ(values.width(), 5);
  EXPECT_SAME_BITS(attend_over(DensePattern{30, 40}, in.q, in.k, values).out, attend(in.q, in.k, in.v).out);
  EXPECT_SAME_BITS(attend(in.q, in.k, values).out, attend(in.q, in.k, in.v).out);
}

/// Two parts and a sink whose sums lie to either side of where a log-sum-exp in float is kept in two numbers.
TEST(AttendOver, PartsOfAUnionMergeAtTheEdgeOfHugeScores) {
  const Matrix<float> q = Matrix<float>::Ones(3, 1), v = random_matrix<float>(12, 5, 1);
  const ListedPattern third{{{0, 1, 2}}, {{{0, 3, 6, 9}}}};
  PairMatrix seen(3, 12);
  for (Index j = 0; j < 12; ++j) seen.col(j).setConstant(j % 3 == 0 || j < 6);
  for (const float score : {250.0f, 254.0f, 255.0f, 257.0f}) {
    const Matrix<float> k = Matrix<float>::Constant(12, 1, score);
    for (const double sink : {250.0, 255.5, 256.5}) {
      const AttentionOptions options{.scale = 1.0, .sinks = sink};
      AttentionOptions masked = options;
      masked.mask.allowed = seen;
      const auto got = attend_over(PatternUnion{third, DensePattern{3, 6}}, q, k, v, options);
      const auto want =
          reference_attention(q.cast<double>().eval(), k.cast<double>().eval(), v.cast<double>().eval(), masked);
      EXPECT_MATRIX_NEAR(got.out, want.out, 2e-4) << score << " and " << sink;
      EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-4) << score << " and " << sink;
    }
  }
}

TEST(AttendOver, RefusesTokensThatAreNotThere) {
  const auto in = random_inputs<float>({.n_q = 30, .n_k = 40, .d = 8, .d_v = 5});
  const auto said = [&](const ListedPattern& pattern) {
    try {
      attend_over(pattern, in.q, in.k, in.v);
    } catch (const OptionError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const std::string query = said({{{0, 30}}, {{{1}}}}), key = said({{{0}, {1}}, {{{1}}, {{2}, {-1, 3}}}}),
                    last = said({{{0}}, {{{3, 40}}}});
  EXPECT_NE(query.find("names token 30"), std::string::npos) << query;
  EXPECT_NE(key.find("names token -1"), std::string::npos) << key;
  EXPECT_NE(last.find("names token 40"), std::string::npos) << last;
}

}  // namespace
}  // namespace heed::test
