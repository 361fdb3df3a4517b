// What TC-attention makes of each key, against its weights written out.
#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/exact/importance.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/tc_formula.hpp"
#include "support/trees.hpp"

namespace heed::test::tc_importance {
namespace {

Vector<double> logits_of(Index levels) {
  Vector<double> logits(levels);
  for (Index t = 0; t < levels; ++t) logits(t) = 0.4 * static_cast<double>(t % 3) - 0.1 * static_cast<double>(t);
  return logits;
}

TcAttention<double> tc_of(Index height, Index d, const TcOptions& options, std::uint64_t seed = 1) {
  return {height == 0 ? DecisionTree<double>() : random_tree<double>(height, d, seed), logits_of(height + 1), options};
}

/// A itself: the formula over the identity as values.
Matrix<double> weights_of(const TcAttention<double>& tc, Inputs<double> in, const AttentionOptions& options) {
  in.v = Matrix<double>::Identity(in.k.rows(), in.k.rows());
  return tc_formula(tc, in, options).out;
}

void expect_columns(const KeyImportance<double>& got, const Matrix<double>& weights) {
  ASSERT_EQ(got.largest.size(), weights.cols());
  for (Index j = 0; j < weights.cols(); ++j) {
    ASSERT_NEAR(got.largest(j), weights.col(j).maxCoeff(), 1e-14) << "key " << j;
    ASSERT_NEAR(got.norm(j), weights.col(j).norm(), 1e-14) << "key " << j;
  }
}

AttentionOptions all_of(const OptionStore& store, const std::vector<OptionKind>& kinds) {
  AttentionOptions options;
  for (const OptionKind& kind : kinds) kind.apply(options, store);
  return options;
}

TEST(TcImportance, EqualsTheColumnsOfTheWeightsUnderEveryMask) {
  // Height 6 over a few keys: most nodes are empty.
  const Sizes sizes[] = {{.n_q = 65, .n_k = 113, .d = 9}, {.n_q = 1, .n_k = 1, .d = 4},
                         {.n_q = 203, .n_k = 64, .d = 5}, {.n_q = 64, .n_k = 64, .d = 8},
                         {.n_q = 40, .n_k = 7, .d = 6},   {.n_q = 1, .n_k = 130, .d = 6},
                         {.n_q = 9, .n_k = 1, .d = 3},    {.n_q = 113, .n_k = 113, .d = 8}};
  for (const bool by_query : {false, true}) {
    for (const Index height : {0, 1, 3, 6}) {
      for (const Sizes& size : sizes) {
        const auto in = random_inputs<double>(size);
        const OptionStore store(in.q.rows(), in.k.rows());
        const TcAttention<double> tc = tc_of(height, size.d, {.by_query = by_query});
        const auto check = [&](const std::vector<OptionKind>& kinds) {
          std::string names = "height " + std::to_string(height) + (by_query ? ", by query" : "");
          for (const OptionKind& kind : kinds) names += ", " + std::string(kind.name);
          SCOPED_TRACE(names);
          const AttentionOptions options = all_of(store, kinds);
          expect_columns(key_importance(in.q, in.k, options, tc), weights_of(tc, in, options));
        };
        std::vector<OptionKind> kinds;
        for (const OptionKind& kind : option_kinds(store)) {
          if (kind.group == "causal" || kind.group == "padding" || kind.group == "sequences") kinds.push_back(kind);
        }
        check({});
        for (const OptionKind& a : kinds) {
          check({a});
          for (const OptionKind& b : kinds) {
            if (!fit_together(a, b)) continue;
            check({a, b});
            for (const OptionKind& c : kinds) {
              if (fit_together(a, c) && fit_together(b, c)) check({a, b, c});
            }
          }
        }
      }
    }
  }
}

TEST(TcImportance, ALevelThatIsOffGivesNoWeight) {
  const auto in = random_inputs<double>({.n_q = 30, .n_k = 50, .d = 6});
  Vector<double> logits = logits_of(4);
  logits(0) = logits(2) = minus_infinity_of<double>();
  const TcAttention<double> tc(random_tree<double>(3, 6), logits);
  const auto got = key_importance(in.q, in.k, {}, tc);
  expect_columns(got, weights_of(tc, in, {}));
}

TEST(TcImportance, OfHeadsThatShareKeysIsOverAllOfThem) {
  constexpr Index d = 5, n_q = 33, n_k = 47;
  const Matrix<double> q = random_matrix<double>(n_q, 4 * d, 1), k = random_matrix<double>(n_k, 2 * d, 2);
  const Matrix<double> x = random_matrix<double>(n_k, 16, 3), w = random_matrix<double>(16, 6, 4);
  const AttentionOptions causal{.mask = {.causal = Causal::bottom_right}};
  const std::vector<TcAttention<double>> each{tc_of(3, d, {}, 1), tc_of(3, d, {}, 2),
                                              tc_of(2, d, {.by_query = true}, 3), tc_of(4, d, {}, 4)};
  const std::vector<TcAttention<double>> alike(4, each[0]);
  const auto check = [&](const auto& method, const std::vector<TcAttention<double>>& of_head) {
    Matrix<double> largest(n_k, 2), norm(n_k, 2);
    using Call = heed::detail::HeadCall<double, double, double>;
    std::vector<Call> calls;
    for (Index h = 0; h < 4; ++h)
      calls.push_back({view_of(q).columns(h * d, d), view_of(k).columns(h / 2 * d, d), {}, {}, nullptr, 1, h});
    Workspace workspace;
    Vector<double> top(2 * n_k), sum(2 * n_k);
    Workspace::Frame frame(workspace);
    const heed::detail::MethodRun<std::remove_cvref_t<decltype(method)>> run(method, frame);
    heed::detail::key_importance(std::span<const Call>(calls), Index(2), causal, run, {.workspace = &workspace},
                                 heed::detail::ColumnSums<double>{top.data(), sum.data()});
    const auto plan = MonteCarloValues<double>(x, w).plan(q, k, causal, method, {}, {.n_heads = 4, .n_kv_heads = 2});
    for (Index kv = 0; kv < 2; ++kv) {
      Matrix<double> both(2 * n_q, n_k);
      for (Index g = 0; g < 2; ++g) {
        Inputs<double> in{q.middleCols((2 * kv + g) * d, d), k.middleCols(kv * d, d), Matrix<double>::Zero(n_k, 1)};
        both.middleRows(g * n_q, n_q) = weights_of(of_head[static_cast<std::size_t>(2 * kv + g)], in, causal);
      }
      expect_columns({top.segment(kv * n_k, n_k), sum.segment(kv * n_k, n_k)}, both);
      EXPECT_MATRIX_NEAR(Vector<double>(plan.importance.col(kv)), Vector<double>(top.segment(kv * n_k, n_k)), 0.0);
    }
  };
  check(each, each);
  check(each[0], alike);
}

TEST(TcImportance, SmallNormsAreNotLostBesideLargeOnes) {
  // The first query has a leaf of its own and gives its one key all of its weight; the keys of the rest get little from
  // anybody.
  constexpr Index n = 400;
  Matrix<float> q = Matrix<float>::Constant(n, 1, -1.0f), k = q;
  q(0, 0) = k(0, 0) = 1.0f;
  Vector<float> logits(2);
  logits << -9.0f, 9.0f;
  const TcAttention<float> tc(DecisionTree<float>(Matrix<float>::Ones(1, 1), Vector<float>::Zero(1).eval()), logits);
  const auto got = key_importance(q, k, {}, tc);
  const double root = 1 / (1 + std::exp(18.0)) / n, leaf = 1 / (1 + std::exp(-18.0)) / (n - 1);
  const double want = std::sqrt((n - 1) * (root + leaf) * (root + leaf) + root * root);
  for (Index j = 1; j < n; ++j) EXPECT_NEAR(static_cast<double>(got.norm(j)) / want, 1.0, 1e-5);
}

TEST(TcImportance, CountsItsWorkAndNothingElse) {
  constexpr double n_q = 33, n_k = 47, n_real = 40, d = 5, levels = 4;
  const auto in = random_inputs<double>({.n_q = 33, .n_k = 47, .d = 5});
  const AttentionOptions padded{.mask = {.n_real_keys = 40}};
  for (const bool by_query : {false, true}) {
    FlopCounter flops;
    key_importance(in.q, in.k, padded, tc_of(3, 5, {.by_query = by_query}), {.flops = &flops});
    const double keys = by_query ? d : 0;
    EXPECT_EQ(flops.products(Phase::route),
              2.0 * 3 * d * (n_q + n_real) + levels * (n_q * (5 + 2 * keys) + n_real * (1 + keys)));
    EXPECT_EQ(flops.products(), flops.products(Phase::route));
    EXPECT_EQ(flops.exponentials(), levels * n_q);
    EXPECT_EQ(flops.padded_tokens(), 0.0 * n_k);
  }
}

TEST(TcImportance, AQueryThatIsNaNGivesNoWeightAndPaddingIsNotRead) {
  auto in = random_inputs<double>({.n_q = 20, .n_k = 30, .d = 6});
  const TcAttention<double> tc = tc_of(3, 6, {.by_query = true});
  const AttentionOptions padded{.mask = {.n_real_keys = 25}};
  const auto clean = key_importance(in.q.bottomRows(19).eval(), in.k, padded, tc);
  fill(in.k.bottomRows(5), nan_of<double>());
  fill(in.q.row(0), nan_of<double>());
  const auto got = key_importance(in.q, in.k, padded, tc);
  EXPECT_MATRIX_NEAR(got.largest, clean.largest, 1e-15);
  EXPECT_MATRIX_NEAR(got.norm, clean.norm, 1e-15);
  EXPECT_EQ(got.largest(27), 0.0);
}

}  // namespace
}  // namespace heed::test::tc_importance
