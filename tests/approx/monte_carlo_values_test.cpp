#include "heed/approx/monte_carlo_values.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/projected_values.hpp"
#include "heed/sampling/error_bounds.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/strided.hpp"

namespace heed::test::monte_carlo_values {
namespace {

constexpr Estimator estimators[] = {Estimator::with_replacement, Estimator::product_weighted,
                                    Estimator::without_replacement, Estimator::largest};
constexpr Budget budgets[] = {Budget::column_max, Budget::column_norm, Budget::constant};

template <class S>
struct Layer {
  Matrix<S> q, k, x, w, b;
  Layer(Index n_q, Index n_k, Index d, Index d_in, Index columns, Index heads = 1, Index kv_heads = 1)
      : q(random_matrix<S>(n_q, d * heads, 1)),
        k(random_matrix<S>(n_k, d * kv_heads, 2)),
        x(random_matrix<S>(n_k, d_in, 3)),
        w(random_matrix<S>(d_in, columns, 4)),
        b(random_matrix<S>(1, columns, 5)) {}
};

/// Every way to sample, at a budget that leaves some tokens sampled.
template <class Check>
void for_every_way(const Check& check) {
  for (const Estimator estimator : estimators) {
    for (const Budget budget : budgets) {
      for (const bool centred : {false, true}) {
        SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)) + ", budget " +
                     std::to_string(static_cast<int>(budget)) + (centred ? ", centred" : ""));
        check(MonteCarloOptions{.alpha = 1.1,
                                .seed = 7,
                                .estimator = estimator,
                                .budget = budget,
                                .fraction = 0.4,
                                .centred = centred,
                                .path = ValuePath::sampled});
      }
    }
  }
}

template <class S>
void expect_exact_limit() {
  const Layer<S> layer(37, 63, 8, 30, 11);
  const auto want = attend(layer.q, layer.k, ProjectedValues<S>(layer.x, layer.w, {.bias = layer.b}));
  for_every_way([&](MonteCarloOptions options) {
    options.alpha = 1e-9;
    options.fraction = 1;
    options.bias = layer.b;
    const auto got = attend(layer.q, layer.k, MonteCarloValues<S>(layer.x, layer.w, options));
    EXPECT_SAME_BITS(got.out, want.out);
    EXPECT_SAME_BITS(got.lse, want.lse);
  });
}

TEST(MonteCarloValues, WithAllProductsIsTheExactProductBitForBit) {
  expect_exact_limit<float>();
  expect_exact_limit<double>();
  expect_exact_limit<Eigen::half>();
  expect_exact_limit<Eigen::bfloat16>();
}

/// Errors of tokens that drew alike would add up in the sums over tokens that attention makes.
TEST(MonteCarloValues, TokensDrawIndependently) {
  Layer<double> layer(4, 64, 4, 40, 3);
  layer.x = layer.x.row(0).replicate(64, 1).eval();
  for (const Estimator estimator : {Estimator::product_weighted, Estimator::without_replacement}) {
    const MonteCarloValues<double> values(
        layer.x, layer.w,
        {.estimator = estimator, .budget = Budget::constant, .fraction = 0.1, .path = ValuePath::sampled});
    Matrix<double> rows(64, 3);
    values.value_rows_into(rows, layer.q, layer.k);
    std::vector<double> first(64);
    for (Index j = 0; j < 64; ++j) first[static_cast<std::size_t>(j)] = rows(j, 0);
    std::sort(first.begin(), first.end());
    const auto different = std::unique(first.begin(), first.end()) - first.begin();
    EXPECT_GT(different, 8) << static_cast<int>(estimator);
  }
}

TEST(MonteCarloValues, LargestIsTheSumOfTheLargestProducts) {
  Layer<double> layer(9, 250, 4, 70, 13);
  layer.x.row(5).head(60).setZero();  // fewer products than asked for
  layer.x.row(6).setConstant(0.5);    // many of one size
  layer.w.row(12).setZero();
  for (const bool centred : {false, true}) {
    const MonteCarloOptions options{.estimator = Estimator::largest,
                                    .budget = Budget::column_norm,
                                    .fraction = 0.3,
                                    .centred = centred,
                                    .bias = layer.b,
                                    .path = ValuePath::sampled};
    const MonteCarloValues<double> values(layer.x, layer.w, options);
    const auto plan = values.plan(layer.q, layer.k);
    Matrix<double> got(250, 13);
    values.value_rows_into(got, layer.q, layer.k);
    const Matrix<double> mean = centred ? Matrix<double>(layer.x.colwise().mean()) : Matrix<double>::Zero(1, 70);
    double spent = 0;
    for (Index j = 0; j < 250; ++j) {
      const Matrix<double> y = layer.x.row(j) - mean;
      std::vector<Index> order(70);
      std::iota(order.begin(), order.end(), Index{0});
      std::sort(order.begin(), order.end(), [&](Index a, Index b) {
        const auto of_a = std::abs(y(0, a)) * layer.w.row(a).norm(), of_b = std::abs(y(0, b)) * layer.w.row(b).norm();
        return of_a != of_b ? of_a > of_b : a < b;
      });
      Matrix<double> want = mean * layer.w + layer.b;
      for (Index s = 0; s < plan.counts(j, 0); ++s)
        want += y(0, order[static_cast<std::size_t>(s)]) * layer.w.row(order[static_cast<std::size_t>(s)]);
      spent += static_cast<double>(plan.counts(j, 0));
      if (j == 6 && !centred) continue;  // which of equal sizes is a matter of their last bits here
      EXPECT_MATRIX_NEAR(Matrix<double>(got.row(j)), want, 1e-11);
    }
    const double total = (0.3 * 250 - (centred ? 1 : 0)) * 70;  // the mean row is multiplied once
    EXPECT_LE(spent, total);
    EXPECT_GE(spent, 0.99 * total);
  }
}

TEST(MonteCarloValues, AreTheSameBitsForAnyThreadsCallsAndWorkspaces) {
  const Layer<float> layer(70, 533, 8, 96, 48, 4, 2);
  for_every_way([&](const MonteCarloOptions& options) {
    const MonteCarloValues<float> values(layer.x, layer.w, options);
    const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
    const auto want = multi_head_attend(layer.q, layer.k, values, heads, {}, ExactAttention{}, {.threads = 1});
    Workspace workspace;
    for (const Index threads : {1, 2, 3, 7}) {
      const auto got = multi_head_attend(layer.q, layer.k, values, heads, {}, ExactAttention{},
                                         {.workspace = &workspace, .threads = threads});
      EXPECT_SAME_BITS(got.out, want.out);
    }
    MonteCarloOptions other = options;
    other.seed = 8;
    const auto moved = multi_head_attend(layer.q, layer.k, MonteCarloValues<float>(layer.x, layer.w, other), heads);
    EXPECT_EQ((moved.out.array() == want.out.array()).all(), options.estimator == Estimator::largest);
  });
}

TEST(MonteCarloValues, DrawsOfATokenDoNotDependOnTheOthers) {
  const Layer<double> layer(20, 533, 8, 64, 16);
  for (const Estimator estimator : estimators) {
    const MonteCarloOptions options{
        .seed = 3, .estimator = estimator, .budget = Budget::constant, .fraction = 0.25, .path = ValuePath::sampled};
    Matrix<double> all(533, 16), some(333, 16);
    const Matrix<double> x = layer.x.topRows(333), k = layer.k.topRows(333);
    MonteCarloValues<double>(layer.x, layer.w, options).value_rows_into(all, layer.q, layer.k);
    MonteCarloValues<double>(x, layer.w, options).value_rows_into(some, layer.q, k);
    EXPECT_MATRIX_NEAR(some, Matrix<double>(all.topRows(333)), 1e-11);
  }
}

TEST(MonteCarloValues, TokensAndHeadsDrawForThemselves) {
  Layer<double> layer(20, 480, 8, 64, 32, 2, 2);
  for (Index j = 1; j < 480; ++j) layer.x.row(j) = layer.x.row(0);
  layer.w.rightCols(16) = layer.w.leftCols(16).eval();
  const MonteCarloOptions options{.budget = Budget::constant, .fraction = 0.25, .path = ValuePath::sampled};
  Matrix<double> rows(480, 32);
  MonteCarloValues<double>(layer.x, layer.w, options)
      .value_rows_into(rows, layer.q, layer.k, {}, ExactAttention{}, {}, {.n_heads = 2});
  EXPECT_GT((rows.leftCols(16) - rows.rightCols(16)).norm(), 1.0);
  Index alike = 0;
  for (Index j = 1; j < 480; ++j) alike += rows.row(j) == rows.row(0) ? 1 : 0;
  EXPECT_EQ(alike, 15);  // those that share its sequence in the block of 256
}

// What a decoder must know: it may keep value rows of one kind only.
TEST(MonteCarloValues, LaterTokensChangeRowsOfEveryBudgetButTheConstantOneWithoutCentring) {
  const Index early = 290, n = 431;
  const Layer<float> layer(n, n, 8, 32, 12);
  const Matrix<float> q = layer.q.topRows(early), k = layer.k.topRows(early), x = layer.x.topRows(early);
  const AttentionOptions causal{.mask = {.causal = Causal::square}};
  for_every_way([&](const MonteCarloOptions& options) {
    Matrix<float> of_all(n, 12), of_early(early, 12);
    MonteCarloValues<float>(layer.x, layer.w, options).value_rows_into(of_all, layer.q, layer.k, causal);
    MonteCarloValues<float>(x, layer.w, options).value_rows_into(of_early, q, k, causal);
    const bool kept = options.budget == Budget::constant && !options.centred;
    EXPECT_EQ(of_all.topRows(early) == of_early, kept);
  });
}

TEST(MonteCarloHeads, LargestOfAConstantBudgetIsChosenOnceUntilCountsDiffer) {
  const Index n = 40, d = 4, d_v = 6;
  const Layer<float> layer(n, n, d, 24, 2 * d_v, 2, 2);
  const MonteCarloOptions options{
      .estimator = Estimator::largest, .budget = Budget::constant, .fraction = 0.25, .path = ValuePath::sampled};
  const HeadOptions heads{.n_heads = 2};
  const Matrix<float> w = layer.w.leftCols(d_v), q = layer.q.leftCols(d), k = layer.k.leftCols(d);
  Matrix<float> both(n, 2 * d_v), alone(n, d_v);
  const auto head_0_is_as_alone = [&](const AttentionOptions& of_both) {
    MonteCarloValues<float>(layer.x, layer.w, options)
        .value_rows_into(both, layer.q, layer.k, of_both, ExactAttention{}, {}, heads);
    MonteCarloValues<float>(layer.x, w, options).value_rows_into(alone, q, k);
    return both.leftCols(d_v) == alone;
  };
  EXPECT_FALSE(head_0_is_as_alone({}));
  Matrix<bool> allowed = Matrix<bool>::Constant(2 * n, n, true);
  allowed.block(n, 7, n, 1).setConstant(false);  // head 1 never sees token 7
  EXPECT_TRUE(head_0_is_as_alone({.mask = {.allowed = allowed}}));
}

TEST(MonteCarloValues, ReadAnyLayout) {
  const Layer<float> layer(21, 70, 8, 40, 11);
  for_every_way([&](const MonteCarloOptions& options) {
    const auto want = attend(layer.q, layer.k, MonteCarloValues<float>(layer.x, layer.w, options));
    for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
      const Strided<float> x(layer.x, layout), w(layer.w, layout), q(layer.q, layout), k(layer.k, layout);
      Strided<float> out(21, 11, layout);
      const auto x_map = x.map();
      const auto w_map = w.map();
      attend_into(out.map(), nullptr, q.map(), k.map(), MonteCarloValues<float>(x_map, w_map, options));
      EXPECT_MATRIX_NEAR(Matrix<float>(out.map()), want.out, 1e-5);
      EXPECT_TRUE(out.surroundings_untouched());
    }
  });
}

TEST(MonteCarloMasks, MaskedRowsOfXAreNeverReadIntoAnything) {
  Layer<float> layer(50, 90, 8, 40, 16);
  const OptionStore store(50, 90);
  for_every_way([&](const MonteCarloOptions& options) {
    for (const OptionKind& kind : option_kinds(store)) {
      if (!kind.masks_pairs) continue;
      SCOPED_TRACE(std::string(kind.name));
      const AttentionOptions masked = options_of(store, kind);
      Layer<float> spoiled = layer;
      const MonteCarloValues<float> values(layer.x, layer.w, options);
      const auto plan = values.plan(layer.q, layer.k, masked);
      for (Index j = 0; j < 90; ++j) {
        if (plan.kept(j, 0) == 0) fill(spoiled.x.row(j), nan_of<float>());
      }
      const auto want = attend(layer.q, layer.k, values, masked);
      const auto got = attend(layer.q, layer.k, MonteCarloValues<float>(spoiled.x, layer.w, options), masked);
      EXPECT_SAME_BITS(got.out, want.out);
    }
  });
}

TEST(MonteCarloMasks, ANanInAKeptRowStaysInTheRowsThatSeeIt) {
  Layer<float> layer(50, 50, 8, 40, 16);
  fill(layer.x.row(30), nan_of<float>());
  const AttentionOptions causal{.mask = {.causal = Causal::square}};
  for_every_way([&](const MonteCarloOptions& options) {
    const auto got = attend(layer.q, layer.k, MonteCarloValues<float>(layer.x, layer.w, options), causal);
    for (Index i = 0; i < 50; ++i) EXPECT_EQ(is_nan(got.out(i, 0)), i >= 30) << i;
  });
}

TEST(MonteCarloMasks, ImportanceCountsKeptTokensOnlyAndThePublishedRoundingAllOfThem) {
  const Layer<double> layer(40, 60, 8, 48, 16);
  const Matrix<double> k = layer.k.topRows(40), x = layer.x.topRows(40);
  const AttentionOptions padded{.mask = {.n_real_keys = 40}};
  for (const Rounding rounding : {Rounding::up, Rounding::published}) {
    const MonteCarloOptions options{.alpha = 2, .rounding = rounding};
    const auto with = MonteCarloValues<double>(layer.x, layer.w, options).plan(layer.q, layer.k, padded);
    const auto without = MonteCarloValues<double>(x, layer.w, options).plan(layer.q, k);
    const bool same = with.counts.topRows(40) == without.counts;
    EXPECT_EQ(same, rounding == Rounding::up);
    EXPECT_EQ(with.counts.bottomRows(20).sum(), 0);
    if (rounding == Rounding::up) {
      EXPECT_DOUBLE_EQ(with.real_share(), without.real_share());
      EXPECT_NEAR(with.padded_share(), with.real_share() * 40 / 60, 1e-12);
    }
  }
}

TEST(MonteCarloMasks, PackedSequencesArePlannedAsIfApart) {
  const Layer<double> layer(90, 90, 8, 48, 16);
  const std::vector<Index> offsets{0, 25, 25, 90};
  AttentionOptions packed;
  packed.mask.sequence_offsets = offsets;
  for_every_way([&](const MonteCarloOptions& options) {
    const auto all = MonteCarloValues<double>(layer.x, layer.w, options).plan(layer.q, layer.k, packed);
    for (const Index first : {0, 25}) {
      const Index n = first == 0 ? 25 : 65;
      const Matrix<double> q = layer.q.middleRows(first, n), k = layer.k.middleRows(first, n),
                           x = layer.x.middleRows(first, n);
      const auto apart = MonteCarloValues<double>(x, layer.w, options).plan(q, k);
      EXPECT_LE((all.counts.middleRows(first, n) - apart.counts).cwiseAbs().maxCoeff(), 1);  // last bits of importance
    }
  });
}

TEST(MonteCarloRounding, PublishedLeavesRowsWithoutSamplesAtTheBias) {
  const Layer<double> layer(60, 60, 8, 48, 16);
  const MonteCarloOptions options{
      .alpha = 8, .rounding = Rounding::published, .bias = layer.b, .path = ValuePath::sampled};
  const MonteCarloValues<double> values(layer.x, layer.w, options);
  const auto plan = values.plan(layer.q, layer.k);
  Matrix<double> rows(60, 16);
  values.value_rows_into(rows, layer.q, layer.k);
  Index none = 0;
  for (Index j = 0; j < 60; ++j) {
    const Index want = published_count(plan.importance(j, 0), 60, 8, 48, Rounding::published);
    EXPECT_EQ(plan.counts(j, 0), want);
    if (want > 0) continue;
    ++none;
    EXPECT_SAME_BITS(Matrix<double>(rows.row(j)), layer.b);
  }
  EXPECT_GT(none, 0);
}

TEST(MonteCarloHeads, AGroupSharesTheImportanceOfAllItsHeads) {
  const Layer<double> layer(40, 60, 8, 48, 32, 6, 2);
  const MonteCarloValues<double> values(layer.x, layer.w, {.alpha = 2});
  const auto plan = values.plan(layer.q, layer.k, {}, ExactAttention{}, {}, {.n_heads = 6, .n_kv_heads = 2});
  ASSERT_EQ(plan.counts.cols(), 2);
  for (Index kv = 0; kv < 2; ++kv) {
    Vector<double> want = Vector<double>::Zero(60);
    for (Index h = 3 * kv; h < 3 * kv + 3; ++h) {
      const Matrix<double> q = layer.q.middleCols(8 * h, 8), k = layer.k.middleCols(8 * kv, 8);
      want = want.cwiseMax(key_importance(q, k).largest);
    }
    EXPECT_MATRIX_NEAR(Vector<double>(plan.importance.col(kv)), want, 1e-13);
  }
}

TEST(MonteCarloCall, CountsWhatThePlanSays) {
  const Layer<float> layer(33, 70, 8, 40, 22, 2, 2);
  for_every_way([&](const MonteCarloOptions& options) {
    const MonteCarloValues<float> values(layer.x, layer.w, options);
    const HeadOptions heads{.n_heads = 2};
    AttentionOptions padded;
    padded.mask.n_real_keys = 60;
    const auto plan = values.plan(layer.q, layer.k, padded, ExactAttention{}, {}, heads);
    FlopCounter flops;
    multi_head_attend(layer.q, layer.k, values, heads, padded, ExactAttention{}, {.flops = &flops});
    double samples = 0, exact = 0, sampled = 0;
    for (Index kv = 0; kv < 2; ++kv) {
      for (Index j = 0; j < 70; ++j) {
        const Index r = plan.counts(j, kv);
        samples += r < 40 ? static_cast<double>(r) : 0.0;
        sampled += r > 0 && r < 40 ? 1 : 0;
        exact += r >= 40 ? 1 : 0;
      }
    }
    const double pairs = 2.0 * 33 * 60, means = options.centred ? 2 : 0;
    const bool weights = options.budget != Budget::constant, chooses = options.estimator != Estimator::with_replacement;
    EXPECT_EQ(flops.products(Phase::sample), 2.0 * 11 * samples);
    EXPECT_EQ(flops.products(Phase::project), 2.0 * 11 * 40 * (exact + means));
    EXPECT_EQ(flops.products(Phase::route), (weights ? 4.0 * 8 * pairs : 0.0) + (chooses ? 2.0 * 40 * sampled : 0.0));
    EXPECT_EQ(flops.products(Phase::scores), 2.0 * 8 * pairs);
    EXPECT_EQ(flops.products(Phase::values), 2.0 * 11 * pairs);
    EXPECT_EQ(flops.exponentials(), pairs * (weights ? 3 : 1));
    EXPECT_EQ(flops.sampled_rows(), sampled);
    EXPECT_EQ(flops.projected_rows(), exact);
    EXPECT_EQ(flops.real_tokens(), 120);
    EXPECT_EQ(flops.padded_tokens(), 140);
  });
}

/// Products of a call beside those of the exact one: all that makes value rows.
double share_of_exact(const MonteCarloOptions& options, Index n, Index d_in) {
  const Layer<double> layer(n, n, 8, d_in, 24, 2, 2);
  FlopCounter flops;
  multi_head_attend(layer.q, layer.k, MonteCarloValues<double>(layer.x, layer.w, options), {.n_heads = 2}, {},
                    ExactAttention{}, {.flops = &flops});
  return (flops.products(Phase::sample) + flops.products(Phase::project)) / (2.0 * static_cast<double>(n * d_in) * 24);
}

// What is spent is what was asked for: neither a product a token for rounding, nor the mean row's, comes on top or gets
// lost.
TEST(MonteCarloBudget, SpendsTheFractionThatIsAskedFor) {
  const Index n = 500, d_in = 64;
  for (const Estimator estimator : estimators) {
    for (const double fraction : {0.2, 0.5}) {
      for (const bool centred : {false, true}) {
        MonteCarloOptions options{.seed = 7,
                                  .estimator = estimator,
                                  .budget = Budget::column_norm,
                                  .fraction = fraction,
                                  .centred = centred,
                                  .path = ValuePath::sampled};
        SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)) + ", " + std::to_string(fraction) +
                     (centred ? ", centred" : ""));
        // Rounding up or down to whole products takes 1 / sqrt(12) a token, independent of each other.
        const double rounding = 5 * std::sqrt(static_cast<double>(n) / 12) / static_cast<double>(n * d_in);
        const double spent = share_of_exact(options, n, d_in);
        if (estimator == Estimator::largest) {
          EXPECT_LE(spent, fraction);
          EXPECT_GE(spent, 0.99 * fraction);
          continue;
        }
        EXPECT_NEAR(spent, fraction, rounding);
        options.rounding = Rounding::published;  // rounds down: half a product a token less
        EXPECT_NEAR(share_of_exact(options, n, d_in), fraction - 0.5 / static_cast<double>(d_in), rounding);
      }
    }
  }
}

/// Tokens that are alike have the same products above any floor: what is too much goes one by one, the last of a token
/// too.
TEST(MonteCarloBudget, LargestProductsSpendNoMoreWhereAllTokensAreAlike) {
  const Index n = 40, d_in = 32;
  Matrix<float> x = random_matrix<float>(1, d_in, 1).replicate(n, 1), w_v = random_matrix<float>(d_in, 4, 2);
  const Matrix<float> q = Matrix<float>::Zero(n, 4), k = q;
  for (const double a_token : {0.25, 0.5, 1.5, 2.75}) {
    const MonteCarloValues<float> values(x, w_v,
                                         {.estimator = Estimator::largest,
                                          .budget = Budget::column_norm,
                                          .fraction = a_token / static_cast<double>(d_in),
                                          .path = ValuePath::sampled});
    const double total = a_token * static_cast<double>(n);
    const double spent = static_cast<double>(values.plan(q, k).counts.sum());
    EXPECT_LE(spent, total) << a_token;
    EXPECT_GE(spent, total - 1) << a_token;
  }
}

// With few tokens the mean row costs several products of each.
TEST(MonteCarloBudget, PaysTheMeanRowFromTheSameFraction) {
  const Layer<double> layer(16, 16, 8, 64, 12);
  for (const Estimator estimator : estimators) {
    for (const bool centred : {false, true}) {
      const MonteCarloOptions options{
          .estimator = estimator, .budget = Budget::constant, .centred = centred, .path = ValuePath::sampled};
      const auto plan = MonteCarloValues<double>(layer.x, layer.w, options).plan(layer.q, layer.k);
      for (Index j = 0; j < 16; ++j) EXPECT_EQ(plan.counts(j, 0), centred ? 28 : 32);  // (16 / 2 - 1) * 64 / 16
      EXPECT_DOUBLE_EQ(share_of_exact(options, 16, 64), 0.5);
    }
  }
}

TEST(MonteCarloCall, TakesTheExactProductWhereSamplingWouldBeSlowerAndSaysSo) {
  struct Case {
    Index heads, n, d_in, d_v;
    MonteCarloOptions options;
    bool sampled;
  };
  const MonteCarloOptions no_repeats{
      .estimator = Estimator::without_replacement, .budget = Budget::constant, .fraction = 0.1};
  const MonteCarloOptions product_weighted{
      .estimator = Estimator::product_weighted, .budget = Budget::constant, .fraction = 0.02};
  const Case cases[] = {
      {2, 600, 256, 64, {.budget = Budget::constant, .fraction = 0.05}, true},
      {2, 600, 256, 64, {.budget = Budget::constant, .fraction = 0.9}, false},
      // Few tokens, narrow heads: no layer is too small to be asked.
      {2, 40, 32, 16, {.alpha = 0.4, .seed = 7}, false},
      {2, 40, 32, 16, {.budget = Budget::constant, .fraction = 0.05}, false},
      {2, 512, 256, 16, {.budget = Budget::constant, .fraction = 0.05}, false},
      {2, 512, 256, 64, {.estimator = Estimator::largest, .budget = Budget::column_norm, .fraction = 0.1}, false},
      {2, 512, 256, 64, no_repeats, false},
      {2, 512, 256, 64, product_weighted, false},
      // One head by itself is no special case.
      {1, 40, 32, 16, {}, false},
      {1, 40, 32, 16, {.budget = Budget::constant, .fraction = 0.9}, false},
      {1, 512, 256, 64, no_repeats, false},
      {1, 700, 1024, 64, {.budget = Budget::constant, .fraction = 0.9}, false},
      {1, 600, 256, 64, {.budget = Budget::constant, .fraction = 0.05}, true}};
  for (const Case& one : cases) {
    const Layer<float> layer(4, one.n, 8, one.d_in, one.d_v * one.heads, one.heads, one.heads);
    const HeadOptions heads{.n_heads = one.heads};
    const double rows = static_cast<double>(one.heads * one.n);
    const MonteCarloValues<float> values(layer.x, layer.w, one.options);
    FlopCounter flops, dense;
    const auto got = multi_head_attend(layer.q, layer.k, values, heads, {}, ExactAttention{}, {.flops = &flops});
    EXPECT_EQ(flops.sampled_rows(), one.sampled ? rows : 0);
    EXPECT_EQ(flops.projected_rows(), one.sampled ? 0 : rows);
    const auto plan = values.plan(layer.q, layer.k, {}, ExactAttention{}, {}, heads);
    EXPECT_EQ(plan.exact(one.heads - 1), one.sampled ? 0 : 1);
    EXPECT_EQ(plan.importance.maxCoeff() > 0, one.options.budget != Budget::constant) << "a plan is made all the same";
    const ProjectedValues<float> projected(layer.x, layer.w, {.order = ProjectionOrder::project_first});
    const auto exact = multi_head_attend(layer.q, layer.k, projected, heads, {}, ExactAttention{}, {.flops = &dense});
    EXPECT_EQ((got.out.array() == exact.out.array()).all(), !one.sampled);
    // Exact without a look at the weights: no pass over queries and keys is paid for what is then not used.
    if (!one.sampled) {
      EXPECT_EQ(flops.products(), dense.products());
    }
    // Asked for, every head is sampled.
    MonteCarloOptions always = one.options;
    always.path = ValuePath::sampled;
    const MonteCarloValues<float> estimated(layer.x, layer.w, always);
    flops.reset();
    const auto estimate =
        multi_head_attend(layer.q, layer.k, estimated, heads, {}, ExactAttention{}, {.flops = &flops});
    EXPECT_GT(flops.sampled_rows(), 0);
    EXPECT_FALSE((estimate.out.array() == exact.out.array()).all());
    EXPECT_EQ(estimated.plan(layer.q, layer.k, {}, ExactAttention{}, {}, heads).exact.maxCoeff(), 0);
  }
}

// The first call of a stranger.
TEST(MonteCarloCall, AsTheReadmeWritesItIsExactWhereThatIsFasterAndWithinThePublishedBoundWhereItIsSampled) {
  const Layer<double> layer(30, 60, 8, 48, 16);
  const Matrix<double> exact = attend(layer.q, layer.k, ProjectedValues<double>(layer.x, layer.w)).out;
  const MonteCarloValues<double> sampled(layer.x, layer.w, {.alpha = 0.4, .seed = 7});
  EXPECT_SAME_BITS(attend(layer.q, layer.k, sampled).out, exact);
  const MonteCarloValues<double> always(layer.x, layer.w, {.alpha = 0.4, .seed = 7, .path = ValuePath::sampled});
  const Matrix<double> error = attend(layer.q, layer.k, always).out - exact;
  const double mean_error = error.rowwise().norm().mean();
  EXPECT_GT(mean_error, 0.0);
  EXPECT_LE(mean_error, published_bound(0.4, layer.x.rowwise().norm().mean(), layer.w.norm()));
}

// A budget that needs weights pays for two passes over all scores: worth it for few queries or a short window, not for
// a square.
TEST(MonteCarloCall, CountsThePassesThatFindTheImportance) {
  const MonteCarloOptions options{.budget = Budget::column_norm, .fraction = 0.05};
  const auto sampled_rows = [&](Index n_q, const AttentionOptions& mask) {
    const Layer<float> layer(n_q, 600, 64, 512, 2 * 64, 2, 2);
    const MonteCarloValues<float> values(layer.x, layer.w, options);
    FlopCounter flops;
    multi_head_attend(layer.q, layer.k, values, {.n_heads = 2}, mask, ExactAttention{}, {.flops = &flops});
    const auto plan = values.plan(layer.q, layer.k, mask, ExactAttention{}, {}, {.n_heads = 2});
    EXPECT_EQ(plan.exact(0) == 0, flops.sampled_rows() > 0) << "the plan says what the call does";
    return flops.sampled_rows();
  };
  EXPECT_EQ(sampled_rows(600, {}), 0);
  EXPECT_GT(sampled_rows(600, {.mask = {.window_left = 8, .window_right = 8}}), 0);
  EXPECT_GT(sampled_rows(16, {}), 0);
}

TEST(MonteCarloCall, OverADensePatternIsTheSameBits) {
  const Layer<float> layer(33, 70, 8, 40, 11);
  for_every_way([&](const MonteCarloOptions& options) {
    const MonteCarloValues<float> values(layer.x, layer.w, options);
    const auto want = attend(layer.q, layer.k, values);
    const auto got = attend_over(DensePattern{33, 70}, layer.q, layer.k, values);
    EXPECT_SAME_BITS(got.out, want.out);
    EXPECT_SAME_BITS(got.lse, want.lse);
  });
}

TEST(MonteCarloCall, AllocatesNothingTheSecondTime) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations are not counted here";
  const Layer<float> layer(33, 300, 8, 40, 11);
  for_every_way([&](MonteCarloOptions options) {
    options.bias = layer.b;
    const MonteCarloValues<float> values(layer.x, layer.w, options);
    Matrix<float> out(33, 11);
    Vector<float> lse(33);
    Workspace workspace;
    const auto call = [&] {
      attend_into(out, lse, layer.q, layer.k, values, {}, ExactAttention{}, {.workspace = &workspace, .threads = 1});
    };
    call();
    call();  // the second may move to blocks of the first
    const auto before = allocations();
    call();
    EXPECT_EQ(allocations(), before);
  });
}

TEST(MonteCarloErrors, NameTheOption) {
  const Layer<float> layer(3, 5, 4, 7, 6);
  const auto said = [&](const MonteCarloOptions& options) {
    try {
      MonteCarloValues<float>(layer.x, layer.w, options);
    } catch (const OptionError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  EXPECT_NE(said({.alpha = 0}).find("MonteCarloOptions::alpha = 0 must be > 0"), std::string::npos);
  EXPECT_NE(said({.alpha = INFINITY}).find("alpha"), std::string::npos);
  EXPECT_NE(said({.fraction = 1.5}).find("MonteCarloOptions::fraction = 1.5 must be in (0, 1]"), std::string::npos);
  EXPECT_NE(said({.fraction = 0}).find("fraction"), std::string::npos);
  EXPECT_NE(said({.skip_below = -1}).find("skip_below"), std::string::npos);
  const Matrix<float> short_x = layer.x.leftCols(6);
  EXPECT_THROW(MonteCarloValues<float>(short_x, layer.w), ShapeError);
  EXPECT_THROW(MonteCarloValues<float>(layer.x, layer.w, {.bias = layer.x}), ShapeError);
}

TEST(MonteCarloCall, OfNothingIsEmptyOrZero) {
  const Layer<float> layer(3, 5, 4, 7, 6);
  const Matrix<float> no_k(0, 4), no_x(0, 7), no_q(0, 4);
  for_every_way([&](const MonteCarloOptions& options) {
    EXPECT_EQ(attend(no_q, layer.k, MonteCarloValues<float>(layer.x, layer.w, options)).out.rows(), 0);
    const auto got = attend(layer.q, no_k, MonteCarloValues<float>(no_x, layer.w, options));
    EXPECT_TRUE((got.out.array() == 0.0f).all());
    EXPECT_TRUE(heed::detail::is_minus_infinity(got.lse(0)));
    const auto masked =
        attend(layer.q, layer.k, MonteCarloValues<float>(layer.x, layer.w, options), {.mask = {.n_real_keys = 0}});
    EXPECT_TRUE((masked.out.array() == 0.0f).all());
  });
}

}  // namespace
}  // namespace heed::test::monte_carlo_values
