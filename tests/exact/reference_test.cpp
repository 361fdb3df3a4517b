#include "heed/exact/reference.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/core/check.hpp"
#include "heed/exact/attend.hpp"
#include "support/conformance.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"

namespace heed::test {
namespace {

/// A scalar the library has never heard of: a number and its derivative.
struct Dual {
  double value = 0.0;
  double slope = 0.0;
  Dual() = default;
  Dual(double v) : value(v) {}
  Dual(double v, double s) : value(v), slope(s) {}
  Dual& operator+=(const Dual& o) { return *this = {value + o.value, slope + o.slope}; }
  Dual& operator-=(const Dual& o) { return *this = {value - o.value, slope - o.slope}; }
  Dual& operator*=(const Dual& o) { return *this = {value * o.value, slope * o.value + value * o.slope}; }
  friend Dual operator*(Dual a, const Dual& b) { return a *= b; }
  friend Dual operator-(Dual a, const Dual& b) { return a -= b; }
  friend Dual operator+(Dual a, const Dual& b) { return a += b; }
  friend Dual operator/(const Dual& a, const Dual& b) {
    return {a.value / b.value, (a.slope * b.value - a.value * b.slope) / (b.value * b.value)};
  }
  friend bool operator>(const Dual& a, const Dual& b) { return a.value > b.value; }
  friend Dual exp(const Dual& a) { return {std::exp(a.value), a.slope * std::exp(a.value)}; }
  friend Dual log(const Dual& a) { return {std::log(a.value), a.slope / a.value}; }
  friend Dual sqrt(const Dual& a) { return {std::sqrt(a.value), a.slope / (2.0 * std::sqrt(a.value))}; }
  friend Dual tanh(const Dual& a) {
    return {std::tanh(a.value), a.slope * (1.0 - std::tanh(a.value) * std::tanh(a.value))};
  }
};

}  // namespace
}  // namespace heed::test

namespace Eigen {
template <>
struct NumTraits<heed::test::Dual> : NumTraits<double> {
  using Real = heed::test::Dual;
  using NonInteger = heed::test::Dual;
  using Nested = heed::test::Dual;
};
}  // namespace Eigen

namespace heed::test {
namespace {

/// Which pairs the mask keeps, one string a query: "x" kept, "." masked. Read off the answer: v is the identity.
std::vector<std::string> picture_of(const Mask& mask, Index n_q, Index n_k) {
  const Matrix<double> q = Matrix<double>::Zero(n_q, 2), k = Matrix<double>::Zero(n_k, 2),
                       v = Matrix<double>::Identity(n_k, n_k);
  const AttentionResult<double> result = reference_attention(q, k, v, {.mask = mask});
  std::vector<std::string> picture;
  for (Index i = 0; i < n_q; ++i) {
    std::string row;
    for (Index j = 0; j < n_k; ++j) row += result.out(i, j) > 0.0 ? 'x' : '.';
    picture.push_back(row);
  }
  return picture;
}
using Picture = std::vector<std::string>;

/// The oracle as a method, so that the suite that judges every method by the oracle is itself seen to be satisfiable.
struct ReferenceMethod {
  template <class Out, class A, class In>
  void attend_into(Out out, LseSpan<A> lse, const In& q, const In& k, const In& v, const AttentionOptions& options,
                   const Context& context) const {
    heed::detail::check_attention<A>(q.cols(), k.rows(), k.cols(), v.rows(), {q.rows(), k.rows(), q.cols(), v.cols()},
                                     options);
    const auto result = reference_attention(q, k, v, options);
    heed::detail::check_output(out.rows(), out.cols(), q.rows(), v.cols());
    if (lse.wanted() && lse.size() != q.rows()) {
      throw ShapeError(heed::detail::message("lse has ", lse.size(), " entries but must have rows(q) = ", q.rows()));
    }
    out = result.out;
    for (Index i = 0; i < lse.size(); ++i) lse.data()[i * lse.stride()] = result.lse(i);
    if (context.flops == nullptr) return;
    double pairs = 0.0;
    for (Index i = 0; i < q.rows(); ++i) {
      for (Index j = 0; j < k.rows(); ++j)
        pairs += heed::detail::reference_pair(options.mask, i, j, q.rows(), k.rows(), 0).kept ? 1.0 : 0.0;
    }
    context.flops->add_products(Phase::scores, 2.0 * static_cast<double>(q.cols()) * pairs);
    context.flops->add_products(Phase::values, 2.0 * static_cast<double>(v.cols()) * pairs);
    context.flops->add_exponentials(pairs);
    context.flops->add_tokens(static_cast<double>(real_keys_of(options.mask, k.rows())), static_cast<double>(k.rows()));
  }
};

INSTANTIATE_METHOD_SUITE(Reference,
                         {.make = [](const Inputs<float>&) { return ReferenceMethod{}; }, .reuses_workspace = false});

TEST(Reference, TwoKeysByHand) {
  Matrix<double> q(1, 1), k(2, 1), v(2, 2);
  q << 2.0;
  k << 0.0, std::log(3.0) / 2.0;  // scores 0 and log 3: weights 1/4 and 3/4
  v << 4.0, 0.0, 0.0, 8.0;
  const AttentionResult<double> result = reference_attention(q, k, v);
  EXPECT_NEAR(result.out(0, 0), 1.0, 1e-15);
  EXPECT_NEAR(result.out(0, 1), 6.0, 1e-14);
  EXPECT_NEAR(result.lse(0), std::log(4.0), 1e-15);
}

TEST(Reference, EqualsTheThreeMatrixExpressions) {
  const auto in = random_inputs<double>({.n_q = 5, .n_k = 9, .d = 4, .d_v = 3});
  const Eigen::ArrayXXd scores = in.q * in.k.transpose() / std::sqrt(4.0);
  const Eigen::ArrayXXd weights = scores.exp();
  const Eigen::ArrayXd sums = weights.rowwise().sum();
  const Eigen::MatrixXd want = (weights.colwise() / sums).matrix() * in.v;
  const AttentionResult<double> got = reference_attention(in.q, in.k, in.v);
  EXPECT_MATRIX_NEAR(got.out, want, 1e-14);
  EXPECT_MATRIX_NEAR(got.lse, sums.log().matrix(), 1e-14);
}

TEST(Reference, CausalCorners) {
  EXPECT_EQ(picture_of({.causal = Causal::square}, 3, 3), (Picture{"x..", "xx.", "xxx"}));
  EXPECT_EQ(picture_of({.causal = Causal::top_left}, 2, 5), (Picture{"x....", "xx..."}));
  EXPECT_EQ(picture_of({.causal = Causal::bottom_right}, 2, 5), (Picture{"xxxx.", "xxxxx"}));
  EXPECT_EQ(picture_of({.causal = Causal::top_left}, 5, 2), (Picture{"x.", "xx", "xx", "xx", "xx"}));
  EXPECT_EQ(picture_of({.causal = Causal::bottom_right}, 5, 2), (Picture{"..", "..", "..", "x.", "xx"}));
}

TEST(Reference, WindowBoundsAreInclusiveOnTheAlignedDiagonal) {
  EXPECT_EQ(picture_of({.window_left = 1, .window_right = 0}, 3, 5), (Picture{"x....", "xx...", ".xx.."}));
  EXPECT_EQ(picture_of({.window_left = 0, .window_right = 2}, 3, 5), (Picture{"xxx..", ".xxx.", "..xxx"}));
  EXPECT_EQ(picture_of({.causal = Causal::bottom_right, .window_left = 1}, 3, 5), (Picture{".xx..", "..xx.", "...xx"}));
  EXPECT_EQ(picture_of({.causal = Causal::top_left, .window_left = 1, .window_right = 3}, 3, 5),
            (Picture{"x....", "xx...", ".xx.."}));
}

TEST(Reference, PaddingAndBooleanMasksIntersect) {
  Eigen::Matrix<bool, 2, 4> allowed;
  allowed << true, false, true, true, false, true, false, true;
  EXPECT_EQ(picture_of({.n_real_keys = 3}, 2, 4), (Picture{"xxx.", "xxx."}));
  EXPECT_EQ(picture_of({.allowed = allowed}, 2, 4), (Picture{"x.xx", ".x.x"}));
  EXPECT_EQ(picture_of({.n_real_keys = 3, .allowed = allowed}, 2, 4), (Picture{"x.x.", ".x.."}));
}

TEST(Reference, PackedSequencesSeeTheirOwnKeysAtTheirOwnPositions) {
  const std::vector<Index> queries{0, 2, 2, 5}, keys{0, 3, 4, 6};
  EXPECT_EQ(picture_of({.sequence_offsets = queries, .key_sequence_offsets = keys}, 5, 6),
            (Picture{"xxx...", "xxx...", "....xx", "....xx", "....xx"}));
  EXPECT_EQ(
      picture_of({.causal = Causal::bottom_right, .sequence_offsets = queries, .key_sequence_offsets = keys}, 5, 6),
      (Picture{"xx....", "xxx...", "......", "....x.", "....xx"}));
  EXPECT_EQ(picture_of({.causal = Causal::square, .sequence_offsets = queries}, 5, 5),
            (Picture{"x....", "xx...", "..x..", "..xx.", "..xxx"}));
}

TEST(Reference, PaddingOfPackedSequencesCountsKeyRowsOfTheWholeBatch) {
  const std::vector<Index> offsets{0, 2, 4};
  EXPECT_EQ(picture_of({.n_real_keys = 3, .sequence_offsets = offsets}, 4, 4),
            (Picture{"xx..", "xx..", "..x.", "..x."}));
}

TEST(Reference, OptionsActInTheirOrder) {
  const auto in = random_inputs<double>({.n_q = 1, .n_k = 1, .d = 3});
  const double product = in.q.row(0).dot(in.k.row(0));
  Matrix<double> bias(1, 1);
  bias << 0.7;
  const auto lse = [&](const AttentionOptions& options) {
    return reference_attention(in.q, in.k, in.v, options).lse(0);
  };
  EXPECT_NEAR(lse({}), product / std::sqrt(3.0), 1e-15);
  EXPECT_NEAR(lse({.scale = -2.0}), -2.0 * product, 1e-15);
  EXPECT_NEAR(lse({.scale = 2.0, .softcap = 1.5}), 1.5 * std::tanh(2.0 * product / 1.5), 1e-15);
  EXPECT_NEAR(lse({.scale = 2.0, .mask = {.bias = bias}, .softcap = 1.5}), 1.5 * std::tanh(2.0 * product / 1.5) + 0.7,
              1e-15);
  const auto doubled = [](double s, Index, Index) { return 2.0 * s; };
  EXPECT_NEAR(reference_attention(in.q, in.k, in.v, {.scale = 2.0, .mask = {.bias = bias}}, doubled).lse(0),
              2.0 * (2.0 * product + 0.7), 1e-14);
}

TEST(Reference, AlibiFallsWithTheDistanceFromTheAlignedDiagonal) {
  const Matrix<double> q = Matrix<double>::Zero(2, 1), k = Matrix<double>::Zero(4, 1),
                       v = Matrix<double>::Identity(4, 4);
  const auto none = reference_attention(q, k, v, {.mask = {.alibi_slope = 0.5}});
  EXPECT_NEAR(std::log(none.out(0, 0) / none.out(0, 3)), 1.5, 1e-14);
  EXPECT_NEAR(std::log(none.out(1, 1) / none.out(1, 0)), 0.5, 1e-14) << "keys after the diagonal fall too";
  const auto decoding = reference_attention(q, k, v, {.mask = {.causal = Causal::bottom_right, .alibi_slope = 0.5}});
  EXPECT_NEAR(std::log(decoding.out(1, 3) / decoding.out(1, 0)), 1.5, 1e-14);
}

TEST(Reference, AScoreFunctorSeesRowsOfTheCallAndMayMask) {
  const Matrix<double> q = Matrix<double>::Zero(2, 1), k = Matrix<double>::Zero(3, 1),
                       v = Matrix<double>::Identity(3, 3);
  const auto odd_pairs = [](double s, Index i, Index j) { return (i + j) % 2 == 1 ? s : minus_infinity_of<double>(); };
  const auto result = reference_attention(q, k, v, {}, odd_pairs);
  EXPECT_EQ(result.out.row(0), (Eigen::RowVector3d(0.0, 1.0, 0.0)));
  EXPECT_EQ(result.out.row(1), (Eigen::RowVector3d(0.5, 0.0, 0.5)));
}

TEST(Reference, ASinkJoinsTheDenominatorOnly) {
  Matrix<double> q(1, 1), k(1, 1), v(1, 1);
  q << 1.0;
  k << 2.0;
  v << 10.0;
  const auto result = reference_attention(q, k, v, {.sinks = 2.0});
  EXPECT_NEAR(result.out(0, 0), 5.0, 1e-14);
  EXPECT_NEAR(result.lse(0), 2.0 + std::log(2.0), 1e-14);
  const auto alone = reference_attention(q, k, v, {.mask = {.n_real_keys = 0}, .sinks = 2.0});
  EXPECT_EQ(alone.out(0, 0), 0.0);
  EXPECT_EQ(alone.lse(0), 2.0);
  const auto large = reference_attention(q, k, v, {.sinks = 1e6});
  EXPECT_EQ(large.out(0, 0), 0.0);
  EXPECT_EQ(large.lse(0), 1e6);
}

TEST(Reference, ReadsTheRowsAndNumbersOfItsHead) {
  const auto in = random_inputs<double>({.n_q = 2, .n_k = 3, .d = 4});
  const Matrix<double> stacked = random_matrix<double>(6, 3, 4), own = stacked.middleRows(4, 2);
  const std::vector<double> slopes{0.1, 0.2, 0.3}, sinks{1.0, 2.0, 3.0};
  const auto of_stack = reference_attention(
      in.q, in.k, in.v, {.mask = {.bias = stacked, .alibi_slope = slopes}, .sinks = sinks}, NoScoreMod{}, 2);
  const auto alone = reference_attention(in.q, in.k, in.v, {.mask = {.bias = own, .alibi_slope = 0.3}, .sinks = 3.0});
  EXPECT_SAME_BITS(of_stack.out, alone.out);
  EXPECT_SAME_BITS(of_stack.lse, alone.lse);
}

TEST(Reference, TakesEveryStorage) {
  const auto in = random_inputs<float>({.n_q = 6, .n_k = 7, .d = 4, .d_v = 3});
  const Eigen::MatrixXf q = in.q, k_transposed = in.k.transpose();
  Eigen::MatrixXf wide(9, 8);
  wide.block(1, 2, 7, 3) = in.v;
  const auto got = reference_attention(q, k_transposed.transpose(), wide.block(1, 2, 7, 3));
  EXPECT_SAME_BITS(got.out, reference_attention(in.q, in.k, in.v).out);
}

TEST(Reference, TakesAnyScalar) {
  const auto in = random_inputs<double>({.n_q = 3, .n_k = 5, .d = 4, .d_v = 2});
  const AttentionOptions options{
      .mask = {.causal = Causal::bottom_right, .alibi_slope = 0.1}, .softcap = 2.0, .sinks = 0.5};
  const auto want = reference_attention(in.q, in.k, in.v, options);
  const auto wide = in.cast<long double>();
  EXPECT_MATRIX_NEAR(reference_attention(wide.q, wide.k, wide.v, options).out, want.out, 1e-14);

  // d out / d q(1, 2), against a difference quotient.
  Matrix<Dual> q(3, 4), k(5, 4), v(5, 2);
  for (Index t = 0; t < q.size(); ++t) q.data()[t] = in.q.data()[t];
  for (Index t = 0; t < k.size(); ++t) k.data()[t] = in.k.data()[t];
  for (Index t = 0; t < v.size(); ++t) v.data()[t] = in.v.data()[t];
  q(1, 2).slope = 1.0;
  const auto dual = reference_attention(q, k, v, options);
  auto ahead = in, behind = in;
  const double step = 1e-5;
  ahead.q(1, 2) += step;
  behind.q(1, 2) -= step;
  const Matrix<double> slope = (reference_attention(ahead.q, ahead.k, ahead.v, options).out -
                                reference_attention(behind.q, behind.k, behind.v, options).out) /
                               (2.0 * step);
  for (Index i = 0; i < 3; ++i) {
    for (Index c = 0; c < 2; ++c) {
      EXPECT_NEAR(dual.out(i, c).value, want.out(i, c), 1e-15);
      EXPECT_NEAR(dual.out(i, c).slope, slope(i, c), 1e-9);
    }
  }
}

TEST(Reference, SumsSixteenBitScalarsInFloat) {
  // 4096 ones in bfloat16 would stop adding up at 256.
  const Matrix<Eigen::bfloat16> q = Matrix<Eigen::bfloat16>::Constant(1, 4096, Eigen::bfloat16(1.0f)), k = q;
  const Matrix<Eigen::bfloat16> v = Matrix<Eigen::bfloat16>::Constant(1, 1, Eigen::bfloat16(1.0f));
  const auto result = reference_attention(q, k, v);
  static_assert(std::is_same_v<decltype(result.lse)::Scalar, float>);
  EXPECT_EQ(result.lse(0), 64.0f);
}

TEST(Reference, RefusesWrongShapesAndOptions) {
  const auto in = random_inputs<double>({.n_q = 3, .n_k = 5, .d = 4, .d_v = 2});
  EXPECT_THROW(reference_attention(in.q.leftCols(3), in.k, in.v), ShapeError);
  EXPECT_THROW(reference_attention(in.q, in.k, in.v.topRows(4)), ShapeError);
  EXPECT_THROW(reference_attention(in.q, in.k, in.v, {.softcap = 0.0}), OptionError);
  EXPECT_THROW(reference_attention(in.q, in.k, in.v, {.mask = {.causal = Causal::square}}), OptionError);
}

}  // namespace
}  // namespace heed::test
