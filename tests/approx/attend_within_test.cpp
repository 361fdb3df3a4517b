#include "heed/approx/attend_within.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::attend_within_test {
namespace {

/// Keys, values and queries of one head.
struct Head {
  Matrix<float> q, k, v;
};

/// Tokens around centres that drift, as trained keys do; queries near the last ones, sharpened by `sharpness`. Values
/// follow their keys a little.
Head drifting_head(Index n, Index n_q, Index d, float sharpness, std::uint64_t seed) {
  Head head{Matrix<float>(n_q, d), random_matrix<float>(n, d, seed), random_matrix<float>(n, d, seed + 1)};
  const Matrix<float> steps = random_matrix<float>(n, d, seed + 2), mix = random_matrix<float>(d, d, seed + 3);
  Matrix<float> centre = Matrix<float>::Zero(1, d);
  for (Index j = 0; j < n; ++j) {
    centre = (0.99f * centre + 0.14f * steps.row(j)).eval();
    head.k.row(j) = 0.6f * head.k.row(j) + centre;
  }
  head.v += 0.2f * head.k * mix / std::sqrt(static_cast<float>(d));
  for (Index i = 0; i < n_q; ++i)
    head.q.row(i) = sharpness * (head.k.row(n - 1 - 3 * i) +
                                 0.5f * random_matrix<float>(1, d, seed + 9 + static_cast<std::uint64_t>(i)));
  return head;
}

struct Errors {
  double error = 0, reported = 0, visited = 0, int8 = 0;
  Index honest = 0, rows = 0, scans = 0;
};

/// Answers every query of a head one after another.
Errors errors_of(const Head& head, double tolerance) {
  KeyValueCache<Int8> cache(head.k.cols(), head.v.cols());
  cache.append(head.k, head.v);
  Errors all;
  double square = 0, size = 0, square8 = 0, report = 0;
  for (Index i = 0; i < head.q.rows(); ++i) {
    const Matrix<float> q = head.q.row(i);
    const auto want =
        reference_attention(q.cast<double>().eval(), head.k.cast<double>().eval(), head.v.cast<double>().eval());
    const auto got = attend_within(tolerance, q, cache);
    const double error = (got.out.cast<double>() - want.out).norm(), norm = want.out.norm();
    square += error * error;
    size += norm * norm;
    square8 += (attend(q, cache).out.cast<double>() - want.out).squaredNorm();
    report += got.reported(0, 0) * got.reported(0, 0) * norm * norm;
    all.honest += error <= 1.5 * got.reported(0, 0) * norm;
    all.scans += got.path(0, 0) == TolerancePath::scan;
    all.visited += got.visited / static_cast<double>(head.q.rows());
    EXPECT_TRUE(got.out.allFinite());
    ++all.rows;
  }
  all.error = std::sqrt(square / size);
  all.int8 = std::sqrt(square8 / size);
  all.reported = std::sqrt(report / size);
  return all;
}

TEST(AttendWithin, KeepsItsPromiseOnHeadsOfManyKinds) {
  for (const float sharpness : {0.0f, 0.3f, 1.0f, 3.0f}) {
    for (const double tolerance : {0.05, 0.01}) {
      SCOPED_TRACE("sharpness " + std::to_string(sharpness) + ", tolerance " + std::to_string(tolerance));
      const Errors of = errors_of(drifting_head(4096, 48, 32, sharpness, 5), tolerance);
      EXPECT_LE(of.error, std::max(1.2 * tolerance, 1.5 * of.int8));
      EXPECT_LE(of.error, 1.5 * of.reported);
      EXPECT_GE(of.honest, of.rows * 95 / 100 - 1);
      EXPECT_LE(of.reported, std::max(1.5 * tolerance, 10 * of.int8)) << "a report of anything is none";
    }
  }
}

TEST(AttendWithin, LeavesOutMostKeysWhereItMay) {
  Head head = drifting_head(6000, 48, 32, 0.5f, 5);
  head.v.array() += 1.0f;
  const Errors loose = errors_of(head, 0.05), tight = errors_of(head, 0.01);
  EXPECT_GT(loose.scans, loose.rows * 3 / 4);
  EXPECT_LT(loose.visited, 0.35);
  EXPECT_LT(loose.visited, tight.visited);
  EXPECT_LT(tight.error, loose.error);
}

TEST(AttendWithin, FindsWhatIsPlanted) {
  const Index n = 5000, d = 32;
  for (const Index place : {10, 2500, 4890}) {
    SCOPED_TRACE("place " + std::to_string(place));
    Head head = drifting_head(n, 40, d, 0.4f, 7);
    // One key at +20 above the others for every query from the tenth on, when levels have been chosen.
    Matrix<float> direction = random_matrix<float>(1, d, 3);
    direction /= direction.norm();
    head.k.row(place) = 12.0f * direction;
    head.v.row(place).setConstant(5.0f);
    for (Index i = 10; i < 40; ++i) head.q.row(i) += 9.0f * direction;
    const Errors of = errors_of(head, 0.05);
    EXPECT_LE(of.error, 0.05);
    EXPECT_GE(of.honest, 38);
  }
}

TEST(AttendWithin, ReachesItsToleranceOnAwkwardTokens) {
  const auto expect_near = [](const char* what, const Head& head) {
    SCOPED_TRACE(what);
    const Errors of = errors_of(head, 0.05);
    EXPECT_LE(of.error, std::max(0.055, 1.5 * of.int8));
    EXPECT_LE(of.error, 1.5 * of.reported);
  };
  Head same = drifting_head(9000, 30, 16, 1.0f, 5);
  same.k.setConstant(0.7f);
  expect_near("identical keys", same);
  same.v.setConstant(-2.0f);
  expect_near("identical tokens", same);
  Head large = drifting_head(9000, 30, 16, 1.0f, 5);
  for (Index j = 0; j < 9000; j += 97) large.k(j, 3) += 300.0f;
  large.q.col(3).setConstant(0.01f);
  expect_near("keys with one huge coordinate", large);
  Head late = drifting_head(9000, 30, 16, 0.2f, 5);
  late.k.middleRows(8800, 50) *= 8.0f;
  expect_near("heavy keys that come late", late);
  Head scaled = drifting_head(9000, 30, 16, 0.5f, 5);
  scaled.v *= 1e-20f;
  expect_near("small values", scaled);
  scaled.v *= 1e35f;
  expect_near("large values", scaled);
}

TEST(AttendWithin, ALineOfKeysAndValuesAffineInThemIsTheRegressions) {
  // Keys leave their page's mean along one line, values follow: nothing is left but the rounding to 4 bits.
  const Index n = 9000, d = 16;
  const Matrix<float> line = random_matrix<float>(1, d, 1), slope = random_matrix<float>(1, d, 2);
  Head head{random_matrix<float>(40, 1, 4) * line, Matrix<float>(n, d), Matrix<float>(n, d)};
  head.q *= 2.0f / line.squaredNorm();
  const Matrix<float> t = random_matrix<float>(n, 1, 3);
  head.k = t * line;
  head.v = t * slope + Matrix<float>::Constant(n, d, 0.5f);
  const Errors of = errors_of(head, 0.2);
  EXPECT_LE(of.error, 0.02);
  EXPECT_LE(of.visited, 0.3);
}

TEST(AttendWithin, ReadsAllKeysWhereThatIsItsPath) {
  const Head head = drifting_head(6000, 8, 24, 0.5f, 5);
  KeyValueCache<Int8> cache(24), few(24);
  cache.append(head.k, head.v);
  few.append(head.k.topRows(1500), head.v.topRows(1500));
  for (Index i = 0; i < 8; ++i) {
    const Matrix<float> q = head.q.row(i);
    const auto all = attend_within(0.0, q, cache);
    EXPECT_SAME_BITS(all.out, attend(q, cache).out);
    EXPECT_SAME_BITS(all.lse, attend(q, cache).lse);
    EXPECT_NE(all.path(0, 0), TolerancePath::scan);
    EXPECT_EQ(all.visited, 1.0);
    const auto capped = attend_within(0.05, q, cache, {.softcap = 20.0});
    EXPECT_SAME_BITS(capped.out, attend(q, cache, {.softcap = 20.0}).out);
    EXPECT_EQ(capped.path(0, 0), TolerancePath::other_options);
    EXPECT_GE(capped.reported(0, 0), 0.012) << "nothing was probed";
    const auto short_one = attend_within(0.05, q, few);
    EXPECT_NE(short_one.path(0, 0), TolerancePath::scan);
    if (short_one.path(0, 0) == TolerancePath::few_keys) {
      EXPECT_SAME_BITS(short_one.out, attend(q, few).out);
    }
    EXPECT_MATRIX_NEAR(short_one.out, attend(q, few).out, 1e-4);
  }
}

TEST(AttendWithin, WhatTheScanCannotScaleSeesItsOwnKeysToo) {
  const Head head = drifting_head(3000, 6, 16, 0.5f, 5);
  KeyValueCache<Int8> cache(16);
  cache.append(head.k, head.v);
  const std::vector<float> none{-std::numeric_limits<float>::max()};
  const Mask causal{.causal = Causal::top_left, .shift = 200};
  for (const AttentionOptions& options :
       {AttentionOptions{.scale = 1e-32, .mask = causal}, AttentionOptions{.scale = 1e31, .mask = causal},
        AttentionOptions{.mask = causal, .sinks = none}}) {
    const auto got = attend_within(0.05, head.q, cache, options);
    for (Index i = 0; i < 6; ++i) {
      AttentionOptions own = options;
      own.mask.shift = 200 + i;
      EXPECT_SAME_BITS(got.out.row(i).eval(), attend(head.q.row(i), cache, own).out);
      EXPECT_EQ(got.path(i, 0), TolerancePath::other_options);
    }
  }
  const std::vector<float> second{0, -std::numeric_limits<float>::max()};  // of two heads it cannot be scaled
  Matrix<float> q(1, 32);
  q << head.q.row(0), head.q.row(1);
  const AttentionOptions options{.sinks = second};
  for (int i = 0; i < 3; ++i) {
    const auto got = attend_within(0.05, q, cache, options);
    EXPECT_SAME_BITS(got.out, attend(q, cache, options).out);
    for (Index h = 0; h < 2; ++h) EXPECT_EQ(got.path(0, h), TolerancePath::other_options);
  }
}

TEST(AttendWithin, SameBitsWhateverAWorkspaceHeldBefore) {
  const Head head = drifting_head(5000, 30, 37, 0.5f, 5);
  Head odd{head.q, head.k, random_matrix<float>(5000, 59, 3)};
  Workspace workspace;
  KeyValueCache<Int8> one(37, 59), two(37, 59);
  for (auto* cache : {&one, &two}) cache->append(odd.k, odd.v);
  for (Index i = 0; i < 30; ++i) {
    const Matrix<float> q = odd.q.row(i);
    {  // leaves NaN everywhere in the workspace
      Workspace::Frame frame(workspace);
      std::fill_n(frame.take<float>(400000), 400000, std::numeric_limits<float>::quiet_NaN());
    }
    const auto a = attend_within(0.05, q, one, {}, {.workspace = &workspace});
    const auto b = attend_within(0.05, q, two);
    EXPECT_SAME_BITS(a.out, b.out);
    EXPECT_SAME_BITS(a.reported, b.reported);
  }
}

TEST(AttendWithin, ForgetsWhatIsClearedAndNeverLearnsNaN) {
  const Head head = drifting_head(6000, 20, 24, 0.5f, 5);
  KeyValueCache<Int8> used(24), fresh(24);
  used.append((head.k * 1e10f).eval(), (head.v * 1e30f).eval());
  EXPECT_TRUE(attend_within(0.05, (head.q * 1e-10f).eval(), used).out.allFinite());
  used.truncate(2000);
  used.clear();
  for (auto* cache : {&used, &fresh}) cache->append(head.k, head.v);
  Matrix<float> q = head.q;
  q.row(0).setConstant(std::numeric_limits<float>::quiet_NaN());
  const auto got = attend_within(0.05, q, used), want = attend_within(0.05, q, fresh);
  EXPECT_SAME_BITS(got.out.bottomRows(19).eval(), want.out.bottomRows(19).eval());
  EXPECT_TRUE(got.reported.bottomRows(19).allFinite());
  EXPECT_TRUE(got.out.row(0).array().isNaN().all());
}

TEST(AttendWithin, ReportsTheRoundingOfAQueryWithOneLargeChannel) {
  for (const Index n : {1500, 5000}) {
    for (const float large : {0.0f, 4.0f, 10.0f, 40.0f}) {
      for (const double tolerance : {0.0, 0.05}) {
        SCOPED_TRACE(std::to_string(n) + " keys, channel " + std::to_string(large) + ", " + std::to_string(tolerance));
        Head head{random_matrix<float>(40, 64, 1) * 1.5f, random_matrix<float>(n, 64, 2),
                  random_matrix<float>(n, 64, 3)};
        head.q.col(0).setConstant(large);
        head.k.col(0) = 0.1f * head.k.col(0) + Matrix<float>::Constant(n, 1, large);
        const Errors of = errors_of(head, tolerance);
        EXPECT_GE(of.honest, of.rows * 9 / 10);
      }
    }
  }
}

TEST(AttendWithin, SizesBelowAPageAndOptionsOfPositions) {
  for (const Index n : {0, 1, 2, 3, 4, 5, 36, 99, 100, 133, 2100, 17000}) {
    SCOPED_TRACE(n);
    const Head head = drifting_head(std::max<Index>(n, 30), 5, 8, 0.5f, 5);
    KeyValueCache<Int8> cache(8);
    cache.append(head.k.topRows(n), head.v.topRows(n));
    const std::vector<float> sinks{1.5f};
    for (const AttentionOptions& options :
         {AttentionOptions{}, AttentionOptions{.mask = {.causal = Causal::bottom_right}},
          AttentionOptions{.mask = {.shift = n - 5, .window_left = 2060}}, AttentionOptions{.scale = -0.4},
          AttentionOptions{.scale = 0.0}, AttentionOptions{.mask = {.n_real_keys = n / 2}},
          AttentionOptions{.sinks = sinks}}) {
      const auto got = attend_within(0.02, head.q, cache, options);
      const auto want = attend(head.q, cache, options);
      EXPECT_MATRIX_NEAR(got.out, want.out, 0.1);
      for (Index i = 0; i < 5; ++i) {
        if (n == 0) {
          EXPECT_EQ(got.lse(i, 0), want.lse(i, 0));
        } else {
          EXPECT_TRUE(got.lse(i, 0) == want.lse(i, 0) || std::abs(got.lse(i, 0) - want.lse(i, 0)) < 0.05f);
        }
      }
    }
  }
}

TEST(AttendWithin, SameBitsForThreadsAndForQueriesTogetherOrAlone) {
  const Head head = drifting_head(9000, 24, 24, 0.5f, 5), other = drifting_head(9000, 24, 24, 2.0f, 8);
  Matrix<float> k(9000, 48), v(9000, 48), q(24, 6 * 24);
  k << head.k, other.k;
  v << head.v, other.v;
  q << head.q, other.q, head.q, other.q, head.q, head.q;  // 3 heads share keys
  KeyValueCache<Int8> one(24, 24, 2), two(24, 24, 2), apart(24, 24, 2);
  for (auto* cache : {&one, &two, &apart}) cache->append(k, v);
  Workspace workspace;
  const AttentionOptions causal{.mask = {.causal = Causal::bottom_right}};
  const auto got = attend_within(0.03, q, one, causal);
  const auto threaded = attend_within(0.03, q, two, causal, {.workspace = &workspace, .threads = 3});
  EXPECT_SAME_BITS(threaded.out, got.out);
  EXPECT_SAME_BITS(threaded.reported, got.reported);
  EXPECT_EQ(threaded.visited, got.visited);
  for (Index i = 0; i < 24; ++i) {
    const auto alone =
        attend_within(0.03, q.row(i), apart, {.mask = {.causal = Causal::top_left, .shift = 9000 - 24 + i}});
    EXPECT_SAME_BITS(alone.out, got.out.row(i).eval());
  }
}

TEST(AttendWithin, ManyKeysAndManyMoreAfterThem) {
  const Head head = drifting_head(100000, 12, 8, 0.6f, 5);
  KeyValueCache<Int8> cache(8);
  for (Index from = 0; from < 100000; from += 20000) {
    cache.append(head.k.middleRows(from, 20000), head.v.middleRows(from, 20000));
    for (Index i = 0; i < 12; ++i) {
      const Matrix<float> q = head.q.row(i);
      EXPECT_MATRIX_NEAR(attend_within(0.05, q, cache).out, attend(q, cache).out, 0.15);
    }
  }
  cache.clear();
  EXPECT_TRUE(attend_within(0.05, head.q, cache).out.isZero());
}

TEST(AttendWithin, LearnsTheSameWhateverStorageOutputsHave) {
  const Matrix<float> k = random_matrix<float>(4500, 32, 1), v = random_matrix<float>(4500, 32, 2);
  KeyValueCache<Int8> cache(32), other(32);  // as tight a tolerance as levels reach: bfloat16 would round as much
  for (KeyValueCache<Int8>* one : {&cache, &other}) one->append(k, (v.array() + 1.0f).matrix().eval());
  for (std::uint64_t i = 0; i < 16; ++i) {
    const Matrix<Eigen::bfloat16> q = (0.3f * random_matrix<float>(1, 32, 1000 + i)).eval().cast<Eigen::bfloat16>();
    const auto narrow = attend_within(0.006, q, cache);
    const auto wide = attend_within(0.006, q.cast<float>().eval(), other);
    EXPECT_SAME_BITS(narrow.out, wide.out.cast<Eigen::bfloat16>().eval());
    EXPECT_EQ(narrow.reported, wide.reported);
    EXPECT_EQ(narrow.visited, wide.visited);
    EXPECT_EQ(narrow.paths, wide.paths);
  }
}

TEST(AttendWithin, RefusesTolerancesThatAreNone) {
  KeyValueCache<Int8> cache(8);
  const Matrix<float> q = random_matrix<float>(1, 8, 1);
  for (const double bad : {-0.1, std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()})
    EXPECT_THROW(attend_within(bad, q, cache), OptionError);
  EXPECT_THROW(attend_within(0.05, random_matrix<float>(1, 7, 1), cache), ShapeError);
  EXPECT_THROW(attend_within(0.05, q, cache, {.softcap = -1.0}), OptionError);
}

TEST(AttendWithin, CountsWhatItReads) {
  const Head head = drifting_head(8000, 60, 32, 0.3f, 5);
  KeyValueCache<Int8> cache(32);
  cache.append(head.k, head.v);
  for (Index i = 0; i < 60; ++i) {
    const Matrix<float> q = head.q.row(i);
    FlopCounter flops, all;
    const auto got = attend_within(0.05, q, cache, {}, {.flops = &flops});
    attend(q, cache, {}, {.flops = &all});
    EXPECT_EQ(flops.padded_tokens(), all.padded_tokens());
    const double pages = std::floor((8000.0 - 4 - 64) / 32);
    const double scanned = flops.products(Phase::scores) - flops.products(Phase::values);  // d = d_v
    EXPECT_NEAR(scanned, 2 * 32 * 32 * pages, 2 * 32 * 64);
    if (got.path(0, 0) == TolerancePath::probe) {  // all keys, and what the levels read beside them
      EXPECT_GT(flops.products(Phase::values), all.products(Phase::values));
      EXPECT_EQ(got.visited, 1.0);
    } else if (got.path(0, 0) == TolerancePath::scan) {
      EXPECT_NEAR(flops.products(Phase::values), got.visited * all.products(Phase::values), 1e-6 * all.products());
    }
  }
}

TEST(ToleranceProbes, ComeOftenAtFirstThenSeldom) {
  detail::ToleranceProbes probes;
  std::vector<Index> due;
  for (Index i = 0; i < 300; ++i) {
    const Index n_tokens = i < 280 ? 4000 + i : 5400;
    if (probes.is_due(n_tokens)) {
      due.push_back(i);
      probes.add({}, n_tokens);
    }
    probes.count_query();
  }
  EXPECT_EQ(due, (std::vector<Index>{0, 1, 2, 4, 7, 12, 20, 33, 54, 88, 144, 205, 266, 280, 281, 282, 284, 287, 292}))
      << "and often again where tokens have become a quarter more";
}

TEST(ToleranceProbes, LearnNothingFromNaN) {
  detail::ToleranceProbes probes, taught;
  for (int i = 0; i < 4; ++i) {
    for (auto* one : {&probes, &taught}) one->add({}, 100);
    detail::ToleranceProbes::Probe probe;
    probe.error.fill(std::numeric_limits<double>::quiet_NaN());
    probe.floor = std::numeric_limits<double>::infinity();
    taught.add(probe, 100);
  }
  EXPECT_EQ(taught.level_for(0.05), probes.level_for(0.05));
  EXPECT_EQ(taught.floor(), probes.floor());
}

TEST(ToleranceProbes, ChooseTheCheapestLevelThatMeetsTheTolerance) {
  detail::ToleranceProbes probes;
  EXPECT_EQ(probes.level_for(0.05), detail::ToleranceLevels::n_levels) << "nothing is known";
  detail::ToleranceProbes::Probe probe;
  probe.floor = 0.003;
  for (std::size_t level = 0; level < probe.error.size(); ++level) {
    probe.error[level] = std::pow(detail::ToleranceLevels::tau[level], 2);
    probe.budget[level] = probe.error[level] / 4;
  }
  probe.scanned.fill(0.5);
  probes.add(probe, 4000);
  EXPECT_EQ(probes.level_for(0.05), 6) << "2 tau <= tolerance while probes are few";
  for (int i = 0; i < 3; ++i) probes.add(probe, 4000);
  EXPECT_EQ(probes.level_for(0.05), 5) << "1.5 * .03 < .05 < 1.5 * .05";
  EXPECT_EQ(probes.level_for(0.01), 9);
  EXPECT_EQ(probes.level_for(0.003), detail::ToleranceLevels::n_levels) << "below what 8 bits reach";
  EXPECT_NEAR(probes.factor_of(2), 3.0, 1e-12) << "1.5 times what the truth was of the budget";
  probe.scanned.fill(0.3);
  for (int i = 0; i < 16; ++i) probes.add(probe, 4000);
  EXPECT_EQ(probes.level_for(0.05), 1) << "pages are left out where that leaves out more than half";
  probe.error.fill(0.01);
  probes.add(probe, 4000);
  EXPECT_EQ(probes.level_for(0.05), detail::ToleranceLevels::n_levels) << "the last probe was past it";
}

}  // namespace
}  // namespace heed::test::attend_within_test
