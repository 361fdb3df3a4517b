// Numbers at the ends of what float holds: those that fit give the answer, those that do not are refused by name, and
// nothing turns into NaN on its way to float.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/attend_over.hpp"
#include "heed/exact/importance.hpp"
#include "heed/exact/reference.hpp"
#include "heed/exact/reference_backward.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/method_case.hpp"
#include "support/rounding.hpp"

namespace heed::test {
namespace {

constexpr double largest = std::numeric_limits<float>::max();

struct ExtremeCase {
  const char* name;
  AttentionOptions options;
  double size = 1;  ///< that queries and keys are multiplied by, each
};

std::vector<ExtremeCase> cases_that_fit() {
  return {
      {"a large scale", {.scale = 3e38}, 1e-19},
      {"a large negative scale", {.scale = -largest}, 1e-19},
      {"a large scale and a sink", {.scale = 3e38, .sinks = 1.5}, 1e-19},
      {"a small scale", {.scale = 2e-38}, 5e18},
      {"a small scale and a sink", {.scale = 1e-37, .sinks = 10.0}, 2e18},
      {"a scale below the normal numbers", {.scale = 1e-44}, 5e18},
      {"a sink that is large beside a small scale", {.scale = 1e-20, .sinks = 1e20}, 1e10},
      {"a small scale and ALiBi", {.scale = 1e-37, .mask = {.alibi_slope = 0.1}}, 2e18},
      {"the largest sink", {.sinks = largest}},
      {"the least sink", {.sinks = -largest}},
      {"a small sink", {.sinks = 1e-44}},
      {"the largest softcap", {.softcap = largest}},
      {"a large softcap", {.softcap = 1e38, .sinks = 1.0}},
      {"a large softcap and a small scale", {.scale = 1e-30, .softcap = 1e30}, 1e15},
      {"a small softcap", {.softcap = 1e-37}},
      {"a small softcap and scale", {.scale = 1e-37, .softcap = 1e-37}},
      {"a softcap and no scale", {.scale = 0.0, .softcap = 1e-40}},
      {"a large slope", {.mask = {.alibi_slope = 1e36}}},
      {"a small slope", {.mask = {.alibi_slope = 1e-44}}},
  };
}

Inputs<float> inputs_of(const ExtremeCase& extreme, Index n_q) {
  Inputs<float> in = random_inputs<float>({.n_q = n_q, .n_k = 70, .d = 4, .d_v = 5, .seed = 3});
  in.q *= static_cast<float>(extreme.size);
  in.k *= static_cast<float>(extreme.size);
  return in;
}

TEST(ExtremeOptions, ThatFitInFloatGiveTheAnswerOfDouble) {
  for (const ExtremeCase& extreme : cases_that_fit()) {
    for (const Index n_q : {1, 40}) {
      for (const Causal causal : {Causal::none, Causal::bottom_right}) {
        SCOPED_TRACE(std::string(extreme.name) + ", queries: " + std::to_string(n_q));
        const Inputs<float> in = inputs_of(extreme, n_q);
        const Inputs<double> exact = in.cast<double>();
        AttentionOptions options = extreme.options;
        options.mask.causal = causal;
        const auto want = reference_attention(exact.q, exact.k, exact.v, options);
        const RoundingError rounding = rounding_against<float>(want, in, options);
        const auto got = attend(in.q, in.k, in.v, options);
        EXPECT_MATRIX_NEAR(got.out, want.out, rounding.out);
        EXPECT_MATRIX_NEAR(got.lse, want.lse, rounding.lse);
      }
    }
  }
}

TEST(ExtremeOptions, ThatFitInFloatGiveTheImportanceOfDouble) {
  for (const ExtremeCase& extreme : cases_that_fit()) {
    SCOPED_TRACE(extreme.name);
    const Inputs<float> in = inputs_of(extreme, 40);
    const Inputs<double> exact = in.cast<double>();
    const Matrix<double> identity = Matrix<double>::Identity(70, 70);
    const Matrix<double> weights = reference_attention(exact.q, exact.k, identity, extreme.options).out;
    const auto got = key_importance(in.q, in.k, extreme.options);
    const Vector<double> want = weights.colwise().maxCoeff().transpose();
    // A weight is e^(score - lse), and so off by what an lse is.
    const RoundingError rounding =
        rounding_of(Inputs<float>{in.q, in.k, Matrix<float>::Identity(70, 70)}, extreme.options);
    EXPECT_MATRIX_NEAR(got.largest, want, rounding.out + std::min(rounding.lse, 1e-5));
  }
}

TEST(ExtremeOptions, ThatFitInFloatGiveTheGradientsOfDouble) {
  for (const ExtremeCase& extreme : cases_that_fit()) {
    SCOPED_TRACE(extreme.name);
    const Inputs<float> in = inputs_of(extreme, 40);
    const Inputs<double> exact = in.cast<double>();
    const Matrix<float> d_out = random_matrix<float>(40, 5, 17);
    const auto want =
        reference_attention_backward(d_out.cast<double>().eval(), exact.q, exact.k, exact.v, extreme.options);
    const auto naive = reference_attention_backward(d_out, in.q, in.k, in.v, extreme.options);
    const auto got =
        attend_backward(d_out, in.q, in.k, in.v, attend(in.q, in.k, in.v, extreme.options), extreme.options);
    // What cancels where a query gives one key all its weight: products of d_out and v, times scale and row.
    const double score = largest_finite(d_out) * largest_finite(in.v) * std::abs(extreme.options.scale.value_or(0.5));
    const auto expect_near = [&](const char* name, const auto& one, const auto& plain, const auto& oracle,
                                 double unit) {
      SCOPED_TRACE(name);
      const double floor = 4.0 * std::numeric_limits<float>::epsilon() * std::max(unit, largest_finite(oracle));
      EXPECT_MATRIX_NEAR(one, oracle, std::max(floor, 4.0 * largest_difference(plain, oracle)));
    };
    expect_near("d_q", got.d_q, naive.d_q, want.d_q, score * largest_finite(in.k));
    expect_near("d_k", got.d_k, naive.d_k, want.d_k, score * largest_finite(in.q));
    expect_near("d_v", got.d_v, naive.d_v, want.d_v, largest_finite(d_out));
  }
}

struct RefusedCase {
  const char* said;
  AttentionOptions options;
};

std::vector<RefusedCase> refused_cases() {
  return {
      {"AttentionOptions::softcap = 1e+39", {.softcap = 1e39}},
      {"AttentionOptions::softcap = 1e-46", {.softcap = 1e-46}},
      {"AttentionOptions::softcap = 1e-40", {.softcap = 1e-40}},  // too small for the scale
      {"AttentionOptions::softcap = 1", {.scale = 3e38, .softcap = 1.0}},
      {"AttentionOptions::scale = 1e+39", {.scale = 1e39}},
      {"AttentionOptions::scale = -1e+39", {.scale = -1e39}},
      {"AttentionOptions::scale = 1e-50", {.scale = 1e-50}},
      {"AttentionOptions::sinks of head 0 = 1e+39", {.sinks = 1e39}},
      {"AttentionOptions::sinks of head 0 = -1e+39", {.sinks = -1e39}},
      {"AttentionOptions::sinks of head 0 = 1e-50", {.sinks = 1e-50}},
      {"Mask::alibi_slope of head 0 = 1e+39", {.mask = {.alibi_slope = 1e39}}},
      {"Mask::alibi_slope of head 0 = -1e-46", {.mask = {.alibi_slope = -1e-46}}},
      {"Mask::alibi_slope of head 0 = 1e+38", {.mask = {.alibi_slope = 1e38}}},  // times a distance
  };
}

template <class S>
void expect_refused_by_name() {
  const auto in = random_inputs<S>({.n_q = 6, .n_k = 9, .d = 4, .d_v = 3});
  for (const RefusedCase& refused : refused_cases()) {
    Matrix<S> out = Matrix<S>::Constant(6, 3, nan_of<S>());
    Vector<Accumulator<S>> lse = Vector<Accumulator<S>>::Constant(6, nan_of<Accumulator<S>>());
    const Matrix<S> out_before = out;
    const Vector<Accumulator<S>> lse_before = lse;
    for (const bool oracle : {false, true}) {
      std::string said = "nothing";
      try {
        if (oracle) {
          reference_attention(in.q, in.k, in.v, refused.options);
        } else {
          attend_into(out, lse, in.q, in.k, in.v, refused.options);
        }
      } catch (const OptionError& error) {
        said = error.what();
      }
      EXPECT_NE(said.find(refused.said), std::string::npos) << refused.said << " is not in: " << said;
      EXPECT_NE(said.find("float"), std::string::npos) << said;
    }
    EXPECT_SAME_BITS(out, out_before);
    EXPECT_SAME_BITS(lse, lse_before);
  }
}

TEST(ExtremeOptions, ThatFloatCannotHoldAreRefusedByName) {
  expect_refused_by_name<float>();
  expect_refused_by_name<Eigen::half>();
  expect_refused_by_name<Eigen::bfloat16>();
}

TEST(ExtremeOptions, ThatFloatCannotHoldAreFineInDouble) {
  for (const RefusedCase& fine : refused_cases()) {
    SCOPED_TRACE(fine.said);
    auto in = random_inputs<double>({.n_q = 40, .n_k = 70, .d = 4, .d_v = 3});
    const double scale = std::abs(fine.options.scale.value_or(0.5));
    if (scale > 1e30 || (scale > 0 && scale < 1e-30)) in.q /= scale;
    const auto want = reference_attention(in.q, in.k, in.v, fine.options);
    const auto got = attend(in.q, in.k, in.v, fine.options);
    const RoundingError rounding = rounding_of(in, fine.options);
    EXPECT_MATRIX_NEAR(got.out, want.out, rounding.out);
    EXPECT_MATRIX_NEAR(got.lse, want.lse, rounding.lse);
  }
}

/// Biases past the largest float beside ordinary ones, -inf, and rows that hold nothing else.
Matrix<double> biases_past_float(Index n_q, Index n_k) {
  Matrix<double> bias = random_matrix<double>(n_q, n_k, 8);
  NumberStream numbers(9);
  const double special[] = {-1e39, -std::numeric_limits<double>::max(), -largest, 1e39, -1e39};
  for (Index i = 0; i < n_q; ++i) {
    for (Index j = 0; j < n_k; ++j) {
      const Index kind = numbers.below(12);
      if (kind < 3 || i % 7 == 2) bias(i, j) = special[kind % 3];
      if (kind == 3 && i % 7 == 3) bias(i, j) = special[3];
      if (kind == 4 || i % 7 == 4) fill(bias.block(i, j, 1, 1), minus_infinity_of<double>());
    }
  }
  return bias;
}

/// The same with its finite entries within float.
Matrix<double> within_float(Matrix<double> bias) {
  for (Index i = 0; i < bias.size(); ++i) {
    double& entry = bias.data()[i];
    if (!heed::detail::is_minus_infinity(entry)) entry = std::clamp(entry, -largest, largest);
  }
  return bias;
}

template <class S>
void expect_biases_saturate(Index n_q) {
  SCOPED_TRACE(testing::Message() << dtype_name<S>() << ", queries: " << n_q);
  const Index n_k = 150;
  const auto in = random_inputs<S>({.n_q = n_q, .n_k = n_k, .d = 8, .d_v = 5});
  const auto exact = in.template cast<double>();
  const Matrix<double> rows = biases_past_float(n_q, n_k), saturated = within_float(rows);
  const Eigen::MatrixXd columns = rows;
  const Matrix<double> spread = [&] {
    Matrix<double> wide = Matrix<double>::Zero(2 * n_q, 2 * n_k);
    for (Index i = 0; i < n_q; ++i)
      for (Index j = 0; j < n_k; ++j) wide(2 * i, 2 * j) = rows(i, j);
    return wide;
  }();
  const Eigen::Map<const Matrix<double>, Eigen::Unaligned, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>> strided(
      spread.data(), n_q, n_k, {4 * n_k, 2});
  const auto want = reference_attention(exact.q, exact.k, exact.v, {.mask = {.bias = saturated}});
  const RoundingError rounding = rounding_against<S>(want, in, {.mask = {.bias = saturated}});
  const double kept = static_cast<double>((rows.array() > -std::numeric_limits<double>::infinity()).count());
  const auto check = [&](const char* layout, const BiasView& bias) {
    SCOPED_TRACE(layout);
    FlopCounter flops;
    const auto got = attend(in.q, in.k, in.v, {.mask = {.bias = bias}}, ExactAttention{}, {.flops = &flops});
    EXPECT_MATRIX_NEAR(got.out, want.out, rounding.out);
    EXPECT_MATRIX_NEAR(got.lse, want.lse, rounding.lse);
    EXPECT_EQ(flops.exponentials(), kept);
    const auto oracle = reference_attention(in.q, in.k, in.v, {.mask = {.bias = bias}});
    EXPECT_MATRIX_NEAR(oracle.out, want.out, rounding.out);
    EXPECT_MATRIX_NEAR(oracle.lse, want.lse, rounding.lse);
  };
  check("rows", rows);
  check("columns", columns);
  check("strides", strided);
}

TEST(ExtremeOptions, EntriesOfABiasPastTheLargestFloatCountAsThat) {
  for (const Index n_q : {1, 45}) {
    expect_biases_saturate<float>(n_q);
    expect_biases_saturate<Eigen::half>(n_q);
    expect_biases_saturate<Eigen::bfloat16>(n_q);
  }
}

/// Tokens in two lists that take turns.
struct TwoLists {
  std::vector<Index> even, odd;
  TwoLists(Index n) {
    for (Index t = 0; t < n; ++t) (t % 2 == 0 ? even : odd).push_back(t);
  }
  TokenSet set(Index g) const {
    const std::vector<Index>& list = g == 0 ? even : odd;
    return {0, static_cast<Index>(list.size()), list.data()};
  }
};
struct TwoGroups {
  TwoLists rows, columns;
  Index n_groups() const { return 2; }
  TokenSet queries(Index g) const { return rows.set(g); }
  Index n_segments(Index) const { return 1; }
  TokenSet keys(Index g, Index) const { return columns.set(g); }
};

TEST(ExtremeOptions, EntriesOfABiasSaturateForListedTokensToo) {
  const Index n_q = 60, n_k = 100;
  const auto in = random_inputs<float>({.n_q = n_q, .n_k = n_k, .d = 8, .d_v = 5});
  const auto exact = in.cast<double>();
  const Matrix<double> rows = biases_past_float(n_q, n_k), saturated = within_float(rows);
  const Eigen::MatrixXd columns = rows;
  PairMatrix allowed(n_q, n_k);
  for (Index i = 0; i < n_q; ++i)
    for (Index j = 0; j < n_k; ++j) allowed(i, j) = i % 2 == j % 2;
  const AttentionOptions options{.mask = {.allowed = allowed, .bias = saturated}};
  const auto want = reference_attention(exact.q, exact.k, exact.v, options);
  const RoundingError rounding = rounding_against<float>(want, in, options);
  for (const BiasView& bias : {BiasView(rows), BiasView(columns)}) {
    const auto got = attend_over(TwoGroups{TwoLists(n_q), TwoLists(n_k)}, in.q, in.k, in.v, {.mask = {.bias = bias}});
    EXPECT_MATRIX_NEAR(got.out, want.out, rounding.out);
    EXPECT_MATRIX_NEAR(got.lse, want.lse, rounding.lse);
  }
}

/// The default scale of wide heads leaves room for a softcap that is too small beside a scale of 1.
TEST(ExtremeOptions, ASoftcapIsJudgedByTheScaleThatIsUsed) {
  const auto in = random_inputs<float>({.n_q = 5, .n_k = 7, .d = 64});
  EXPECT_NO_THROW(attend(in.q, in.k, in.v, {.softcap = 4e-39}));
  EXPECT_THROW(attend(in.q, in.k, in.v, {.scale = 1.0, .softcap = 4e-39}), OptionError);
}

}  // namespace
}  // namespace heed::test
