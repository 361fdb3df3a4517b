#include "heed/approx/projected_gradients.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Cholesky>
#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "heed/engine/transposed_product.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/trees/fit_tree.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/strided.hpp"

namespace heed::test::value_gradients {
namespace {

/// Queries, keys and value operands of packed heads, and the gradient of their output.
template <class S>
struct Layer {
  Index d_in, d_v;
  HeadOptions heads;
  Matrix<S> q, k, x, w, b, d_out;

  struct Shape {
    Index n_q = 37, n_k = 53, d_in = 13, d_v = 17, n_heads = 1, n_kv = 1;
  };
  explicit Layer(const Shape& shape)
      : d_in(shape.d_in),
        d_v(shape.d_v),
        heads{.n_heads = shape.n_heads, .n_kv_heads = shape.n_kv},
        q(random_matrix<S>(shape.n_q, 6 * shape.n_heads, 1)),
        k(random_matrix<S>(shape.n_k, 6 * shape.n_kv, 2)),
        x(random_matrix<S>(shape.n_k, shape.d_in, 3)),
        w(random_matrix<S>(shape.d_in, shape.d_v * shape.n_kv, 4)),
        b(random_matrix<S>(1, shape.d_v * shape.n_kv, 5)),
        d_out(random_matrix<S>(shape.n_q, shape.d_v * shape.n_heads, 6)) {}
  Index n_kv() const { return w.cols() / d_v; }
};

/// Members that a caller may bring in any layout; those of size 0 are not wanted.
template <class S>
struct Brought {
  HeadMap<S> d_q, d_k, d_x, d_w_v;
  Vector<Accumulator<S>> d_b_v;
};

template <class G>
double largest_of(const G& m) {
  return m.size() == 0 ? 0.0 : static_cast<double>(m.cwiseAbs().maxCoeff());
}

#define EXPECT_ENTRIES_NEAR(got, want, relative) \
  EXPECT_MATRIX_NEAR(got, want, (relative)*std::max(1.0, largest_of(want)))

template <class G>
void expect_same_gradients(const G& got, const G& want) {
  EXPECT_SAME_BITS(got.d_q, want.d_q);
  EXPECT_SAME_BITS(got.d_k, want.d_k);
  EXPECT_SAME_BITS(got.d_x, want.d_x);
  EXPECT_SAME_BITS(got.d_w_v, want.d_w_v);
  EXPECT_SAME_BITS(got.d_b_v, want.d_b_v);
}

/// Every way to sample, at a budget that leaves some tokens sampled, some whole and some without samples.
template <class Check>
void for_every_estimator(const Check& check) {
  for (const Estimator estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement, Estimator::largest}) {
    for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
      for (const bool centred : {false, true}) {
        SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)) + ", budget " +
                     std::to_string(static_cast<int>(budget)) + (centred ? ", centred" : ""));
        check(MonteCarloOptions{.alpha = 5,
                                .seed = 7,
                                .estimator = estimator,
                                .budget = budget,
                                .fraction = 0.4,
                                .centred = centred,
                                .skip_below = 0.03,
                                .path = ValuePath::sampled});
      }
    }
  }
}

// --- products -----------------------------------------------------------------------------------------------------

template <class S>
void expect_transposed_products() {
  using T = Accumulator<S>;
  Workspace workspace;
  for (const auto& [n, d, columns] : {std::array<Index, 3>{53, 37, 65}, {203, 113, 7}, {1, 1, 1}, {300, 49, 300}}) {
    const Matrix<S> a_rows = random_matrix<S>(n, d, 1);
    const Matrix<T> b = random_matrix<T>(n, columns, 2);
    std::vector<Index> some;
    for (Index j = 0; j < n; ++j) {
      if (j % 3 != 1) some.push_back(j);
    }
    for (const Layout layout : {Layout::rows, Layout::columns, Layout::both}) {
      const Strided<S> a(a_rows, layout);
      for (const TokenSet tokens :
           {TokenSet{0, n}, TokenSet{0, static_cast<Index>(some.size()), some.data()}, TokenSet{0, 0}}) {
        Matrix<T> want = Matrix<T>::Zero(d, columns), sizes = want;
        for (Index t = 0; t < tokens.size; ++t) {
          for (Index k = 0; k < d; ++k) {
            for (Index c = 0; c < columns; ++c) {
              const T term = static_cast<T>(a_rows(tokens[t], k)) * b(tokens[t], c);
              want(k, c) += term;
              sizes(k, c) += std::abs(term);
            }
          }
        }
        Strided<T> got(d, columns, layout), again(d, columns, layout);
        heed::detail::multiply_transposed(view_of(a.map()), view_of(b), tokens, output_view_of(got.map()), workspace,
                                          1);
        heed::detail::multiply_transposed(view_of(a.map()), view_of(b), tokens, output_view_of(again.map()), workspace,
                                          3);
        EXPECT_SAME_BITS(got.map(), again.map());
        EXPECT_TRUE(got.surroundings_untouched());
        // Both sums round as often as they have terms.
        const double unit = static_cast<double>(Eigen::NumTraits<T>::epsilon()) * static_cast<double>(n);
        EXPECT_MATRIX_NEAR(got.map(), want, unit * std::max(1.0, largest_of(sizes)));
      }
    }
  }
}

TEST(TransposedProduct, IsTheSumOverTheTokensInAnyLayout) {
  expect_transposed_products<double>();
  expect_transposed_products<float>();
  expect_transposed_products<Eigen::half>();
}

// --- exact products -----------------------------------------------------------------------------------------------

/// What the chain rule says of X W + b, from the gradient of stored rows, by plain loops; in double.
struct ExactFormula {
  Matrix<double> d_x, d_w, d_b;
  ExactFormula(const Matrix<double>& x, const Matrix<double>& w, const Matrix<double>& d_v, Index n_real)
      : d_x(Matrix<double>::Zero(x.rows(), x.cols())),
        d_w(Matrix<double>::Zero(w.rows(), w.cols())),
        d_b(Matrix<double>::Zero(w.cols(), 1)) {
    for (Index j = 0; j < n_real; ++j) {
      for (Index c = 0; c < w.cols(); ++c) {
        d_b(c, 0) += d_v(j, c);
        if (d_v(j, c) == 0) continue;
        for (Index k = 0; k < x.cols(); ++k) {
          d_x(j, k) += d_v(j, c) * w(k, c);
          d_w(k, c) += x(j, k) * d_v(j, c);
        }
      }
    }
  }
};

/// Central differences of the loss <d_out, out> by some entries of `m`, out being what `attend_now` returns.
template <class M, class AttendNow>
void expect_differences(M& m, const Matrix<double>& got, double step, double tolerance, const Matrix<double>& d_out,
                        const AttendNow& attend_now) {
  for (Index e = 0; e < m.size(); e += 1 + m.size() / 23) {
    double& entry = m(e / m.cols(), e % m.cols());
    if (is_nan(entry)) continue;
    const double before = entry;
    entry = before + step;
    const double above = attend_now().cwiseProduct(d_out).sum();
    entry = before - step;
    const double below = attend_now().cwiseProduct(d_out).sum();
    entry = before;
    EXPECT_NEAR(got(e / m.cols(), e % m.cols()), (above - below) / (2 * step), tolerance) << "entry " << e;
  }
}

TEST(ProjectedValuesGradient, AgreesWithCentralDifferencesByEveryOperand) {
  for (const bool padded : {false, true}) {
    for (const auto& shape : {Layer<double>::Shape{}, {.n_heads = 6, .n_kv = 3}, {.n_q = 1, .d_in = 3, .d_v = 40}}) {
      Layer<double> in(shape);
      AttentionOptions options{.mask = {.causal = Causal::bottom_right}};
      if (padded) {
        options = {.mask = {.causal = Causal::none, .n_real_keys = 41}};
        in.x.bottomRows(12).setConstant(nan_of<double>());
        in.k.bottomRows(12).setConstant(nan_of<double>());
      }
      for (const ProjectionOrder order : {ProjectionOrder::project_first, ProjectionOrder::attend_first}) {
        const ProjectedValues<double> values(in.x, in.w, {.bias = in.b, .order = order});
        const auto attend_now = [&] { return multi_head_attend(in.q, in.k, values, in.heads, options).out; };
        const auto got = multi_head_attend_backward(
            in.d_out, in.q, in.k, values, multi_head_attend(in.q, in.k, values, in.heads, options), in.heads, options);
        EXPECT_TRUE(got.d_x.bottomRows(padded ? 12 : 0).isZero(0));
        const Matrix<double> d_b = got.d_b_v.transpose();
        // out is linear in x, w and b: a difference has no error but rounding, whatever its step.
        expect_differences(in.x, got.d_x, 0.5, 1e-10, in.d_out, attend_now);
        expect_differences(in.w, got.d_w_v, 0.5, 1e-10, in.d_out, attend_now);
        expect_differences(in.b, d_b, 0.5, 1e-10, in.d_out, attend_now);
        // Third derivatives times step^2, and rounding of sums near 100 over the step.
        expect_differences(in.q, got.d_q, 1e-5, 1e-7, in.d_out, attend_now);
        expect_differences(in.k, got.d_k, 1e-5, 1e-7, in.d_out, attend_now);
      }
    }
  }
}

template <class S>
void expect_exact_formula(double tolerance) {
  const Layer<S> in({.n_q = 113, .n_k = 203, .d_in = 65, .d_v = 37, .n_heads = 4, .n_kv = 2});
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 40, .n_real_keys = 190}};
  const ProjectedValues<S> values(in.x, in.w, {.bias = in.b});
  const auto r = multi_head_attend(in.q, in.k, values, in.heads, options);
  const auto got = multi_head_attend_backward(in.d_out, in.q, in.k, values, r, in.heads, options);
  Matrix<S> rows(203, 74);
  values.value_rows_into(rows);
  const auto stored = multi_head_attend_backward(in.d_out, in.q, in.k, rows, r, in.heads, options);
  EXPECT_SAME_BITS(got.d_q, stored.d_q);
  EXPECT_SAME_BITS(got.d_k, stored.d_k);
  const Matrix<double> d_v = stored.d_v.template cast<double>();
  const ExactFormula want(in.x.template cast<double>(), in.w.template cast<double>(), d_v, 190);
  EXPECT_ENTRIES_NEAR(got.d_x, want.d_x, tolerance);
  EXPECT_ENTRIES_NEAR(got.d_w_v, want.d_w, tolerance);
  EXPECT_ENTRIES_NEAR(got.d_b_v, want.d_b, tolerance);
  for (const int threads : {2, 3}) {
    expect_same_gradients(multi_head_attend_backward(in.d_out, in.q, in.k, values, r, in.heads, options,
                                                     ExactAttention<>{}, {.threads = threads}),
                          got);
  }
}

TEST(ProjectedValuesGradient, IsTheGradientOfItsRowsTimesWAndX) {
  // Units of what is stored, of rows of d_v too; sums of up to 203 terms in the accumulator.
  expect_exact_formula<double>(1e-13);
  expect_exact_formula<float>(2e-5);
  expect_exact_formula<Eigen::bfloat16>(3e-2);
}

TEST(ProjectedValuesGradient, AnyLayoutGivesTheSameBitsAndTouchesNothingElse) {
  const Layer<float> in({.n_q = 37, .n_k = 65, .d_in = 53, .d_v = 19});
  const MonteCarloOptions largest{.estimator = Estimator::largest,
                                  .budget = Budget::constant,
                                  .centred = true,
                                  .bias = in.b,
                                  .path = ValuePath::sampled};
  const auto check = [&](const auto& make) {
    const auto plain = make(in.x, in.w);
    const auto r = attend(in.q, in.k, plain);
    const auto want = attend_backward(in.d_out, in.q, in.k, plain, r);
    for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
      const Strided<float> x(in.x, layout), w(in.w, layout);
      Strided<float> d_q(37, 6, layout), d_k(65, 6, layout), d_x(65, 53, layout), d_w(53, 19, layout);
      Brought<float> grads{d_q.map(), d_k.map(), d_x.map(), d_w.map(), Vector<float>(19)};
      const HeadMap<const float> x_map = x.map(), w_map = w.map();
      attend_backward_into(grads, in.d_out, in.q, in.k, make(x_map, w_map), r.out, r.lse);
      EXPECT_SAME_BITS(d_q.map(), want.d_q);
      EXPECT_SAME_BITS(d_x.map(), want.d_x);
      EXPECT_SAME_BITS(d_w.map(), want.d_w_v);
      EXPECT_SAME_BITS(grads.d_b_v, want.d_b_v);
      EXPECT_TRUE(d_q.surroundings_untouched() && d_k.surroundings_untouched() && d_x.surroundings_untouched() &&
                  d_w.surroundings_untouched());
    }
  };
  check([&](const auto& x, const auto& w) { return ProjectedValues<float>(x, w, {.bias = in.b}); });
  check([&](const auto& x, const auto& w) { return MonteCarloValues<float>(x, w, largest); });
}

TEST(ProjectedValuesGradient, KeysNoQuerySeesGet0EvenIfTheyAreNaN) {
  Layer<double> in({.n_q = 20, .n_k = 30, .n_heads = 2, .n_kv = 2});
  in.x.row(7).setConstant(nan_of<double>());
  in.x.row(8).setConstant(nan_of<double>());
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> allowed(40, 30);
  allowed.setConstant(true);
  allowed.col(7).setConstant(false);           // no head sees it
  allowed.col(8).head(20).setConstant(false);  // the first does not
  const AttentionOptions options{.mask = {.allowed = allowed}};
  const auto check = [&](const auto& values) {
    const auto r = multi_head_attend(in.q, in.k, values, in.heads, options);
    const auto got = multi_head_attend_backward(in.d_out, in.q, in.k, values, r, in.heads, options);
    EXPECT_TRUE(got.d_x.row(7).isZero(0));
    EXPECT_TRUE(got.d_w_v.leftCols(17).allFinite());
    EXPECT_TRUE(is_nan(got.d_w_v(3, 20)));
    EXPECT_TRUE(got.d_x.allFinite());  // V is linear in x: what x holds is no part of its gradient
  };
  check(ProjectedValues<double>(in.x, in.w));
  check(
      MonteCarloValues<double>(in.x, in.w, {.budget = Budget::constant, .centred = true, .path = ValuePath::sampled}));
}

TEST(ProjectedValuesGradient, AHeadLeavesOutWhatItDoesNotSeeThoughTheLastOneSeesIt) {
  Layer<double> in({.n_q = 20, .n_k = 30, .n_heads = 2, .n_kv = 2});
  in.x.row(8).setConstant(nan_of<double>());
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> allowed(40, 30);
  allowed.setConstant(true);
  allowed.col(8).head(20).setConstant(false);
  const AttentionOptions options{.mask = {.allowed = allowed}};
  const ProjectedValues<double> values(in.x, in.w);
  const auto r = multi_head_attend(in.q, in.k, values, in.heads, options);
  const auto got = multi_head_attend_backward(in.d_out, in.q, in.k, values, r, in.heads, options);
  EXPECT_TRUE(got.d_w_v.leftCols(17).allFinite());
  EXPECT_TRUE(is_nan(got.d_w_v(3, 20)));
}

// --- sampled products ---------------------------------------------------------------------------------------------

/// What forward made of x and w for one call, found from its rows alone: s_jk = (V_j - base_j) W^+ / (x_j - m).
struct Shares {
  std::vector<Matrix<double>> s;  ///< of each key head, n_k x d_in
  Matrix<double> from_mean;       ///< (token, key head): 1 where the row starts from the mean row's product
  Matrix<double> mean;            ///< (token, token): what each row of x adds to the mean row of a token
};

Shares shares_of(const Layer<double>& in, const SamplePlan<double>& plan, const Matrix<double>& rows, bool centred,
                 const std::vector<Index>& offsets) {
  const Index n_k = in.x.rows();
  Shares shares;
  shares.from_mean = Matrix<double>::Zero(n_k, in.n_kv());
  shares.mean = Matrix<double>::Zero(n_k, n_k);
  for (std::size_t b = 0; b + 1 < offsets.size() && centred; ++b) {
    std::vector<Index> kept;
    for (Index j = offsets[b]; j < offsets[b + 1]; ++j) {
      if (plan.kept.row(j).cast<int>().sum() > 0) kept.push_back(j);
    }
    for (Index j = offsets[b]; j < offsets[b + 1]; ++j) {
      for (const Index other : kept) shares.mean(j, other) = 1.0 / static_cast<double>(kept.size());
    }
  }
  const Matrix<double> real_x = in.x.array().isFinite().select(in.x, 0.0);
  for (Index kv = 0; kv < in.n_kv(); ++kv) {
    const Matrix<double> w = in.w.middleCols(kv * in.d_v, in.d_v), gram = w * w.transpose();
    const Eigen::LLT<Matrix<double>> inverse(gram);
    Matrix<double> s = Matrix<double>::Zero(n_k, in.d_in);
    for (Index j = 0; j < n_k; ++j) {
      if (plan.exact(kv) != 0 || plan.counts(j, kv) == in.d_in) {
        s.row(j).setConstant(plan.kept(j, kv) != 0 ? 1 : 0);
        continue;
      }
      shares.from_mean(j, kv) = 1;
      if (plan.counts(j, kv) == 0) continue;
      const Matrix<double> mean = shares.mean.row(j) * real_x, y = in.x.row(j) - mean;
      const Matrix<double> sampled =
          rows.row(j).segment(kv * in.d_v, in.d_v) - in.b.middleCols(kv * in.d_v, in.d_v) - mean * w;
      s.row(j) = inverse.solve(w * sampled.transpose()).transpose().cwiseQuotient(y);
    }
    shares.s.push_back(s);
  }
  return shares;
}

/// The rows as a function of x, w and b, the shares held fixed.
Matrix<double> rows_of(const Layer<double>& in, const Shares& shares) {
  Matrix<double> rows = Matrix<double>::Zero(in.x.rows(), in.w.cols());
  const Matrix<double> real_x = in.x.array().isFinite().select(in.x, 0.0);
  for (Index kv = 0; kv < in.n_kv(); ++kv) {
    const Matrix<double> w = in.w.middleCols(kv * in.d_v, in.d_v);
    for (Index j = 0; j < in.x.rows(); ++j) {
      const Matrix<double> mean = shares.from_mean(j, kv) * shares.mean.row(j) * real_x;
      const Matrix<double> y = (real_x.row(j) - mean).cwiseProduct(shares.s[static_cast<std::size_t>(kv)].row(j));
      rows.row(j).segment(kv * in.d_v, in.d_v) = (y + mean) * w + in.b.middleCols(kv * in.d_v, in.d_v);
    }
  }
  return rows;
}

/// The chain rule through rows_of, by plain loops.
ExactFormula gradient_of_rows(const Layer<double>& in, const Shares& shares, const Matrix<double>& d_v) {
  const Matrix<double> real_x = in.x.array().isFinite().select(in.x, 0.0);
  ExactFormula want(in.x, in.w, d_v, 0);
  want.d_b = d_v.colwise().sum().transpose();
  for (Index kv = 0; kv < in.n_kv(); ++kv) {
    const Matrix<double>& s = shares.s[static_cast<std::size_t>(kv)];
    for (Index j = 0; j < in.x.rows(); ++j) {
      const double starts = shares.from_mean(j, kv);
      const Matrix<double> mean = starts * shares.mean.row(j) * real_x;
      for (Index k = 0; k < in.d_in; ++k) {
        double product = 0;  // W_k . d_v_j
        for (Index c = kv * in.d_v; c < (kv + 1) * in.d_v; ++c) {
          product += in.w(k, c) * d_v(j, c);
          want.d_w(k, c) += (s(j, k) * (real_x(j, k) - mean(0, k)) + mean(0, k)) * d_v(j, c);
        }
        want.d_x(j, k) += s(j, k) * product;
        for (Index i = 0; i < in.x.rows(); ++i) want.d_x(i, k) += starts * shares.mean(j, i) * (1 - s(j, k)) * product;
      }
    }
  }
  return want;
}

/// Returns how many tokens that some query sees got no sample at all, over all ways to sample.
template <class Method>
Index expect_gradients_of_draws(Layer<double>& in, const AttentionOptions& options, const Method& method,
                                const std::vector<Index>& offsets, bool differences) {
  const BackwardOptions backward{.routing = RoutingGradient::none};
  Index skipped = 0;
  for_every_estimator([&](MonteCarloOptions sampling) {
    sampling.bias = in.b;
    const MonteCarloValues<double> values(in.x, in.w, sampling);
    const auto r = multi_head_attend(in.q, in.k, values, in.heads, options, method);
    const auto got =
        multi_head_attend_backward(in.d_out, in.q, in.k, values, r, in.heads, options, method, {}, backward);
    const auto plan = values.plan(in.q, in.k, options, method, {}, in.heads);
    Matrix<double> rows(in.x.rows(), in.w.cols());
    values.value_rows_into(rows, in.q, in.k, options, method, {}, in.heads);
    rows.bottomRows(in.x.rows() - std::min(in.x.rows(), options.mask.n_real_keys)).setZero();
    EXPECT_SAME_BITS(multi_head_attend(in.q, in.k, rows, in.heads, options, method).out, r.out);
    // Queries and keys get what stored rows of these bits would give them: backward draws what forward drew.
    const auto stored =
        multi_head_attend_backward(in.d_out, in.q, in.k, rows, r, in.heads, options, method, {}, backward);
    EXPECT_SAME_BITS(got.d_q, stored.d_q);
    EXPECT_SAME_BITS(got.d_k, stored.d_k);
    const Shares shares = shares_of(in, plan, rows, sampling.centred, offsets);
    const ExactFormula want = gradient_of_rows(in, shares, stored.d_v);
    // W W^T has a condition below 1e3 and shares are divided by |x - m| down to 1e-4: 1e7 units of 2e-16.
    EXPECT_ENTRIES_NEAR(got.d_x, want.d_x, 2e-9);
    EXPECT_ENTRIES_NEAR(got.d_w_v, want.d_w, 2e-9);
    EXPECT_ENTRIES_NEAR(got.d_b_v, want.d_b, 1e-13);
    Index sampled = 0;
    for (Index kv = 0; kv < in.n_kv(); ++kv) {
      for (Index j = 0; j < in.x.rows(); ++j) {
        sampled += plan.exact(kv) == 0 && plan.counts(j, kv) > 0 && plan.counts(j, kv) < in.d_in;
        skipped += plan.exact(kv) == 0 && plan.counts(j, kv) == 0 && plan.kept(j, kv) != 0;
      }
    }
    EXPECT_GT(sampled, 0);
    if (!differences) return;
    const auto attend_now = [&] {
      return multi_head_attend(in.q, in.k, rows_of(in, shares), in.heads, options, method).out;
    };
    EXPECT_ENTRIES_NEAR(attend_now(), r.out, 2e-9);
    const Matrix<double> d_b = got.d_b_v.transpose();
    expect_differences(in.x, got.d_x, 0.5, 1e-7, in.d_out, attend_now);
    expect_differences(in.w, got.d_w_v, 0.5, 1e-7, in.d_out, attend_now);
    expect_differences(in.b, d_b, 0.5, 1e-7, in.d_out, attend_now);
    expect_differences(in.q, got.d_q, 1e-5, 1e-6, in.d_out, attend_now);
    expect_differences(in.k, got.d_k, 1e-5, 1e-6, in.d_out, attend_now);
  });
  return skipped;
}

TEST(MonteCarloValuesGradient, IsThatOfTheVeryDrawsByCentralDifferences) {
  Layer<double> in({.n_heads = 4, .n_kv = 2});
  in.q *= 3;  // some keys weigh much
  const Index skipped =
      expect_gradients_of_draws(in, {.mask = {.causal = Causal::bottom_right}}, ExactAttention<>{}, {0, 53}, true);
  EXPECT_GT(skipped, 0);
}

TEST(MonteCarloValuesGradient, IsThatOfTheVeryDrawsUnderMasksAndPatterns) {
  Layer<double> in({.n_q = 113, .n_k = 203, .n_heads = 2, .n_kv = 2});
  in.q *= 3;
  {
    SCOPED_TRACE("packed sequences");
    const std::vector<Index> of_queries{0, 40, 40, 113}, of_keys{0, 90, 120, 203};
    expect_gradients_of_draws(in, {.mask = {.sequence_offsets = of_queries, .key_sequence_offsets = of_keys}},
                              ExactAttention<>{}, of_keys, false);
  }
  {
    SCOPED_TRACE("window");
    expect_gradients_of_draws(in, {.mask = {.causal = Causal::bottom_right}}, WindowAttention{30, 0}, {0, 203}, false);
  }
  {
    SCOPED_TRACE("tree");
    expect_gradients_of_draws(in, {},
                              TfAttention<double>(fit_tree(Matrix<double>(in.k.leftCols(6)),
                                                           Matrix<double>(in.q.leftCols(6)), {.height = 2})),
                              {0, 203}, false);
  }
  {
    SCOPED_TRACE("padding");
    Layer<double> padded({.n_q = 113, .n_k = 203});
    padded.q *= 3;
    padded.x.bottomRows(60).setConstant(nan_of<double>());
    padded.k.bottomRows(60).setConstant(nan_of<double>());
    expect_gradients_of_draws(padded, {.mask = {.n_real_keys = 143}}, ExactAttention<>{}, {0, 203}, false);
  }
}

TEST(MonteCarloValuesGradient, WithAllProductsIsThatOfTheExactProductBitForBit) {
  const Layer<float> in({.n_heads = 4, .n_kv = 2});
  const ProjectedValues<float> exact(in.x, in.w, {.bias = in.b, .order = ProjectionOrder::project_first});
  const auto r = multi_head_attend(in.q, in.k, exact, in.heads);
  const auto want = multi_head_attend_backward(in.d_out, in.q, in.k, exact, r, in.heads);
  for_every_estimator([&](MonteCarloOptions sampling) {
    sampling.alpha = 1e-9;
    sampling.fraction = 1;
    sampling.skip_below = 0;
    sampling.bias = in.b;
    const MonteCarloValues<float> values(in.x, in.w, sampling);
    const auto all = multi_head_attend(in.q, in.k, values, in.heads);
    expect_same_gradients(multi_head_attend_backward(in.d_out, in.q, in.k, values, all, in.heads), want);
  });
}

TEST(MonteCarloValuesGradient, IsTheSameBitsForAnyThreads) {
  const Layer<float> in({.n_q = 70, .n_k = 533, .d_in = 65, .d_v = 37, .n_heads = 4, .n_kv = 2});
  for_every_estimator([&](MonteCarloOptions sampling) {
    sampling.skip_below = 0;
    sampling.bias = in.b;
    const MonteCarloValues<float> values(in.x, in.w, sampling);
    const auto r = multi_head_attend(in.q, in.k, values, in.heads);
    const auto backward = [&](int threads) {
      return multi_head_attend_backward(in.d_out, in.q, in.k, values, r, in.heads, {}, ExactAttention<>{},
                                        {.threads = threads});
    };
    const auto one = backward(1);
    for (const int threads : {2, 3}) expect_same_gradients(backward(threads), one);
  });
}

// d_v of a token does not depend on the values, so the gradients of sampled values are averages of draws like the
// values themselves.
TEST(MonteCarloValuesGradient, IsUnbiasedWhereItsEstimatorIs) {
  Layer<double> in({.n_q = 9, .n_k = 17, .d_in = 12, .d_v = 3});
  // No product is drawn so seldom that its share is far from normal after all seeds.
  for (Matrix<double>* m : {&in.x, &in.w}) *m = m->unaryExpr([](double a) { return a / 3 + (a < 0 ? -1 : 1); });
  const ProjectedValues<double> exact(in.x, in.w);
  const auto want = attend_backward(in.d_out, in.q, in.k, exact, attend(in.q, in.k, exact));
  constexpr Index n_seeds = 600;
  for (const Estimator estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement}) {
    for (const bool centred : {false, true}) {
      SCOPED_TRACE("estimator " + std::to_string(static_cast<int>(estimator)) + (centred ? ", centred" : ""));
      Matrix<double> x_sum = Matrix<double>::Zero(17, 12), x_squares = x_sum, w_sum = Matrix<double>::Zero(12, 3),
                     w_squares = w_sum;
      for (Index seed = 0; seed < n_seeds; ++seed) {
        const MonteCarloValues<double> values(in.x, in.w,
                                              {.seed = static_cast<std::uint64_t>(seed),
                                               .estimator = estimator,
                                               .budget = Budget::constant,
                                               .fraction = 0.5,
                                               .centred = centred,
                                               .path = ValuePath::sampled});
        const auto got = attend_backward(in.d_out, in.q, in.k, values, attend(in.q, in.k, values));
        x_sum += got.d_x - want.d_x;
        x_squares += (got.d_x - want.d_x).cwiseAbs2();
        w_sum += got.d_w_v - want.d_w_v;
        w_squares += (got.d_w_v - want.d_w_v).cwiseAbs2();
      }
      const auto expect_mean_0 = [&](const Matrix<double>& sum, const Matrix<double>& squares) {
        const double n = static_cast<double>(n_seeds);
        const Matrix<double> mean = sum / n, variance = squares / n - mean.cwiseAbs2();
        EXPECT_GT(variance.sum(), 1e-3);
        const Matrix<double> errors = (variance / n).cwiseMax(1e-24).cwiseSqrt();
        EXPECT_LT((mean.cwiseAbs().cwiseQuotient(errors)).maxCoeff(), 5);
      };
      expect_mean_0(x_sum, x_squares);
      expect_mean_0(w_sum, w_squares);
    }
  }
}

TEST(MonteCarloValuesGradient, HalfStorageHasTheDrawsOfFloat) {
  const Layer<Eigen::half> in({.n_heads = 2, .n_kv = 1});
  Layer<float> wide({.n_heads = 2, .n_kv = 1});
  wide.q = in.q.cast<float>(), wide.k = in.k.cast<float>(), wide.x = in.x.cast<float>(), wide.w = in.w.cast<float>();
  wide.d_out = in.d_out.cast<float>();
  for_every_estimator([&](const MonteCarloOptions& sampling) {
    const MonteCarloValues<Eigen::half> values(in.x, in.w, sampling);
    const MonteCarloValues<float> wide_values(wide.x, wide.w, sampling);
    const auto got = multi_head_attend_backward(in.d_out, in.q, in.k, values,
                                                multi_head_attend(in.q, in.k, values, in.heads), in.heads);
    const auto want = multi_head_attend_backward(wide.d_out, wide.q, wide.k, wide_values,
                                                 multi_head_attend(wide.q, wide.k, wide_values, in.heads), in.heads);
    EXPECT_ENTRIES_NEAR(got.d_x, want.d_x, 0x1p-10);  // a unit of half, of the largest
    EXPECT_ENTRIES_NEAR(got.d_w_v, want.d_w_v, 0x1p-10);
  });
}

// --- cost, memory, errors -----------------------------------------------------------------------------------------

TEST(ValueGradients, CountedProductsFollowTheFormula) {
  const Layer<float> in({.n_heads = 4, .n_kv = 2});
  const AttentionOptions options{.mask = {.n_real_keys = 40}};
  const auto counted = [&](const auto& values) {
    const auto r = multi_head_attend(in.q, in.k, values, in.heads, options);
    FlopCounter flops;
    multi_head_attend_backward(in.d_out, in.q, in.k, values, r, in.heads, options, ExactAttention<>{},
                               {.flops = &flops});
    return flops;
  };
  const double pairs = 4 * 37 * 40, of_pairs = 4 * pairs * 17;
  const FlopCounter exact = counted(ProjectedValues<float>(in.x, in.w));
  EXPECT_EQ(exact.products(Phase::project), 2.0 * 40 * 13 * 34);
  EXPECT_EQ(exact.products(Phase::backward_values), of_pairs + 2 * 2.0 * 40 * 13 * 34);
  EXPECT_EQ(exact.products(Phase::backward_scores), 6 * pairs * 6);
  const MonteCarloOptions sampling{.estimator = Estimator::without_replacement,
                                   .budget = Budget::constant,
                                   .fraction = 0.5,
                                   .centred = true,
                                   .path = ValuePath::sampled};
  const MonteCarloValues<float> values(in.x, in.w, sampling);
  const auto plan = values.plan(in.q, in.k, options, ExactAttention<>{}, {}, in.heads);
  double samples = 0;
  for (Index j = 0; j < 53; ++j) samples += static_cast<double>(plan.counts.row(j).sum());
  const FlopCounter sampled = counted(values);
  EXPECT_EQ(sampled.products(Phase::sample), 2 * samples * 17);
  EXPECT_EQ(sampled.products(Phase::project), 2.0 * 2 * 13 * 17);    // the mean row of each head
  EXPECT_EQ(sampled.products(Phase::route), 2 * 2.0 * 2 * 40 * 13);  // chosen forward, and backward again
  EXPECT_EQ(sampled.products(Phase::backward_values), of_pairs + 2 * 2.0 * 2 * (40 + 1) * 13 * 17);
}

TEST(ValueGradients, AllocateNothingWithAGrownWorkspace) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations cannot be counted here";
  const Layer<float> in({});
  Matrix<float> d_q(37, 6), d_k(53, 6), d_x(53, 13), d_w(13, 17);
  Brought<float> grads{{d_q.data(), 37, 6, {6, 1}},
                       {d_k.data(), 53, 6, {6, 1}},
                       {d_x.data(), 53, 13, {13, 1}},
                       {d_w.data(), 13, 17, {17, 1}},
                       Vector<float>(17)};
  const auto check = [&](const auto& values) {
    const auto r = attend(in.q, in.k, values);
    Workspace workspace;
    const Context context{.workspace = &workspace, .threads = 1};
    const auto backward = [&] {
      attend_backward_into(grads, in.d_out, in.q, in.k, values, r.out, r.lse, {}, ExactAttention<>{}, context);
    };
    backward();
    const auto before = allocations();
    backward();
    EXPECT_EQ(allocations(), before);
  };
  check(ProjectedValues<float>(in.x, in.w, {.bias = in.b}));
  for_every_estimator([&](MonteCarloOptions sampling) {
    sampling.bias = in.b;
    check(MonteCarloValues<float>(in.x, in.w, sampling));
  });
}

TEST(ValueGradients, OnlyWhatIsWantedIsMadeAndItMustFit) {
  const Layer<double> in({});
  const ProjectedValues<double> values(in.x, in.w);
  const auto r = attend(in.q, in.k, values);
  const auto want = attend_backward(in.d_out, in.q, in.k, values, r);
  struct {
    Matrix<double> d_q, d_k, d_w_v;
  } some{Matrix<double>(37, 6), Matrix<double>(53, 6), Matrix<double>(13, 17)};
  FlopCounter flops;
  attend_backward_into(some, in.d_out, in.q, in.k, values, r.out, r.lse, {}, ExactAttention<>{}, {.flops = &flops});
  EXPECT_SAME_BITS(some.d_w_v, want.d_w_v);
  EXPECT_SAME_BITS(some.d_q, want.d_q);
  EXPECT_EQ(flops.products(Phase::backward_values), 4.0 * 37 * 53 * 17 + 2.0 * 53 * 13 * 17);
  AttentionGradients<double, ProjectedGradients<double>> grads = want;
  const auto refused = [&](const char* message) {
    const auto before = grads;
    try {
      attend_backward_into(grads, in.d_out, in.q, in.k, values, r.out, r.lse);
      ADD_FAILURE() << "nothing was thrown";
    } catch (const ShapeError& error) {
      EXPECT_NE(std::string(error.what()).find(message), std::string::npos) << error.what();
    }
    expect_same_gradients(grads, before);
    grads = want;
  };
  grads.d_x.resize(53, 12);
  grads.d_x.setZero();
  refused("d_x is 53 x 12 but must be as x: 53 x 13");
  grads.d_w_v.setZero(17, 13);
  refused("d_w_v is 17 x 13 but must be as w_v: 13 x 17");
  grads.d_b_v.setZero(17);
  refused("d_b_v has 17 entries but must have those of the bias: 0");
}

TEST(ValueGradients, EmptyAndSingleInputsGet0OrTheFormula) {
  for (const auto& shape :
       {Layer<double>::Shape{.n_q = 0}, {.n_q = 5, .n_k = 0}, {.n_q = 5, .d_in = 0}, {.n_q = 1, .n_k = 1}}) {
    const Layer<double> in(shape);
    const auto check = [&](const auto& values) {
      const auto got = attend_backward(in.d_out, in.q, in.k, values, attend(in.q, in.k, values));
      Matrix<double> d_v = Matrix<double>::Zero(in.x.rows(), in.w.cols());
      if (in.x.rows() == 1) d_v = in.d_out;
      const ExactFormula want(in.x, in.w, d_v, in.x.rows());
      EXPECT_MATRIX_NEAR(got.d_x, want.d_x, 1e-13);
      EXPECT_MATRIX_NEAR(got.d_w_v, want.d_w, 1e-13);
      EXPECT_TRUE(got.d_q.isZero(1e-12) && got.d_k.isZero(1e-12));
      if (in.d_in > 0 || shape.n_q == 0) {
        EXPECT_MATRIX_NEAR(got.d_b_v, want.d_b, 1e-13);
      }
    };
    check(ProjectedValues<double>(in.x, in.w, {.bias = in.b}));
    check(MonteCarloValues<double>(in.x, in.w,
                                   {.estimator = Estimator::largest,
                                    .budget = Budget::constant,
                                    .fraction = 1,
                                    .bias = in.b,
                                    .path = ValuePath::sampled}));
  }
}

TEST(MonteCarloValuesGradient, IsThatOfTheVeryDrawsOverPathMeans) {
  Layer<double> in({.n_heads = 2, .n_kv = 1});
  Vector<double> logits(4);
  logits << -1, 0.3, 2, 1;
  const auto tree = fit_tree(Matrix<double>(in.k.leftCols(6)), Matrix<double>(in.q.leftCols(6)), {.height = 3});
  expect_gradients_of_draws(in, {}, TcAttention<double>(tree, logits), {0, 53}, true);
  expect_gradients_of_draws(in, {.mask = {.causal = Causal::bottom_right}},
                            TcAttention<double>(tree, logits, {.by_query = true}), {0, 53}, true);
}

}  // namespace
}  // namespace heed::test::value_gradients
