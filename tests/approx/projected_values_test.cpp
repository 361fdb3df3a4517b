#include "heed/approx/projected_values.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"
#include "support/plain_tree.hpp"
#include "support/rounding.hpp"
#include "support/strided.hpp"

namespace heed::test::projected_values {
namespace {

template <class S>
struct Projection {
  Inputs<S> in;
  Matrix<S> x, w;
  Vector<S> b;

  explicit Projection(const Sizes& sizes, Index d_in) : in(random_inputs<S>(sizes)) {
    x = random_matrix<S>(in.k.rows(), d_in, 91);
    w = random_matrix<S>(d_in, in.v.cols(), 92);
    b = random_matrix<S>(in.v.cols(), 1, 93);
    in.v = ((x.template cast<double>() * w.template cast<double>()).rowwise() + b.template cast<double>().transpose())
               .template cast<S>();
  }
};

template <class S>
void expect_both_orders(const Sizes& sizes, Index d_in) {
  const Projection<S> p(sizes, d_in);
  const OptionStore store(p.in.q.rows(), p.in.k.rows());
  for (const OptionKind& kind : option_kinds(store)) {
    SCOPED_TRACE(std::string(kind.name));
    const AttentionOptions options = options_of(store, kind);
    const auto want = reference_attention(p.in.q.template cast<double>().eval(), p.in.k.template cast<double>().eval(),
                                          p.in.v.template cast<double>().eval(), options);
    // Sums of d_in products of size about 1 a row, and their means.
    const double tolerance = (std::is_same_v<S, double> ? 1e-13 : 2e-5) * std::sqrt(static_cast<double>(d_in)) * 4;
    const double lse_rounding = rounding_of(p.in, options).lse;
    for (const auto order :
         {ProjectionOrder::project_first, ProjectionOrder::attend_first, ProjectionOrder::automatic}) {
      const ProjectedValues<S> values(p.x, p.w, {.bias = p.b, .order = order});
      const auto got = attend(p.in.q, p.in.k, values, options);
      EXPECT_MATRIX_NEAR(got.out, want.out, tolerance);
      EXPECT_MATRIX_NEAR(got.lse, want.lse, lse_rounding);
    }
  }
}

TEST(ProjectedValuesOrder, GivesTheSameEitherWayUnderEveryOption) {
  expect_both_orders<float>({.n_q = 37, .n_k = 113, .d = 16, .d_v = 24}, 65);
  expect_both_orders<double>({.n_q = 5, .n_k = 63, .d = 8, .d_v = 7}, 33);
  expect_both_orders<double>({.n_q = 40, .n_k = 40, .d = 8, .d_v = 3}, 1);
}

TEST(ProjectedValuesOrder, WideHeadsGetTheBiasOfEveryColumn) {
  expect_both_orders<float>({.n_q = 3, .n_k = 70, .d = 8, .d_v = 203}, 20);
  expect_both_orders<double>({.n_q = 2, .n_k = 35, .d = 8, .d_v = 150}, 9);
}

TEST(ProjectedValuesOrder, AutomaticTakesTheOneWithFewerProducts) {
  for (const Index n_q : {1, 300}) {
    const Projection<float> p({.n_q = n_q, .n_k = 300, .d = 16, .d_v = 16}, 64);
    double products[3];
    int at = 0;
    for (const auto order :
         {ProjectionOrder::automatic, ProjectionOrder::project_first, ProjectionOrder::attend_first}) {
      FlopCounter flops;
      attend(p.in.q, p.in.k, ProjectedValues<float>(p.x, p.w, {.order = order}), {}, ExactAttention{},
             {.flops = &flops});
      products[at++] = flops.products();
    }
    EXPECT_EQ(products[0], std::min(products[1], products[2])) << n_q;
    EXPECT_EQ(products[0] == products[2], n_q == 1);
  }
}

TEST(ProjectedValuesHeads, EachHeadEqualsAttentionOnItsColumns) {
  const auto q = random_matrix<float>(63, 6 * 8, 1), k = random_matrix<float>(90, 3 * 8, 2);
  const auto x = random_matrix<float>(90, 50, 3), w = random_matrix<float>(50, 3 * 9, 4);
  const auto b = random_matrix<float>(1, 3 * 9, 5);
  for (const auto order : {ProjectionOrder::project_first, ProjectionOrder::attend_first}) {
    const ProjectedValues<float> values(x, w, {.bias = b, .order = order});
    const auto got = multi_head_attend(q, k, values, {.n_heads = 6, .n_kv_heads = 3});
    for (Index h = 0; h < 6; ++h) {
      const Matrix<float> w_h = w.middleCols(h / 2 * 9, 9), b_h = b.middleCols(h / 2 * 9, 9);
      const Matrix<float> q_h = q.middleCols(h * 8, 8), k_h = k.middleCols(h / 2 * 8, 8);
      const auto want = attend(q_h, k_h, ProjectedValues<float>(x, w_h, {.bias = b_h, .order = order}));
      EXPECT_SAME_BITS(Matrix<float>(got.out.middleCols(h * 9, 9)), want.out);
      EXPECT_SAME_BITS(Vector<float>(got.lse.col(h)), want.lse);
    }
  }
}

TEST(ProjectedValuesCall, ReadsAnyLayoutAndWritesNothingElse) {
  const Projection<float> p({.n_q = 21, .n_k = 50, .d = 8, .d_v = 11}, 19);
  const auto want = attend(p.in.q, p.in.k, ProjectedValues<float>(p.x, p.w, {.bias = p.b}));
  for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
    const Strided<float> x(p.x, layout), w(p.w, layout);
    Strided<float> out(21, 11, layout);
    const auto x_map = x.map();
    const auto w_map = w.map();
    attend_into(out.map(), nullptr, p.in.q, p.in.k, ProjectedValues<float>(x_map, w_map, {.bias = p.b}));
    EXPECT_SAME_BITS(Matrix<float>(out.map()), want.out);
    EXPECT_TRUE(out.surroundings_untouched());
  }
  const Eigen::MatrixXf x_columns = p.x, w_columns = p.w;
  EXPECT_SAME_BITS(attend(p.in.q, p.in.k, ProjectedValues(x_columns, w_columns, {.bias = p.b})).out, want.out);
}

TEST(ProjectedValuesCall, ReadsNoMaskedRow) {
  Projection<float> p({.n_q = 71, .n_k = 333, .d = 8, .d_v = 24}, 50);
  const OptionStore store(71, 333);
  for (const OptionKind& kind : option_kinds(store)) {
    SCOPED_TRACE(std::string(kind.name));
    const AttentionOptions options = options_of(store, kind);
    const std::vector<bool> seen = keys_seen(options.mask, 71, 333);
    Projection<float> spoiled = p;
    for (Index j = 0; j < 333; ++j) {
      if (!seen[static_cast<std::size_t>(j)]) fill(spoiled.x.row(j), nan_of<float>());
    }
    for (const auto order : {ProjectionOrder::project_first, ProjectionOrder::attend_first}) {
      const ProjectedValues<float> values(p.x, p.w, {.bias = p.b, .order = order});
      const auto want = attend(p.in.q, p.in.k, values, options);
      const ProjectedValues<float> with_nan(spoiled.x, spoiled.w, {.bias = spoiled.b, .order = order});
      EXPECT_SAME_BITS(attend(p.in.q, p.in.k, with_nan, options).out, want.out);
    }
  }
}

TEST(ProjectedValuesCall, CountsRealRowsOnly) {
  const Projection<float> p({.n_q = 40, .n_k = 50, .d = 8, .d_v = 11}, 19);
  AttentionOptions padded;
  padded.mask.n_real_keys = 30;
  FlopCounter flops;
  attend(p.in.q, p.in.k, ProjectedValues<float>(p.x, p.w, {.order = ProjectionOrder::project_first}), padded,
         ExactAttention{}, {.flops = &flops});
  EXPECT_EQ(flops.products(Phase::project), 2.0 * 30 * 19 * 11);
  EXPECT_EQ(flops.products(Phase::values), 2.0 * 40 * 30 * 11);
  EXPECT_EQ(flops.projected_rows(), 30);
  flops.reset();
  attend(p.in.q, p.in.k, ProjectedValues<float>(p.x, p.w, {.order = ProjectionOrder::attend_first}), padded,
         ExactAttention{}, {.flops = &flops});
  EXPECT_EQ(flops.products(Phase::project), 2.0 * 40 * 19 * 11);
  EXPECT_EQ(flops.products(Phase::values), 2.0 * 40 * 30 * 19);
}

TEST(ProjectedValuesErrors, NameTheArgument) {
  const Projection<float> p({.n_q = 3, .n_k = 5, .d = 4, .d_v = 6}, 7);
  const auto said = [](const auto& call) {
    try {
      call();
    } catch (const ShapeError& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const Matrix<float> short_x = p.x.leftCols(6);
  const Vector<float> short_b = p.b.head(5);
  EXPECT_NE(said([&] { ProjectedValues<float>(short_x, p.w); }).find("cols(x) = 6 but rows(w_v) = 7"),
            std::string::npos);
  EXPECT_NE(said([&] { ProjectedValues<float>(p.x, p.w, {.bias = short_b}); }).find("bias has 5"), std::string::npos);
}

}  // namespace
}  // namespace heed::test::projected_values
