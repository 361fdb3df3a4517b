#include "heed/exact/check_pattern.hpp"

#include <cstddef>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/importance.hpp"
#include "heed/trees/leaf_pattern.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/method_case.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

using List = std::vector<Index>;
TokenSet set_of(const List& list) { return {0, static_cast<Index>(list.size()), list.data()}; }

/// Groups of any lists, right or wrong, for 30 queries and 40 keys.
struct Lists {
  std::vector<List> query_lists;
  std::vector<std::vector<List>> key_lists;  // per group, per segment
  Index n_groups() const { return static_cast<Index>(query_lists.size()); }
  TokenSet queries(Index g) const { return set_of(query_lists[static_cast<std::size_t>(g)]); }
  Index n_segments(Index g) const { return static_cast<Index>(key_lists[static_cast<std::size_t>(g)].size()); }
  TokenSet keys(Index g, Index s) const {
    return set_of(key_lists[static_cast<std::size_t>(g)][static_cast<std::size_t>(s)]);
  }
};

/// The same told as ranges and counts.
struct Ranges {
  std::vector<TokenSet> query_sets;
  std::vector<std::vector<TokenSet>> key_sets;
  Index groups = 1, segments = -2;  // segments: as many as there are
  Index n_groups() const { return groups; }
  TokenSet queries(Index g) const { return query_sets[static_cast<std::size_t>(g)]; }
  Index n_segments(Index g) const {
    return segments == -2 ? static_cast<Index>(key_sets[static_cast<std::size_t>(g)].size()) : segments;
  }
  TokenSet keys(Index g, Index s) const { return key_sets[static_cast<std::size_t>(g)][static_cast<std::size_t>(s)]; }
};

const Inputs<float>& operands() {
  static const Inputs<float> in = random_inputs<float>({.n_q = 30, .n_k = 40, .d = 4, .d_v = 3});
  return in;
}

template <class Run>
std::string said_by(const Run& run) {
  try {
    run();
  } catch (const OptionError& error) {
    return error.what();
  }
  return "nothing";
}

/// What each door that takes a pattern says of it; they must agree.
template <class Pattern>
std::string said_of(const Pattern& pattern) {
  const Inputs<float>& in = operands();
  const std::string said = said_by([&] { attend_over(pattern, in.q, in.k, in.v); });
  EXPECT_EQ(said_by([&] { key_importance_over(pattern, in.q, in.k); }), said);
  const PatternAttention method([&](Index, Index) { return pattern; });
  EXPECT_EQ(said_by([&] { attend(in.q, in.k, in.v, {}, method); }), said);
  EXPECT_EQ(said_by([&] { key_importance(in.q, in.k, {}, method); }), said);
  const DensePattern dense{30, 40};
  EXPECT_EQ(said_by([&] { attend_over(PatternUnion{dense, pattern}, in.q, in.k, in.v); }), said);
  EXPECT_EQ(said_by([&] { attend_over(PatternUnion{PatternUnion{dense, pattern}, dense}, in.q, in.k, in.v); }), said);
  EXPECT_EQ(said_by([&] { attend_over(PatternUnion{dense, PatternUnion{dense, pattern}}, in.q, in.k, in.v); }), said);
  const Matrix<float> identity = Matrix<float>::Identity(3, 3);
  EXPECT_EQ(said_by([&] { attend_over(pattern, in.q, in.k, ProjectedValues<float>(in.v, identity)); }), said);
  return said;
}

void expect_said(const std::string& said, const std::string& part) {
  EXPECT_NE(said.find(part), std::string::npos) << "'" << part << "' is not in: " << said;
}

TEST(CheckPattern, EveryEntryOfAListIsLookedAt) {
  expect_said(said_of(Lists{{{0}}, {{{3, 100, 4}}}}), "pattern.keys(0)[2] = 4 must be > 100");
  expect_said(said_of(Lists{{{0}}, {{{3, -100, 4}}}}), "pattern.keys(0)[1] = -100 must be > 3");
  expect_said(said_of(Lists{{{0}}, {{{3, 5, 5, 7}}}}), "pattern.keys(0)[2] = 5 must be > 5");
  expect_said(said_of(Lists{{{0}, {1}}, {{{1}}, {{2}, {9, 8}}}}), "pattern.keys(1)[1] = 8 must be > 9");
  expect_said(said_of(Lists{{{2, 29, 1}}, {{{1}}}}), "pattern.queries(0)[2] = 1 must be > 29");
  expect_said(said_of(Lists{{{0}}, {{{3, 40}}}}), "names token 40 but must stay in 0 .. 39");
  expect_said(said_of(Lists{{{0}}, {{{-1, 40}}}}), "names token -1 but must stay in 0 .. 39");
  expect_said(said_of(Lists{{{0, 30}}, {{{1}}}}), "names token 30 but must stay in 0 .. 29");
}

TEST(CheckPattern, RangesAndCountsCannotOverflow) {
  constexpr Index huge = std::numeric_limits<Index>::max();
  const auto keys = [](TokenSet set) { return Ranges{{{0, 30}}, {{set}}}; };
  expect_said(said_of(keys({huge, 2})), "names token 9223372036854775807");
  expect_said(said_of(keys({1, huge})), "names token 40");
  expect_said(said_of(keys({39, 2})), "names token 40");
  expect_said(said_of(keys({-1, 2})), "names token -1");
  expect_said(said_of(keys({0, -1})), "pattern.keys(0).size = -1 must be >= 0");
  expect_said(said_of(Ranges{{{0, 31}}, {{{0, 1}}}}), "names token 30");
  expect_said(said_of(Ranges{{{0, 30}}, {{{0, 1}}}, -1}), "pattern.n_groups() = -1 must be >= 0");
  expect_said(said_of(Ranges{{{0, 30}}, {{{0, 1}}}, 1, -1}), "pattern.n_segments(0) = -1 must be >= 0");
}

TEST(CheckPattern, AQueryInTwoGroupsOrAKeyInTwoSegmentsOfOneIsRefused) {
  expect_said(said_of(Ranges{{{0, 10}, {9, 5}}, {{{0, 1}}, {{0, 1}}}, 2}),
              "pattern.queries names token 9 in two groups");
  expect_said(said_of(Lists{{{5, 9}, {1, 5}}, {{{1}}, {{1}}}}), "pattern.queries names token 5 in two groups");
  expect_said(said_of(Ranges{{{0, 30}}, {{{0, 10}, {9, 3}}}}), "pattern.keys(0) names token 9 in two segments");
  expect_said(said_of(Ranges{{{0, 30}}, {{{20, 10}, {0, 5}, {24, 1}}}}),
              "pattern.keys(0) names token 24 in two segments");
  expect_said(said_of(Lists{{{0}, {1}}, {{{1}}, {{0, 4, 8}, {2, 4}}}}),
              "pattern.keys(1) names token 4 in two segments");
}

TEST(CheckPattern, SetsInAnyOrderAndInterleavedAreFine) {
  const Lists pattern{{{1, 3, 7}, {0, 2}, {}, {29}},
                      {{{1, 5, 9}, {0, 6}, {39}}, {{20, 21}, {1, 5}, {}}, {{4}}, {{0, 39}, {1}}}};
  EXPECT_EQ(said_of(pattern), "nothing");
  PairMatrix allowed = PairMatrix::Constant(30, 40, false);
  for (std::size_t g = 0; g < 4; ++g) {
    for (const Index i : pattern.query_lists[g]) {
      for (const List& segment : pattern.key_lists[g])
        for (const Index j : segment) allowed(i, j) = true;
    }
  }
  const Inputs<float>& in = operands();
  EXPECT_MATRIX_NEAR(attend_over(pattern, in.q, in.k, in.v).out,
                     attend(in.q, in.k, in.v, {.mask = {.allowed = allowed}}).out, 1e-6);
  EXPECT_EQ(said_of(Ranges{{}, {}, 0}), "nothing") << "no groups at all";
}

TEST(CheckPattern, APatternMadeForOtherOperandsIsRefused) {
  const Inputs<float>& in = operands();
  const LeafPattern leaves(random_tree<float>(2, 4, 3), in.q, in.k);
  EXPECT_EQ(said_by([&] { attend_over(leaves, in.q, in.k, in.v); }), "nothing");
  EXPECT_NE(said_by([&] { attend_over(leaves, in.q.topRows(5), in.k, in.v); }), "nothing");
  EXPECT_NE(said_by([&] { attend_over(leaves, in.q, in.k.topRows(5), in.v.topRows(5)); }), "nothing");
}

TEST(CheckPattern, AllocatesNothingWithAGrownWorkspace) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations cannot be counted here";
  const Lists interleaved{{{1, 3}, {0, 2}}, {{{1, 5}, {0, 6}}, {{20, 21}, {1, 5}}}};
  Workspace workspace;
  std::uint64_t before = 0;
  for (int turn = 0; turn < 2; ++turn) {
    before = allocations();
    heed::detail::check_pattern(interleaved, 30, 40, workspace);
    heed::detail::check_pattern(DensePattern{30, 40}, 30, 40, workspace);
  }
  EXPECT_EQ(allocations(), before);
}

}  // namespace
}  // namespace heed::test
