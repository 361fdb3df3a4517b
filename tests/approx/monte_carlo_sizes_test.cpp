// Values made during the call where a size is 0, by itself and with others.
#include <string>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/bigbird_attention.hpp"
#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/trees.hpp"

namespace heed::test::monte_carlo_sizes {
namespace {

struct Empty {
  const char* name;
  Index n_q, n_k, d, d_in, d_v;  // of one head
};

constexpr Empty sizes[] = {
    {"no columns of values", 9, 70, 8, 40, 0},
    {"no columns of x", 9, 70, 8, 0, 5},
    {"no columns at all", 9, 70, 0, 0, 0},
    {"no keys", 9, 0, 8, 40, 5},
    {"no queries", 0, 70, 8, 40, 5},
    {"no tokens", 0, 0, 8, 40, 5},
    {"no columns of queries", 9, 70, 0, 40, 5},
    {"no keys, no columns", 9, 0, 8, 40, 0},
    {"no keys, no x", 9, 0, 8, 0, 5},
    {"no queries, no columns", 0, 70, 8, 40, 0},
    {"no queries, no x", 0, 70, 8, 0, 5},
    {"nothing", 0, 0, 0, 0, 0},
};
const HeadOptions heads_of_calls[] = {{.n_heads = 1}, {.n_heads = 4, .n_kv_heads = 2}};

/// What the call means, in plain loops: b for each key where rows of x are empty.
template <class S>
void expect_answer(const Matrix<S>& out, const Matrix<S>& lse, const Matrix<S>& q, const Matrix<S>& k,
                   const Matrix<S>& b, const Empty& size, const HeadOptions& heads, const AttentionOptions& options) {
  ASSERT_EQ(out.rows(), size.n_q);
  ASSERT_EQ(out.cols(), size.d_v * heads.n_heads);
  ASSERT_EQ(lse.rows(), size.n_q);
  for (Index h = 0; h < heads.n_heads; ++h) {
    const Index kv = h * heads.n_kv_heads.value_or(heads.n_heads) / heads.n_heads;
    const Matrix<S> q_h = q.middleCols(h * size.d, size.d), k_h = k.middleCols(kv * size.d, size.d);
    const Matrix<S> v = b.middleCols(kv * size.d_v, size.d_v).replicate(size.n_k, 1);
    const auto want = reference_attention(q_h, k_h, v, options);
    if (size.d_in == 0) {
      EXPECT_MATRIX_NEAR(Matrix<S>(out.middleCols(h * size.d_v, size.d_v)), want.out, 1e-5);
    }
    EXPECT_MATRIX_NEAR(Vector<S>(lse.col(h)), want.lse, 1e-5);
    if (size.n_k == 0) {
      EXPECT_TRUE((out.array() == S(0)).all());
    }
  }
}

/// Calls of one value source, made by make(x, w_v, b), of every size under every number of heads.
template <class S, class Make, class Check>
void for_every_size(const Make& make, const Check& check) {
  for (const Empty& size : sizes) {
    for (const HeadOptions& heads : heads_of_calls) {
      SCOPED_TRACE(std::string(size.name) + ", " + std::to_string(heads.n_heads) + " heads");
      const Index n_kv = heads.n_kv_heads.value_or(heads.n_heads);
      const auto q = random_matrix<S>(size.n_q, size.d * heads.n_heads, 1);
      const auto k = random_matrix<S>(size.n_k, size.d * n_kv, 2), x = random_matrix<S>(size.n_k, size.d_in, 3);
      const auto w = random_matrix<S>(size.d_in, size.d_v * n_kv, 4), b = random_matrix<S>(1, size.d_v * n_kv, 5);
      const AttentionOptions options{.scale = 0.5};  // the default is for columns of queries
      const auto values = make(x, w, b);
      const auto got = multi_head_attend(q, k, values, heads, options);
      expect_answer<S>(got.out, got.lse, q, k, b, size, heads, options);
      check(values, q, k, x, b, size, heads, options);
      if (heads.n_heads != 1) continue;
      const auto one = attend(q, k, values, options);
      EXPECT_SAME_BITS(one.out, got.out);
      const auto over = attend_over(DensePattern{size.n_q, size.n_k}, q, k, values, options);
      EXPECT_SAME_BITS(over.out, got.out);
    }
  }
}

template <class S>
void expect_sampled() {
  for (const Estimator estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement, Estimator::largest}) {
    for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
      for (const bool centred : {false, true}) {
        for (const ValuePath path : {ValuePath::fastest, ValuePath::sampled}) {
          SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)) + ", budget " +
                       std::to_string(static_cast<int>(budget)) + (centred ? ", centred" : "") +
                       (path == ValuePath::sampled ? ", sampled" : ""));
          const auto make = [&](const auto& x, const auto& w, const auto& b) {
            return MonteCarloValues<S>(x, w,
                                       {.alpha = 1.1,
                                        .estimator = estimator,
                                        .budget = budget,
                                        .fraction = 0.4,
                                        .centred = centred,
                                        .bias = b,
                                        .path = path});
          };
          for_every_size<S>(make, [](const auto& values, const auto& q, const auto& k, const auto& x, const auto& b,
                                     const Empty& size, const HeadOptions& heads, const AttentionOptions& options) {
            Matrix<S> rows = Matrix<S>::Constant(size.n_k, b.cols(), S(-77));
            values.value_rows_into(rows, q, k, options, ExactAttention{}, {}, heads);
            if (size.d_in == 0) {
              EXPECT_SAME_BITS(rows, Matrix<S>(b.replicate(size.n_k, 1)));
            }
            const auto plan = values.plan(q, k, options, ExactAttention{}, {}, heads);
            EXPECT_EQ(plan.counts.rows(), size.n_k);
            EXPECT_EQ(plan.d_in, x.cols());
            if (size.n_k > 0 && size.d_in == 0) {
              EXPECT_EQ(plan.counts.maxCoeff(), 0);
              EXPECT_EQ(plan.exact.minCoeff(), 1);
              EXPECT_EQ(plan.real_share(), 0.0);
            }
          });
        }
      }
    }
  }
}

TEST(MonteCarloSizes, MayAllBeZeroWhateverIsSampled) {
  expect_sampled<float>();
  expect_sampled<double>();
}

template <class S>
void expect_projected() {
  for (const ProjectionOrder order :
       {ProjectionOrder::automatic, ProjectionOrder::project_first, ProjectionOrder::attend_first}) {
    SCOPED_TRACE("order " + std::to_string(static_cast<int>(order)));
    const auto make = [&](const auto& x, const auto& w, const auto& b) {
      return ProjectedValues<S>(x, w, {.bias = b, .order = order});
    };
    for_every_size<S>(make, [](const auto& values, const auto&, const auto&, const auto&, const auto& b,
                               const Empty& size, const HeadOptions&, const AttentionOptions&) {
      Matrix<S> rows = Matrix<S>::Constant(size.n_k, b.cols(), S(-77));
      values.value_rows_into(rows);
      if (size.d_in == 0) {
        EXPECT_SAME_BITS(rows, Matrix<S>(b.replicate(size.n_k, 1)));
      }
    });
  }
}

TEST(ProjectedSizes, MayAllBeZeroInEitherOrder) {
  expect_projected<float>();
  expect_projected<double>();
}

template <class Method>
void expect_over(const Method& method) {
  for (const Empty& size : sizes) {
    if (size.d != 8) continue;  // trees have planes of that width
    SCOPED_TRACE(size.name);
    const auto q = random_matrix<float>(size.n_q, size.d, 1), k = random_matrix<float>(size.n_k, size.d, 2);
    const auto x = random_matrix<float>(size.n_k, size.d_in, 3), w = random_matrix<float>(size.d_in, size.d_v, 4);
    const auto b = random_matrix<float>(1, size.d_v, 5);
    const Matrix<float> v = b.replicate(size.n_k, 1);
    const auto want = attend(q, k, v, {}, method);
    const auto expect_same = [&](const auto& values) {
      const auto got = attend(q, k, values, {}, method);
      EXPECT_SAME_BITS(got.lse, want.lse);
      ASSERT_EQ(got.out.rows(), size.n_q);
      ASSERT_EQ(got.out.cols(), size.d_v);
      if (size.d_in == 0) {
        EXPECT_MATRIX_NEAR(got.out, want.out, 1e-5);
      }
    };
    for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
      expect_same(MonteCarloValues<float>(
          x, w, {.budget = budget, .fraction = 0.4, .centred = true, .bias = b, .path = ValuePath::sampled}));
    }
    for (const ProjectionOrder order : {ProjectionOrder::project_first, ProjectionOrder::attend_first})
      expect_same(ProjectedValues<float>(x, w, {.bias = b, .order = order}));
  }
}

TEST(MonteCarloSizes, MayBeZeroOverEveryMethod) {
  const DecisionTree<float> tree = random_tree<float>(2, 8);
  expect_over(TfAttention<float>(tree));
  expect_over(TfAttention<float>(tree, {.window_left = 3, .n_sinks = 2}));
  expect_over(TcAttention<float>(tree, Vector<float>::Zero(3).eval()));
  expect_over(WindowAttention(5, 2));
  expect_over(BigBirdAttention({.block = 8}));
}

// What has one column or none is contiguous whichever way it is stored.
TEST(ProjectedSizes, RowsOfOneColumnOrNoneGoIntoAMatrixOfEitherOrder) {
  const auto x = random_matrix<float>(9, 5, 1), w = random_matrix<float>(5, 1, 2);
  Eigen::MatrixXf columns(9, 1), none(9, 0);
  Matrix<float> rows(9, 1);
  ProjectedValues<float>(x, w).value_rows_into(columns);
  ProjectedValues<float>(x, w).value_rows_into(rows);
  EXPECT_SAME_BITS(columns, rows);
  const Matrix<float> no_w(5, 0);
  EXPECT_NO_THROW(ProjectedValues<float>(x, no_w).value_rows_into(none));
}

}  // namespace
}  // namespace heed::test::monte_carlo_sizes
