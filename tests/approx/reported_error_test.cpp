// What attend_within reports, where it is hard to know: pages left out, roles that take turns, values much alike.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/attend_within.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "support/inputs.hpp"

namespace heed::test::reported_error {
namespace {

/// Relative error of a query's answer against softmax attention in double.
double error_of(const Matrix<float>& q, const Matrix<float>& k, const Matrix<float>& v, const Matrix<double>& out) {
  const Eigen::VectorXd scores =
      k.cast<double>() * q.cast<double>().transpose() / std::sqrt(static_cast<double>(q.cols()));
  const Eigen::VectorXd weights = (scores.array() - scores.maxCoeff()).exp();
  const Eigen::RowVectorXd want = weights.transpose() * v.cast<double>() / weights.sum();
  return (out - want).norm() / want.norm();
}

/// How many rows are off by at most 1.5 times what is reported.
struct Honesty {
  Index rows = 0, honest = 0;
  double square = 0;

  void add(double error, double reported) {
    ++rows;
    honest += error <= 1.5 * reported;
    square += error * error;
  }
  double share() const { return static_cast<double>(honest) / static_cast<double>(rows); }
  double error() const { return std::sqrt(square / static_cast<double>(rows)); }
};

/// A direction of length 1.
Matrix<float> direction(Index d, std::uint64_t seed) { return random_matrix<float>(1, d, seed).rowwise().normalized(); }

/// Keys that lie off `along` but for the newest `n_near`, which all queries look for: a page has some of either kind.
Matrix<float> local_keys(Index n, Index n_near, const Matrix<float>& along, std::uint64_t seed) {
  Matrix<float> keys = random_matrix<float>(n, along.cols(), seed);
  keys -= 0.9f * (keys * along.transpose()) * along;
  keys.bottomRows(n_near).rowwise() += 10.0f * along.row(0);
  return keys;
}

TEST(ReportedError, HoldsWhereAPageLeftOutHasSomeHeavyKeys) {
  const Index n = 5000;
  for (const Index d : {32, 64}) {
    Index failed = 0, n_heads = 0;
    for (Index n_near = 300; n_near < 460; n_near += 52, ++n_heads) {
      const auto seed = static_cast<std::uint64_t>(n_near);
      const Matrix<float> along = direction(d, seed), k = local_keys(n, n_near, along, seed + 1);
      const Matrix<float> v = random_matrix<float>(n, d, seed + 2).array() + 0.5f;
      const Matrix<float> noise = random_matrix<float>(120, d, seed + 3);
      KeyValueCache<Int8> cache(d);
      cache.append(k, v);
      Honesty of;
      for (Index i = 0; i < noise.rows(); ++i) {
        const Matrix<float> q = std::sqrt(static_cast<float>(d)) * along + 0.3f * noise.row(i);
        const auto got = attend_within(0.05, q, cache);
        of.add(error_of(q, k, v, got.out.cast<double>()), got.reported(0, 0));
      }
      EXPECT_LE(of.error(), 0.05);
      failed += of.share() < 0.95;
    }
    EXPECT_LE(failed, 0) << "of " << n_heads << " heads, d = " << d;
  }
}

TEST(ReportedError, HoldsForHeadsOfTopics) {
  const Index n = 8192, d = 64, n_topics = 60;
  Index failed = 0;
  for (std::uint64_t head = 0; head < 3; ++head) {
    NumberStream numbers(head + 77);
    const Matrix<float> keys = random_matrix<float>(n_topics, d, head), values = random_matrix<float>(n_topics, d, 9);
    Matrix<float> k = 0.5f * random_matrix<float>(n, d, head + 20), v = 0.7f * random_matrix<float>(n, d, head + 30);
    for (Index j = 0; j < n;) {
      const Index topic = numbers.below(n_topics);
      for (const Index end = std::min(n, j + 20 + numbers.below(400)); j < end; ++j) {
        k.row(j) += keys.row(topic);
        v.row(j) += 0.7f * values.row(topic);
      }
    }
    const Matrix<float> noise = random_matrix<float>(200, d, head + 40);
    KeyValueCache<Int8> cache(d);
    cache.append(k, v);
    Honesty of;
    for (Index i = 0; i < noise.rows(); ++i) {
      const Matrix<float> q = 0.8f * keys.row(numbers.below(n_topics)) + 0.4f * noise.row(i);
      const auto got = attend_within(0.05, q, cache);
      of.add(error_of(q, k, v, got.out.cast<double>()), got.reported(0, 0));
    }
    failed += of.share() < 0.95;
  }
  EXPECT_LE(failed, 0) << "of 3 heads";
}

/// Queries that look for the keys nearest to them, each from a place of its own in the cache, not at its end.
Honesty of_local_rows(Index window) {
  const Index n = 1500, d = 32;
  Matrix<float> k = random_matrix<float>(n, d, 1);
  const Matrix<float> steps = random_matrix<float>(n, d, 2), v = random_matrix<float>(n, d, 3);
  for (Index j = 1; j < n; ++j) k.row(j) = 0.8f * k.row(j - 1) + 0.6f * steps.row(j);
  KeyValueCache<Int8> cache(d);
  cache.append(k, v);
  Honesty of;
  for (Index i = 100; i < n - 100; i += 13) {
    AttentionOptions options;
    options.mask.causal = Causal::top_left;
    options.mask.shift = i;
    if (window > 0) options.mask.window_left = window;
    const Index first = window > 0 ? std::max<Index>(0, i - window) : 0;
    const auto got = attend_within(0.05, Matrix<float>(2.0f * k.row(i)), cache, options);
    of.add(error_of(2.0f * k.row(i), k.middleRows(first, i + 1 - first), v.middleRows(first, i + 1 - first),
                    got.out.cast<double>()),
           got.reported(0, 0));
  }
  return of;
}

TEST(ReportedError, CountsTheBytesOfAPageThatIsSeenInPart) {
  for (const Index window : {0, 8, 60, 400}) EXPECT_GE(of_local_rows(window).share(), 0.95) << "window " << window;
}

// Mild queries teach that 8 bits err little; then other tokens come, and queries that err more.
TEST(ReportedError, ForgetsWhatTokensSaidThatAreGoneOrFew) {
  const Index n = 2000, d = 32;
  const Matrix<float> k = random_matrix<float>(n, d, 1), v = random_matrix<float>(n, d, 2).array() + 2.0f;
  const Matrix<float> other_k = 4.0f * random_matrix<float>(n, d, 3);
  const Matrix<float> other_v = random_matrix<float>(n, d, 4).array() + 2.0f;
  for (const Index kept : {Index(0), Index(1000), n}) {
    KeyValueCache<Int8> cache(d);
    cache.append(k, v);
    attend_within(0.05, Matrix<float>(0.3f * random_matrix<float>(60, d, 5)), cache);
    cache.truncate(kept);
    cache.append(other_k, other_v);
    Matrix<float> all_k(kept + n, d), all_v(kept + n, d);
    all_k << k.topRows(kept), other_k;
    all_v << v.topRows(kept), other_v;
    const Matrix<float> q = 2.0f * random_matrix<float>(60, d, 6);
    Honesty of;
    for (Index i = 0; i < q.rows(); ++i) {
      const auto got = attend_within(0.05, q.row(i), cache);
      of.add(error_of(q.row(i), all_k, all_v, got.out.cast<double>()), got.reported(0, 0));
    }
    EXPECT_GE(of.share(), 0.95) << kept << " tokens kept";
  }
}

// Rows that look at the newest keys and rows that look at a key in every old page, in a fixed order: probes must meet
// both, or what they say of one is taken for the other.
TEST(ReportedError, HoldsWhereRolesTakeTurns) {
  const Index n = 6000, d = 64;
  const Matrix<float> near = direction(d, 1), mark = random_matrix<float>(1, d, 4);
  Matrix<float> far = direction(d, 2);
  far = (far - (far * near.transpose()) * near).rowwise().normalized();
  Matrix<float> k = local_keys(n, 400, near, 3), v = random_matrix<float>(n, d, 5).array() + 0.5f;
  k -= 0.9f * (k * far.transpose()) * far;
  for (Index j = 20; j < n - 500; j += 32) {
    k.row(j) += 6.0f * far;
    v.row(j) = 3.0f * mark;
  }
  for (const Index period : {2, 4}) {
    KeyValueCache<Int8> cache(d);
    cache.append(k, v);
    const Matrix<float> noise = random_matrix<float>(900, d, 6);
    Honesty of_far, of_near;
    for (Index i = 0; i < noise.rows(); ++i) {
      const bool is_far = i % period == 1;
      const Matrix<float> q = 8.0f * (is_far ? far : near) + 0.3f * noise.row(i);
      const auto got = attend_within(0.1, q, cache);
      if (i >= 300) (is_far ? of_far : of_near).add(error_of(q, k, v, got.out.cast<double>()), got.reported(0, 0));
    }
    EXPECT_GE(of_far.share(), 0.95) << "period " << period;
    EXPECT_GE(of_near.share(), 0.95) << "period " << period;
    EXPECT_LE(of_far.error(), 0.1) << "period " << period;
  }
}

// Two caches merged by their lse, as those of ranks are: values much alike within each hide what its lse errs.
TEST(ReportedError, HoldsForAnswersThatAreMerged) {
  const Index n = 4096, d = 64;
  for (const float noise : {0.1f, 0.01f}) {
    const Matrix<float> k = random_matrix<float>(2 * n, d, 1), q = 2.0f * random_matrix<float>(150, d, 3);
    Matrix<float> v = noise * random_matrix<float>(2 * n, d, 2);
    v.topRows(n).array() += 1.0f;
    v.bottomRows(n).array() -= 1.0f;
    KeyValueCache<Int8> one(d), two(d);
    one.append(k.topRows(n), v.topRows(n));
    two.append(k.bottomRows(n), v.bottomRows(n));
    Honesty of;
    for (Index i = 0; i < q.rows(); ++i) {
      const auto a = attend_within(0.05, q.row(i), one), b = attend_within(0.05, q.row(i), two);
      const double w_a = 1 / (1 + std::exp(static_cast<double>(b.lse(0, 0)) - static_cast<double>(a.lse(0, 0))));
      const double w_b = 1 - w_a;
      const Matrix<double> out_a = a.out.cast<double>(), out_b = b.out.cast<double>(), out = w_a * out_a + w_b * out_b;
      const double r_a = w_a * a.reported(0, 0), r_b = w_b * b.reported(0, 0);
      const double reported =
          std::sqrt(std::pow(r_a * out_a.norm() + r_b * out_b.norm(), 2) + std::pow(r_a * (out_a - out).norm(), 2) +
                    std::pow(r_b * (out_b - out).norm(), 2)) /
          out.norm();
      of.add(error_of(q.row(i), k, v, out), reported);
    }
    EXPECT_GE(of.share(), 0.95) << "noise " << noise;
  }
}

// Queries far sharper than those that taught the levels have a budget far past the tolerance: all keys are read then.
TEST(ReportedError, IsNeverFarPastTheToleranceOfAScan) {
  const Index n = 6000, d = 64, n_mild = 60;
  const Matrix<float> k = random_matrix<float>(n, d, 1), q = random_matrix<float>(n_mild + 40, d, 3);
  const Matrix<float> v = random_matrix<float>(n, d, 2).array() + 1.0f;
  KeyValueCache<Int8> cache(d);
  cache.append(k, v);
  Index scans = 0, reread = 0;
  for (Index i = 0; i < q.rows(); ++i) {
    const double scale = i < n_mild ? 0.03 : 0.5;
    const auto got = attend_within(0.05, q.row(i), cache, {.scale = scale});
    if (got.path(0, 0) == TolerancePath::scan) {
      ++scans;
      EXPECT_LE(got.reported(0, 0), 2 * 0.05) << "query " << i;
    }
    reread += i >= n_mild && got.path(0, 0) == TolerancePath::not_tolerant;
  }
  EXPECT_GT(scans, n_mild / 2);
  EXPECT_GT(reread, 0);
}

TEST(ReportedError, HoldsWhereValuesArePagesOwn) {
  const Index n = 8192, d = 64;
  const Matrix<float> k = random_matrix<float>(n, d, 1), q = random_matrix<float>(150, d, 3);
  const Matrix<float> of_page = (random_matrix<float>(n / 32 + 2, d, 2).array() * 8.0f).round() / 8.0f + 1.0f;
  Matrix<float> v(n, d);
  for (Index j = 0; j < n; ++j) v.row(j) = of_page.row(j < 4 ? 0 : (j - 4) / 32);
  KeyValueCache<Int8> cache(d);
  cache.append(k, v);
  Honesty of;
  for (Index i = 0; i < q.rows(); ++i) {
    const auto got = attend_within(0.05, q.row(i), cache);
    of.add(error_of(q.row(i), k, v, got.out.cast<double>()), got.reported(0, 0));
  }
  EXPECT_GE(of.share(), 0.95);
}

}  // namespace
}  // namespace heed::test::reported_error
