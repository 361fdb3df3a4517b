#include "heed/approx/linformer_attention.hpp"

#include <array>
#include <cmath>
#include <string>
#include <string_view>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/reference.hpp"
#include "heed/exact/reference_backward.hpp"
#include "support/allocations.hpp"
#include "support/conformance.hpp"
#include "support/option_kinds.hpp"
#include "support/strided.hpp"

namespace heed::test::linformer_attention {
namespace {

using Mat = Matrix<double>;
constexpr Index n_rows = 13;

/// A projection whose column j is the same for any number of columns.
template <class S>
Matrix<S> some_projection(Index n_k, std::uint64_t seed) {
  Matrix<S> projection(n_rows, n_k);
  for (Index j = 0; j < n_k; ++j) {
    NumberStream numbers(1000 * seed + static_cast<std::uint64_t>(j));
    for (Index t = 0; t < n_rows; ++t) projection(t, j) = static_cast<S>(0.1 * numbers.normal());
  }
  return projection;
}
template <class S>
LinformerAttention<S> method_for(Index n_k) {
  return {some_projection<S>(n_k, 1), some_projection<S>(n_k, 2)};
}

/// The suite calls one method with keys of several numbers.
template <class S>
struct AnyLength {
  void attend_into(auto out, auto lse, const auto& q, const auto& k, const auto& v, const AttentionOptions& options,
                   const Context& context) const {
    heed::attend_into(out, lse, q, k, v, options, method_for<S>(k.rows()), context);
  }
  void multi_head_attend_into(auto out, auto lse, const auto& q, const auto& k, const auto& v, const HeadOptions& heads,
                              const AttentionOptions& options, const Context& context) const {
    heed::multi_head_attend_into(out, lse, q, k, v, heads, options, method_for<S>(k.rows()), context);
  }
};

/// The keys that are there and no padding.
std::vector<Index> real_keys(const Mask& mask, Index n_k) {
  std::vector<Index> real;
  for (Index j = 0; j < real_keys_of(mask, n_k); ++j) {
    if (!mask.keys.given() || mask.keys.at(0, j) != 0.0) real.push_back(j);
  }
  return real;
}
/// Plain loops: projected rows over these keys; none where there is no key.
Mat project(const Mat& projection, const Mat& rows, const std::vector<Index>& real) {
  Mat projected = Mat::Zero(real.empty() ? 0 : projection.rows(), rows.cols());
  for (Index t = 0; t < projected.rows(); ++t) {
    for (const Index j : real) projected.row(t) += projection(t, j) * rows.row(j);
  }
  return projected;
}
AttentionOptions without_mask(AttentionOptions options) {
  const SequenceOffsets query_lengths = options.mask.query_lengths;
  options.mask = Mask();
  options.mask.query_lengths = query_lengths;
  return options;
}
struct Formula {
  Mat e, f;
  AttentionResult<double> result(const Inputs<double>& in, const AttentionOptions& options) const {
    const std::vector<Index> real = real_keys(options.mask, in.k.rows());
    return reference_attention(in.q, project(e, in.k, real), project(f, in.v, real), without_mask(options));
  }
};
template <class S>
Formula formula_for(Index n_k) {
  return {some_projection<S>(n_k, 1).template cast<double>(), some_projection<S>(n_k, 2).template cast<double>()};
}

constexpr auto any_length = []<class S>(const Inputs<S>&) { return AnyLength<S>(); };
constexpr auto expected_result = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return formula_for<S>(in.k.rows()).result(in.template cast<double>(), options);
};
bool linformer_supports(std::string_view option) {
  for (const std::string_view has : {"padding", "shift", "keys", "key_length", "query_length", "softcap", "sink",
                                     "large_sink", "scale", "negative_scale", "zero_scale"}) {
    if (option == has) return true;
  }
  return false;
}
FlopCounter linformer_flops(const FlopCase& sizes) {
  const double r = n_rows, n_q = static_cast<double>(sizes.n_q), d = static_cast<double>(sizes.d),
               d_v = static_cast<double>(sizes.d_v);
  FlopCounter flops;
  flops.add_products(Phase::project, 2 * r * sizes.seen_keys * (d + d_v));
  flops.add_products(Phase::scores, 2 * r * n_q * d);
  flops.add_products(Phase::values, 2 * r * n_q * d_v);
  flops.add_exponentials(r * n_q);
  flops.add_tokens(sizes.real_keys, static_cast<double>(sizes.n_k));
  return flops;
}
INSTANTIATE_METHOD_SUITE(LinformerAttention, {.make = any_length,
                                              .expected = expected_result,
                                              .flops = linformer_flops,
                                              .supports = linformer_supports,
                                              .positional = true,
                                              .same_work_by_head = false,
                                              .reuses_workspace = false});

struct AllGradients {
  Mat d_q, d_k, d_v, d_e, d_f;
};
AllGradients gradients_of(const Formula& formula, const Inputs<double>& in, const Mat& d_out,
                          const AttentionOptions& options, const BackwardOptions& backward) {
  const Index n_k = in.k.rows();
  const std::vector<Index> real = real_keys(options.mask, n_k);
  const auto narrow =
      reference_attention_backward(d_out, in.q, project(formula.e, in.k, real), project(formula.f, in.v, real),
                                   without_mask(options), NoScoreMod{}, backward);
  AllGradients all{narrow.d_q, Mat::Zero(n_k, in.k.cols()), Mat::Zero(n_k, in.v.cols()),
                   Mat::Zero(formula.e.rows(), n_k), Mat::Zero(formula.f.rows(), n_k)};
  for (Index t = 0; t < narrow.d_k.rows(); ++t) {
    for (const Index j : real) {
      all.d_k.row(j) += formula.e(t, j) * narrow.d_k.row(t);
      all.d_v.row(j) += formula.f(t, j) * narrow.d_v.row(t);
      all.d_e(t, j) = narrow.d_k.row(t).dot(in.k.row(j));
      all.d_f(t, j) = narrow.d_v.row(t).dot(in.v.row(j));
    }
  }
  return all;
}

/// Sums of a few hundred products of size 1.
constexpr double close = 5e-13;

TEST(LinformerAttention, EqualsItsFormulaAndItsGradientUnderEveryOption) {
  for (const auto& [n_q, n_k, d, d_v] :
       {std::array<Index, 4>{37, 53, 9, 7}, {65, 300, 17, 40}, {113, 203, 8, 5}, {1, 1, 3, 2}}) {
    const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = d, .d_v = d_v});
    const Mat d_out = random_matrix<double>(n_q, d_v, 77), d_lse = random_matrix<double>(n_q, 1, 78);
    const auto method = method_for<double>(n_k);
    const Formula formula = formula_for<double>(n_k);
    const OptionStore store(n_q, n_k);
    BackwardOptions backward;
    backward.d_lse = d_lse;
    for (const OptionKind& a : option_kinds(store)) {
      for (const OptionKind& b : option_kinds(store)) {
        if (!linformer_supports(a.name) || !linformer_supports(b.name) || !fit_together(a, b)) continue;
        SCOPED_TRACE(std::string(a.name) + " and " + std::string(b.name));
        const AttentionOptions options = options_of(store, a, b);
        const auto r = attend(in.q, in.k, in.v, options, method);
        const auto want = formula.result(in, options);
        EXPECT_MATRIX_NEAR(r.out, want.out, close);
        EXPECT_MATRIX_NEAR(r.lse, want.lse, close);
        const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {}, backward);
        const auto grads = gradients_of(formula, in, d_out, options, backward);
        EXPECT_MATRIX_NEAR(got.d_q, grads.d_q, 10 * close);
        EXPECT_MATRIX_NEAR(got.d_k, grads.d_k, 10 * close);
        EXPECT_MATRIX_NEAR(got.d_v, grads.d_v, 10 * close);
        EXPECT_MATRIX_NEAR(got.d_key_projection, grads.d_e, 50 * close);
        EXPECT_MATRIX_NEAR(got.d_value_projection, grads.d_f, 50 * close);
      }
    }
  }
}

TEST(LinformerAttention, GradientsAreFiniteDifferencesAlsoByTheProjections) {
  auto in = random_inputs<double>({.n_q = 20, .n_k = 31, .d = 6, .d_v = 5});
  Mat e = some_projection<double>(31, 1), f = some_projection<double>(31, 2);
  const Mat d_out = random_matrix<double>(20, 5, 77);
  const std::vector<double> sinks{0.4};
  const AttentionOptions options{.scale = 0.7, .mask = {.n_real_keys = 29}, .softcap = 2.0, .sinks = sinks};
  const auto loss = [&] {
    return attend(in.q, in.k, in.v, options, LinformerAttention<double>(e, f)).out.cwiseProduct(d_out).sum();
  };
  const LinformerAttention<double> method(e, f);
  const auto got = attend_backward(d_out, in.q, in.k, in.v, attend(in.q, in.k, in.v, options, method), options, method);
  const auto check = [&](Mat& x, const Mat& d_x, const char* name) {
    ASSERT_EQ(x.size(), d_x.size()) << name;
    constexpr double step = 1e-5;
    for (Index t = 0; t < x.size(); t += 3) {
      double& entry = x.data()[t];
      const double before = entry;
      entry = before + step;
      const double up = loss();
      entry = before - step;
      const double down = loss();
      entry = before;
      EXPECT_NEAR(d_x.data()[t], (up - down) / (2 * step), 1e-8) << name << ", entry " << t;
    }
  };
  check(in.q, got.d_q, "q");
  check(in.k, got.d_k, "k");
  check(in.v, got.d_v, "v");
  check(e, got.d_key_projection, "key_projection");
  check(f, got.d_value_projection, "value_projection");
}

TEST(LinformerAttention, PaddingIsNeverReadAndHasNoGradient) {
  auto in = random_inputs<double>({.n_q = 30, .n_k = 90, .d = 6, .d_v = 5});
  const auto method = method_for<double>(90), shorter = method_for<double>(61);
  fill(in.k.bottomRows(29), nan_of<double>());
  fill(in.v.bottomRows(29), infinity_of<double>());
  const Mat k = in.k.topRows(61), v = in.v.topRows(61), d_out = random_matrix<double>(30, 5, 7);
  const AttentionOptions options{.mask = {.n_real_keys = 61}};
  const auto r = attend(in.q, in.k, in.v, options, method), want = attend(in.q, k, v, {}, shorter);
  EXPECT_SAME_BITS(r.out, want.out);
  EXPECT_SAME_BITS(r.lse, want.lse);
  const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method);
  const auto grads = attend_backward(d_out, in.q, k, v, want, {}, shorter);
  EXPECT_SAME_BITS(got.d_q, grads.d_q);
  EXPECT_SAME_BITS(got.d_k.topRows(61).eval(), grads.d_k);
  EXPECT_SAME_BITS(got.d_v.topRows(61).eval(), grads.d_v);
  EXPECT_SAME_BITS(got.d_key_projection.leftCols(61).eval(), grads.d_key_projection);
  EXPECT_SAME_BITS(got.d_value_projection.leftCols(61).eval(), grads.d_value_projection);
  for (const Mat& rest : {Mat(got.d_k.bottomRows(29)), Mat(got.d_v.bottomRows(29)),
                          Mat(got.d_key_projection.rightCols(29)), Mat(got.d_value_projection.rightCols(29))})
    EXPECT_EQ(rest.cwiseAbs().maxCoeff(), 0.0);
}

/// One method for all heads, and a list: gradients are sums over the heads of each, with the same bits on any threads.
TEST(LinformerAttention, HeadsShareTheirKeysAndTheirMethods) {
  constexpr Index n_q = 40, n_k = 300, d = 6, d_v = 5;
  const auto q = random_matrix<double>(n_q, 4 * d, 1), k = random_matrix<double>(n_k, 2 * d, 2),
             v = random_matrix<double>(n_k, 2 * d_v, 3), d_out = random_matrix<double>(n_q, 4 * d_v, 4);
  const HeadOptions heads{.n_heads = 4, .n_kv_heads = 2};
  const LinformerAttention<double> other(some_projection<double>(n_k, 3), some_projection<double>(n_k, 4));
  const std::vector methods{method_for<double>(n_k), other};  // one a key head
  const auto r = multi_head_attend(q, k, v, heads, {}, methods);
  const auto got = multi_head_attend_backward(d_out, q, k, v, r, heads, {}, methods, {.threads = 1});
  ASSERT_EQ(got.d_methods.size(), 2u);
  Mat d_k = Mat::Zero(n_k, 2 * d), d_values = Mat::Zero(n_k, 2 * d_v);
  std::vector<Mat> d_e(2, Mat::Zero(n_rows, n_k)), d_f = d_e;
  for (Index h = 0; h < 4; ++h) {
    const Index kv = h / 2;
    const auto& method = methods[static_cast<std::size_t>(kv)];
    const Mat own_q = q.middleCols(h * d, d), own_k = k.middleCols(kv * d, d), own_v = v.middleCols(kv * d_v, d_v),
              own_d = d_out.middleCols(h * d_v, d_v);
    const auto own = attend(own_q, own_k, own_v, {}, method);
    EXPECT_SAME_BITS(r.out.middleCols(h * d_v, d_v).eval(), own.out);
    const auto one = attend_backward(own_d, own_q, own_k, own_v, own, {}, method);
    EXPECT_SAME_BITS(got.d_q.middleCols(h * d, d).eval(), one.d_q);
    d_k.middleCols(kv * d, d) += one.d_k;
    d_values.middleCols(kv * d_v, d_v) += one.d_v;
    d_e[static_cast<std::size_t>(kv)] += one.d_key_projection;
    d_f[static_cast<std::size_t>(kv)] += one.d_value_projection;
  }
  EXPECT_MATRIX_NEAR(got.d_k, d_k, 10 * close);
  EXPECT_MATRIX_NEAR(got.d_v, d_values, 10 * close);
  for (std::size_t m = 0; m < 2; ++m) {
    EXPECT_MATRIX_NEAR(got.d_methods[m].d_key_projection, d_e[m], 50 * close);
    EXPECT_MATRIX_NEAR(got.d_methods[m].d_value_projection, d_f[m], 50 * close);
  }
  const Eigen::MatrixXd q_columns = q, k_columns = k, v_columns = v, d_columns = d_out;
  const auto again =
      multi_head_attend_backward(d_columns, q_columns, k_columns, v_columns, r, heads, {}, methods, {.threads = 2});
  EXPECT_SAME_BITS(got.d_q, again.d_q);
  EXPECT_SAME_BITS(got.d_k, again.d_k);
  EXPECT_SAME_BITS(got.d_v, again.d_v);
  EXPECT_SAME_BITS(got.d_methods[1].d_key_projection, again.d_methods[1].d_key_projection);
  EXPECT_SAME_BITS(got.d_methods[1].d_value_projection, again.d_methods[1].d_value_projection);

  const auto shared = methods[0];
  const auto of_all = multi_head_attend(q, k, v, heads, {}, shared);
  FlopCounter forward, flops;
  multi_head_attend(q, k, v, heads, {}, shared, {.flops = &forward});
  EXPECT_EQ(forward.products(Phase::project), 2.0 * n_rows * n_k * (d + d_v) * 2) << "keys are projected once";
  const auto sums = multi_head_attend_backward(d_out, q, k, v, of_all, heads, {}, shared, {.flops = &flops});
  const Mat q_first = q.leftCols(2 * d), k_first = k.leftCols(d), v_first = v.leftCols(d_v),
            d_first = d_out.leftCols(2 * d_v);
  const Mat q_rest = q.rightCols(2 * d), k_rest = k.rightCols(d), v_rest = v.rightCols(d_v),
            d_rest = d_out.rightCols(2 * d_v);
  const HeadOptions two{.n_heads = 2, .n_kv_heads = 1};
  const auto first =
      multi_head_attend_backward(d_first, q_first, k_first, v_first,
                                 multi_head_attend(q_first, k_first, v_first, two, {}, shared), two, {}, shared);
  const auto rest = multi_head_attend_backward(
      d_rest, q_rest, k_rest, v_rest, multi_head_attend(q_rest, k_rest, v_rest, two, {}, shared), two, {}, shared);
  EXPECT_MATRIX_NEAR(sums.d_key_projection, (first.d_key_projection + rest.d_key_projection).eval(), 50 * close);
  EXPECT_MATRIX_NEAR(sums.d_value_projection, (first.d_value_projection + rest.d_value_projection).eval(), 50 * close);
  const double r_rows = n_rows, pairs = 4.0 * n_q * n_rows;
  EXPECT_EQ(flops.products(Phase::backward_scores), 6 * pairs * d + 3 * 2 * r_rows * n_k * d * 2);
  EXPECT_EQ(flops.products(Phase::backward_values), 4 * pairs * d_v + 3 * 2 * r_rows * n_k * d_v * 2);
  EXPECT_EQ(flops.exponentials(), pairs);
  EXPECT_EQ(flops.real_tokens(), 4.0 * n_k);
}

TEST(LinformerAttention, WithoutTokensThereIsNothingToGoBackThrough) {
  for (const auto& [n_q, n_k, n_real] : {std::array<Index, 3>{0, 7, 7}, {7, 0, 0}, {0, 0, 0}, {6, 8, 0}}) {
    const auto in = random_inputs<double>({.n_q = n_q, .n_k = n_k, .d = 4, .d_v = 3});
    const auto method = method_for<double>(n_k);
    const std::vector<double> sinks{0.25};
    for (const bool with_sink : {false, true}) {
      AttentionOptions options{.mask = {.n_real_keys = n_real}};
      if (with_sink) options.sinks = sinks;
      const auto r = attend(in.q, in.k, in.v, options, method);
      const auto got = attend_backward(r.out, in.q, in.k, in.v, r, options, method);
      for (Index i = 0; i < n_q; ++i) {
        EXPECT_EQ(r.out.row(i).cwiseAbs().maxCoeff(), 0.0);
        EXPECT_TRUE(same_bits(r.lse(i), with_sink ? 0.25 : minus_infinity_of<double>()));
      }
      for (const Mat* zero : {&got.d_q, &got.d_k, &got.d_v, &got.d_key_projection, &got.d_value_projection})
        EXPECT_EQ(zero->size() == 0 ? 0.0 : zero->cwiseAbs().maxCoeff(), 0.0);
    }
  }
}

TEST(LinformerAttention, GradientsNotWantedAreLeftOutAndNothingIsAllocated) {
  const auto in = random_inputs<float>({.n_q = 40, .n_k = 70, .d = 6, .d_v = 5});
  const auto method = method_for<float>(70);
  const auto r = attend(in.q, in.k, in.v, {}, method);
  const auto all = attend_backward(in.q, in.q, in.k, in.k, attend(in.q, in.k, in.k, {}, method), {}, method);
  struct {
    Matrix<float> d_q{40, 6}, d_k{70, 6}, d_v{70, 6};
    Matrix<float> d_key_projection;  // 0 x 0: not wanted
    Eigen::MatrixXf d_value_projection{n_rows, 70};
  } some;
  const auto out = attend(in.q, in.k, in.k, {}, method);
  FlopCounter flops;
  for (const Index threads : {1, 2}) {
    Workspace workspace;
    std::uint64_t before = 0;
    for (int turn = 0; turn < 2; ++turn) {
      before = allocations();
      flops.reset();
      attend_backward_into(some, in.q, in.q, in.k, in.k, out.out, out.lse, {}, method,
                           {.flops = &flops, .workspace = &workspace, .threads = threads});
    }
    if (counts_allocations()) {
      EXPECT_EQ(allocations() - before, 0u) << "threads = " << threads;
    }
    EXPECT_SAME_BITS(some.d_q, all.d_q);
    EXPECT_SAME_BITS(some.d_k, all.d_k);
    EXPECT_SAME_BITS(some.d_v, all.d_v);
    EXPECT_EQ(some.d_key_projection.size(), 0);
    EXPECT_SAME_BITS(some.d_value_projection, all.d_value_projection);
    EXPECT_EQ(flops.products(Phase::backward_scores), 6.0 * 40 * n_rows * 6 + 2 * 2.0 * n_rows * 70 * 6);
  }
  Matrix<float> forward(40, 5);
  Workspace workspace;
  std::uint64_t before = 0;
  for (int turn = 0; turn < 2; ++turn) {
    before = allocations();
    attend_into(forward, {}, in.q, in.k, in.v, {}, method, {.workspace = &workspace});
  }
  if (counts_allocations()) {
    EXPECT_EQ(allocations() - before, 0u);
  }
  EXPECT_SAME_BITS(forward, r.out);
}

TEST(LinformerAttention, HalfGradientsAreThoseOfTheFormulaRounded) {
  using S = Eigen::half;
  const auto in = random_inputs<S>({.n_q = 40, .n_k = 70, .d = 6, .d_v = 5});
  const Matrix<S> d_out = random_matrix<S>(40, 5, 7);
  const auto method = method_for<S>(70);
  const auto r = attend(in.q, in.k, in.v, {}, method);
  const auto got = attend_backward(d_out, in.q, in.k, in.v, r, {}, method);
  const auto want = gradients_of(formula_for<S>(70), in.cast<double>(), d_out.cast<double>(), {}, {});
  const auto expect = [](const Matrix<S>& gradient, const Mat& wanted) {
    EXPECT_MATRIX_NEAR(gradient.cast<double>().eval(), wanted, 2e-3 * wanted.cwiseAbs().maxCoeff());
  };
  expect(got.d_q, want.d_q);
  expect(got.d_k, want.d_k);
  expect(got.d_v, want.d_v);
  expect(got.d_key_projection, want.d_e);
  expect(got.d_value_projection, want.d_f);
}

TEST(LinformerAttention, SaysWhatDoesNotFit) {
  const auto in = random_inputs<double>({.n_q = 6, .n_k = 9, .d = 4});
  const auto method = method_for<double>(9);
  const auto said = [](const auto& call) {
    try {
      call();
    } catch (const std::invalid_argument& error) {
      return std::string(error.what());
    }
    return std::string("nothing");
  };
  const auto has = [](const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << "'" << part << "' is not in: " << text;
  };
  has(said([&] { attend(in.q, in.k, in.v, {}, method_for<double>(8)); }), "rows(k) = 9 but cols(key_projection) = 8");
  has(said([] { LinformerAttention<double>(Mat(3, 9), Mat(4, 9)); }), "value_projection is 4 x 9 but must be");
  has(said([] { LinformerAttention<double>(Mat(0, 9), Mat(0, 9)); }), "rows(key_projection) = 0 must be >= 1");
  LinformerAttention<double> other = method;
  has(said([&] { other.set_projections(Mat(n_rows, 9), Mat(n_rows, 8)); }), "value_projection is 13 x 8 but must be");
  has(said([&] { other.set_projections(Mat(3, 9), Mat(3, 9)); }), "key_projection is 3 x 9 but must be");
  EXPECT_EQ(other.key_projection(), method.key_projection());
  const OptionStore store(6, 9);
  for (const OptionKind& kind : option_kinds(store)) {
    if (linformer_supports(kind.name)) continue;
    has(said([&] { attend(in.q, in.k, in.v, options_of(store, kind), method); }), "Mask::");
    has(said([&] { attend(in.q, in.k, in.v, options_of(store, kind), method); }), "must not be");
  }
  const auto r = attend(in.q, in.k, in.v, {}, method);
  struct {
    Mat d_q = Mat::Constant(6, 4, 3), d_k = Mat::Constant(9, 4, 3), d_v = Mat::Constant(9, 4, 3);
    Mat d_key_projection = Mat::Constant(n_rows, 8, 3), d_value_projection = Mat::Constant(n_rows, 9, 3);
  } grads;
  has(said([&] { attend_backward_into(grads, in.v.topRows(6).eval(), in.q, in.k, in.v, r.out, r.lse, {}, method); }),
      "d_key_projection is 13 x 8 but must be");
  EXPECT_EQ(grads.d_q, Mat::Constant(6, 4, 3));
  EXPECT_EQ(grads.d_value_projection, Mat::Constant(n_rows, 9, 3));
}

/// Parameters in any storage are copied.
TEST(LinformerAttention, OwnsItsProjections) {
  const auto in = random_inputs<float>({.n_q = 6, .n_k = 9, .d = 4});
  Strided<float> e(some_projection<float>(9, 1), Layout::spread);
  const Eigen::MatrixXf f = some_projection<float>(9, 2);
  const LinformerAttention<float> method(e.map(), f);
  e.map().setZero();
  EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, method).out, attend(in.q, in.k, in.v, {}, method_for<float>(9)).out);
}

}  // namespace
}  // namespace heed::test::linformer_attention
