// Heads keep to themselves: what one head sees, weighs, draws and skips says nothing of the others.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/pattern_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/core/pattern.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/trees.hpp"

namespace heed::test::heads_apart {
namespace {

constexpr Index n_q = 40, n_k = 90, d = 8, d_in = 48, d_v = 6, n_heads = 4, n_kv_heads = 2;
constexpr HeadOptions grouped{.n_heads = n_heads, .n_kv_heads = n_kv_heads};

struct Layer {
  Matrix<double> q = random_matrix<double>(n_q, n_heads*d, 1), k = random_matrix<double>(n_k, n_kv_heads*d, 2),
                 x = random_matrix<double>(n_k, d_in, 3), w = random_matrix<double>(d_in, n_kv_heads*d_v, 4),
                 b = random_matrix<double>(1, n_kv_heads*d_v, 5);
  OptionStore store{n_q, n_k, n_heads};

  Layer() {
    for (Index h = 0; h < n_heads; ++h) {  // so that each head's importance is its own
      store.slopes[static_cast<std::size_t>(h)] = 0.3 * static_cast<double>(h + 1);
      store.sinks[static_cast<std::size_t>(h)] = static_cast<float>(2 * h) - 1.0f;
    }
  }
  Matrix<double> q_of(Index h) const { return q.middleCols(h * d, d); }
  Matrix<double> k_of(Index kv) const { return k.middleCols(kv * d, d); }
  /// The same with the heads of key head kv alone.
  Matrix<double> q_of_group(Index kv) const { return q.middleCols(2 * kv * d, 2 * d); }
  OptionStore store_of_group(Index kv) const {
    OptionStore own = store;
    own.allowed = store.allowed.middleRows(2 * kv * n_q, 2 * n_q);
    own.bias = store.bias.middleRows(2 * kv * n_q, 2 * n_q);
    own.masking_bias = store.masking_bias.middleRows(2 * kv * n_q, 2 * n_q);
    const auto first = static_cast<std::ptrdiff_t>(2 * kv);
    own.slopes = {store.slopes.begin() + first, store.slopes.begin() + first + 2};
    own.sinks = {store.sinks.begin() + first, store.sinks.begin() + first + 2};
    return own;
  }
};

/// Options that differ by head, each by itself and all at once.
std::vector<OptionKind> kinds_by_head() {
  return {
      {"allowed", "", [](AttentionOptions& o, const OptionStore& s) { o.mask.allowed = s.allowed; }},
      {"bias", "", [](AttentionOptions& o, const OptionStore& s) { o.mask.bias = s.bias; }},
      {"masking bias", "", [](AttentionOptions& o, const OptionStore& s) { o.mask.bias = s.masking_bias; }},
      {"slopes", "", [](AttentionOptions& o, const OptionStore& s) { o.mask.alibi_slope = s.slopes; }},
      {"sinks", "", [](AttentionOptions& o, const OptionStore& s) { o.sinks = s.sinks; }},
      {"all", "",
       [](AttentionOptions& o, const OptionStore& s) {
         o.mask.causal = Causal::bottom_right;
         o.mask.allowed = s.allowed, o.mask.bias = s.masking_bias, o.mask.alibi_slope = s.slopes, o.sinks = s.sinks;
       }},
  };
}

/// Every other key, in two segments.
struct EveryOther {
  std::vector<Index> list;
  Index n_queries;
  EveryOther(Index queries, Index keys) : n_queries(queries) {
    for (Index j = 0; j < keys; j += 2) list.push_back(j);
  }
  Index n_groups() const { return 1; }
  TokenSet queries(Index) const { return {0, n_queries}; }
  Index n_segments(Index) const { return 2; }
  TokenSet keys(Index, Index s) const {
    const TokenSet all{0, static_cast<Index>(list.size()), list.data()};
    return s == 0 ? all.part(0, 10) : all.part(10, all.size - 10);
  }
};

/// Calls check(name, method) for methods of every kind of pattern.
template <class Check>
void with_methods(const Check& check) {
  check("exact", ExactAttention{});
  check("window", WindowAttention(19, 6));
  check("bigbird", BigBirdAttention({.block = 8, .n_near = 1, .n_global = 1, .n_random = 2}));
  check("pattern", PatternAttention{[](Index q, Index k) { return EveryOther(q, k); }});
  check("tree", TfAttention<double>(random_tree<double>(2, d)));
  check("tree with window and sinks", TfAttention<double>(random_tree<double>(3, d), {.window_left = 7, .n_sinks = 2}));
}

template <class Check>
void for_every_way(const Check& check) {
  for (const Estimator estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement, Estimator::largest}) {
    for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
      SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)) + ", budget " +
                   std::to_string(static_cast<int>(budget)));
      check(MonteCarloOptions{
          .alpha = 3, .estimator = estimator, .budget = budget, .fraction = 0.3, .path = ValuePath::sampled});
    }
  }
}

TEST(HeadsApart, ImportanceIsThatOfTheHeadsOwnOptions) {
  const Layer layer;
  const Matrix<double> identity = Matrix<double>::Identity(n_k, n_k);
  const MonteCarloValues<double> values(layer.x, layer.w, {.alpha = 3});
  with_methods([&](const std::string& method_name, const auto& method) {
    for (const OptionKind& kind : kinds_by_head()) {
      SCOPED_TRACE(method_name + ", " + std::string(kind.name));
      const auto plan = values.plan(layer.q, layer.k, options_of(layer.store, kind), method, {}, grouped);
      for (Index kv = 0; kv < n_kv_heads; ++kv) {
        Vector<double> want = Vector<double>::Zero(n_k);
        for (const Index h : {2 * kv, 2 * kv + 1}) {
          const OptionStore own = layer.store.head(h);
          const auto weights = attend(layer.q_of(h), layer.k_of(kv), identity, options_of(own, kind), method).out;
          want = want.cwiseMax(Vector<double>(weights.colwise().maxCoeff()));
        }
        EXPECT_MATRIX_NEAR(Vector<double>(plan.importance.col(kv)), want, 1e-12);
        for (Index j = 0; j < n_k; ++j) EXPECT_EQ(plan.kept(j, kv) != 0, want(j) > 0) << "key " << j;
      }
      EXPECT_GT((plan.importance.col(0) - plan.importance.col(1)).norm(), 0.1) << "the heads differ";
    }
  });
}

TEST(HeadsApart, AGroupIsPlannedAsIfItWereAlone) {
  const Layer layer;
  with_methods([&](const std::string& method_name, const auto& method) {
    for (const OptionKind& kind : kinds_by_head()) {
      SCOPED_TRACE(method_name + ", " + std::string(kind.name));
      for_every_way([&](const MonteCarloOptions& options) {
        const auto all = MonteCarloValues<double>(layer.x, layer.w, options)
                             .plan(layer.q, layer.k, options_of(layer.store, kind), method, {}, grouped);
        for (Index kv = 0; kv < n_kv_heads; ++kv) {
          const OptionStore own = layer.store_of_group(kv);
          const Matrix<double> w = layer.w.middleCols(kv * d_v, d_v);
          const auto alone = MonteCarloValues<double>(layer.x, w, options)
                                 .plan(layer.q_of_group(kv), layer.k_of(kv), options_of(own, kind), method, {},
                                       {.n_heads = 2, .n_kv_heads = 1});
          EXPECT_EQ(Vector<Index>(all.counts.col(kv)), Vector<Index>(alone.counts.col(0)));
          EXPECT_EQ(all.exact(kv), alone.exact(0));
        }
      });
    }
  });
}

/// |A[:, j]| over the queries of the heads of one key head, A from the oracle.
Vector<double> column_norms(const Layer& layer, Index kv, const AttentionOptions& options) {
  const Matrix<double> identity = Matrix<double>::Identity(n_k, n_k);
  Vector<double> squares = Vector<double>::Zero(n_k);
  for (const Index h : {2 * kv, 2 * kv + 1}) {
    const auto weights = reference_attention(layer.q_of(h), layer.k_of(kv), identity, options, NoScoreMod{}, h).out;
    squares += Vector<double>(weights.colwise().squaredNorm());
  }
  return squares.cwiseSqrt();
}

TEST(HeadsApart, ColumnNormSharesProductsByTheColumnsOfTheGroupAndTheRowsOfX) {
  Layer layer;
  for (Index j = 0; j < n_k; ++j) layer.x.row(j) *= 0.3 + 0.02 * static_cast<double>((j * 7) % n_k);
  AttentionOptions options;
  options.mask.bias = layer.store.bias;
  options.sinks = layer.store.sinks;
  const MonteCarloValues<double> values(layer.x, layer.w,
                                        {.budget = Budget::column_norm, .fraction = 0.3, .path = ValuePath::sampled});
  const auto plan = values.plan(layer.q, layer.k, options, ExactAttention{}, {}, grouped);
  for (Index kv = 0; kv < n_kv_heads; ++kv) {
    const Vector<double> share = column_norms(layer, kv, options).cwiseProduct(layer.x.rowwise().norm());
    // The factor at which all shares add up to the budget, less half a product a token that rounding up adds.
    double low = 0, high = 1e9;
    for (int step = 0; step < 200; ++step) {
      const double factor = (low + high) / 2, most = d_in;
      double sum = 0;
      for (Index j = 0; j < n_k; ++j) sum += std::min(most, factor * share(j));
      (sum < (0.3 * d_in - 0.5) * n_k ? low : high) = factor;
    }
    for (Index j = 0; j < n_k; ++j) {
      const double wanted = std::min<double>(d_in, high * share(j));
      EXPECT_GE(static_cast<double>(plan.counts(j, kv)), wanted - 1e-6) << "token " << j;
      EXPECT_LE(static_cast<double>(plan.counts(j, kv)), wanted + 1 + 1e-6) << "token " << j;
    }
  }
}

// One floor for all tokens: no product that is left out weighs more than one that is kept, but for the last few that
// are let go one by one to meet the budget.
TEST(HeadsApart, LargestWithColumnNormKeepsWhatWeighsMostOfAllTokens) {
  const Layer layer;
  AttentionOptions options;
  options.mask.bias = layer.store.bias;
  options.sinks = layer.store.sinks;
  const MonteCarloValues<double> values(
      layer.x, layer.w,
      {.estimator = Estimator::largest, .budget = Budget::column_norm, .fraction = 0.3, .path = ValuePath::sampled});
  const auto plan = values.plan(layer.q, layer.k, options, ExactAttention{}, {}, grouped);
  for (Index kv = 0; kv < n_kv_heads; ++kv) {
    const Vector<double> norms = column_norms(layer, kv, options);
    const Vector<double> w_norms = layer.w.middleCols(kv * d_v, d_v).rowwise().norm();
    std::vector<double> all, kept;
    for (Index j = 0; j < n_k; ++j) {
      std::vector<double> sizes;
      for (Index c = 0; c < d_in; ++c) sizes.push_back(norms(j) * std::abs(layer.x(j, c)) * w_norms(c));
      std::sort(sizes.rbegin(), sizes.rend());
      all.insert(all.end(), sizes.begin(), sizes.end());
      kept.insert(kept.end(), sizes.begin(), sizes.begin() + plan.counts(j, kv));
    }
    std::sort(all.rbegin(), all.rend());
    std::sort(kept.rbegin(), kept.rend());
    EXPECT_GE(kept.size(), static_cast<std::size_t>(0.99 * 0.3 * n_k * d_in));
    double most = 0, got = 0;  // squares of what is kept, against the best choice of as many
    for (std::size_t t = 0; t < kept.size(); ++t) {
      most += all[t] * all[t];
      got += kept[t] * kept[t];
    }
    EXPECT_GE(got, 0.999 * most);
  }
}

// Largest draws nothing, so that the whole answer of a head is the same alone and in company.
TEST(HeadsApart, LargestProductsGiveAHeadTheSameAnswerAloneAndInCompany) {
  const Layer layer;
  const MonteCarloOptions options{.estimator = Estimator::largest,
                                  .budget = Budget::column_norm,
                                  .fraction = 0.3,
                                  .bias = layer.b,
                                  .path = ValuePath::sampled};
  with_methods([&](const std::string& method_name, const auto& method) {
    for (const OptionKind& kind : kinds_by_head()) {
      SCOPED_TRACE(method_name + ", " + std::string(kind.name));
      const auto all = multi_head_attend(layer.q, layer.k, MonteCarloValues<double>(layer.x, layer.w, options), grouped,
                                         options_of(layer.store, kind), method);
      for (Index kv = 0; kv < n_kv_heads; ++kv) {
        const OptionStore own = layer.store_of_group(kv);
        const Matrix<double> w = layer.w.middleCols(kv * d_v, d_v), b = layer.b.middleCols(kv * d_v, d_v);
        MonteCarloOptions own_options = options;
        own_options.bias = b;
        const auto alone =
            multi_head_attend(layer.q_of_group(kv), layer.k_of(kv), MonteCarloValues<double>(layer.x, w, own_options),
                              {.n_heads = 2, .n_kv_heads = 1}, options_of(own, kind), method);
        EXPECT_MATRIX_NEAR(all.out.middleCols(2 * kv * d_v, 2 * d_v).eval(), alone.out, 1e-12);
        EXPECT_MATRIX_NEAR(all.lse.middleCols(2 * kv, 2).eval(), alone.lse, 1e-12);
      }
    }
  });
}

/// Rows of value heads with equal weights for tokens with equal rows: what differs was drawn.
Matrix<double> rows_of_equals(Index n_tokens, const MonteCarloOptions& options) {
  const Matrix<double> row = random_matrix<double>(1, d_in, 7), one_w = random_matrix<double>(d_in, d_v, 8);
  const Matrix<double> x = row.replicate(n_tokens, 1), w = one_w.replicate(1, 3);
  const Matrix<double> q = random_matrix<double>(4, 3 * d, 9), k = random_matrix<double>(n_tokens, 3 * d, 10);
  Matrix<double> rows(n_tokens, 3 * d_v);
  MonteCarloValues<double>(x, w, options).value_rows_into(rows, q, k, {}, ExactAttention{}, {}, {.n_heads = 3});
  return (rows.rowwise() - Eigen::RowVectorXd(row * w)).eval();  // the errors
}

// Errors of two heads are uncorrelated over tokens, and so are those of two tokens over what they draw.
TEST(HeadsApart, HeadsShareNoDraws) {
  constexpr Index n_tokens = 1500;
  for (const Estimator estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement}) {
    SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)));
    const Matrix<double> errors = rows_of_equals(
        n_tokens,
        {.seed = 3, .estimator = estimator, .budget = Budget::constant, .fraction = 0.25, .path = ValuePath::sampled});
    // 16 tokens at most share their draws, so that at least n_tokens / 16 errors are independent.
    const double most = 5 / std::sqrt(static_cast<double>(n_tokens) / 16);
    for (const Index a : {0, 1}) {
      for (Index b = a + 1; b < 3; ++b) {
        const auto of_a = errors.middleCols(a * d_v, d_v), of_b = errors.middleCols(b * d_v, d_v);
        const double correlation = of_a.cwiseProduct(of_b).sum() / (of_a.norm() * of_b.norm());
        EXPECT_LT(std::abs(correlation), most) << "heads " << a << " and " << b;
      }
    }
    EXPECT_GT(errors.norm(), 1.0);
  }
}

TEST(HeadsApart, TokensThatChooseForThemselvesShareNoDraws) {
  for (const Estimator estimator : {Estimator::product_weighted, Estimator::without_replacement}) {
    SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)));
    const Matrix<double> errors = rows_of_equals(
        700,
        {.seed = 3, .estimator = estimator, .budget = Budget::constant, .fraction = 0.25, .path = ValuePath::sampled});
    for (const Index apart : {1, 2, 16, 256}) {  // of one group of draws, block and head
      const Matrix<double> of_a = errors.topRows(700 - apart), of_b = errors.bottomRows(700 - apart);
      const double correlation = of_a.cwiseProduct(of_b).sum() / (of_a.norm() * of_b.norm());
      EXPECT_LT(std::abs(correlation), 5 / std::sqrt(700.0)) << "tokens " << apart << " apart";
    }
  }
}

// Published rounding leaves tokens without samples: each head then shows what its rows start from.
TEST(HeadsApart, RowsWithoutSamplesAreTheHeadsOwnMeanRowAndBias) {
  const Layer layer;
  const std::vector<Index> query_offsets{0, 10, 40}, key_offsets{0, 50, 90};
  AttentionOptions packed;
  packed.mask.sequence_offsets = query_offsets;
  packed.mask.key_sequence_offsets = key_offsets;
  const MonteCarloOptions none{
      .alpha = 1e6, .centred = true, .rounding = Rounding::published, .bias = layer.b, .path = ValuePath::sampled};
  Matrix<double> rows(n_k, n_kv_heads * d_v);
  MonteCarloValues<double>(layer.x, layer.w, none)
      .value_rows_into(rows, layer.q, layer.k, packed, ExactAttention{}, {}, grouped);
  for (const auto& [first, n] : {std::pair<Index, Index>{0, 50}, {50, 40}}) {
    const Matrix<double> want = Matrix<double>(layer.x.middleRows(first, n).colwise().mean()) * layer.w + layer.b;
    EXPECT_MATRIX_NEAR(rows.middleRows(first, n).eval(), want.replicate(n, 1).eval(), 1e-12);
  }
}

TEST(HeadsApart, EachHeadSkipsTheTokensThatMatterLittleToIt) {
  const Layer layer;
  AttentionOptions by_head;
  by_head.mask.bias = layer.store.bias;
  const MonteCarloOptions options{.alpha = 1e-6, .bias = layer.b, .skip_below = 0.1, .path = ValuePath::sampled};
  const MonteCarloValues<double> values(layer.x, layer.w, options);
  const auto plan = values.plan(layer.q, layer.k, by_head, ExactAttention{}, {}, grouped);
  Matrix<double> rows(n_k, n_kv_heads * d_v);
  values.value_rows_into(rows, layer.q, layer.k, by_head, ExactAttention{}, {}, grouped);
  const Matrix<double> exact = (layer.x * layer.w).rowwise() + layer.b.row(0);
  Index differ = 0;
  for (Index j = 0; j < n_k; ++j) {
    for (Index kv = 0; kv < n_kv_heads; ++kv) {
      const bool skipped = plan.importance(j, kv) < 0.1;
      EXPECT_EQ(plan.counts(j, kv), skipped ? 0 : d_in);
      const Matrix<double> row = rows.block(j, kv * d_v, 1, d_v), bias = layer.b.middleCols(kv * d_v, d_v);
      EXPECT_MATRIX_NEAR(row, skipped ? bias : Matrix<double>(exact.block(j, kv * d_v, 1, d_v)), 1e-11);
    }
    differ += (plan.counts(j, 0) == 0) != (plan.counts(j, 1) == 0) ? 1 : 0;
  }
  EXPECT_GT(differ, 5) << "the heads skip different tokens";
}

// Every query of key head 1 sees a key alone, which then takes its exact product; key head 0 samples.
TEST(HeadsApart, OneHeadIsMultipliedExactlyAndTheOtherSampled) {
  const Layer layer;
  OptionStore::BoolMatrix allowed = OptionStore::BoolMatrix::Constant(n_heads * n_q, n_k, true);
  allowed.bottomRows(2 * n_q).setConstant(false);
  for (Index i = 0; i < 2 * n_q; ++i) allowed(2 * n_q + i, 9 * (i % 10)) = true;
  AttentionOptions by_head;
  by_head.mask.allowed = allowed;
  const MonteCarloValues<double> values(layer.x, layer.w, {.alpha = 1.4, .path = ValuePath::sampled});
  const auto plan = values.plan(layer.q, layer.k, by_head, ExactAttention{}, {}, grouped);
  EXPECT_EQ(plan.exact(0), 0);
  EXPECT_EQ(plan.exact(1), 1);
  const Matrix<double> exact = layer.x * layer.w;
  for (const Index n_threads : {1, 2}) {
    Matrix<double> rows = Matrix<double>::Zero(n_k, n_kv_heads * d_v);
    FlopCounter flops;
    values.value_rows_into(rows, layer.q, layer.k, by_head, ExactAttention{}, {.flops = &flops, .threads = n_threads},
                           grouped);
    Index sampled = 0;
    for (Index j = 0; j < n_k; ++j) {
      const bool all_products = plan.counts(j, 0) == d_in;
      const Matrix<double> off = rows.block(j, 0, 1, d_v) - exact.block(j, 0, 1, d_v);
      EXPECT_EQ(off.norm() < 1e-12, all_products) << "token " << j;
      sampled += all_products ? 0 : 1;
      EXPECT_EQ(plan.counts(j, 1), j % 9 == 0 ? d_in : 0);
      if (j % 9 == 0) {
        EXPECT_MATRIX_NEAR(rows.block(j, d_v, 1, d_v).eval(), exact.block(j, d_v, 1, d_v).eval(), 1e-12);
      }
    }
    EXPECT_GT(sampled, 10);
    EXPECT_EQ(flops.sampled_rows(), static_cast<double>(sampled));
  }
}

}  // namespace
}  // namespace heed::test::heads_apart
