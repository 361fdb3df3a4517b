#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "heed/layers/embedding.hpp"
#include "heed/layers/feed_forward.hpp"
#include "heed/layers/linear.hpp"
#include "heed/layers/norms.hpp"
#include "heed/layers/parameter_store.hpp"
#include "support/allocations.hpp"
#include "support/layer_check.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

/// Moves every parameter off what it starts as, so that gains of 1 and shifts of 0 hide nothing.
void disturb(ParameterStore<double>& store) {
  NumberStream numbers(7);
  for (double& value : store.all_values()) value += 0.3 * numbers.normal();
}

double along(const Matrix<double>& y, const Matrix<double>& d_y) { return (y.array() * d_y.array()).sum(); }

TEST(LinearLayer, HasTheGradientsOfItsFormula) {
  for (const bool bias : {false, true}) {
    ParameterStore<double> store;
    const Linear<double> layer(store, "linear", 11, 19, bias, 3);
    disturb(store);
    Workspace workspace;
    const Context context{.workspace = &workspace, .threads = 2};
    Matrix<double> x = random_matrix<double>(37, 11, 1), y(37, 19), d_x(37, 11);
    const Matrix<double> d_y = random_matrix<double>(37, 19, 2);
    const auto loss = [&] {
      layer.forward(store, view_of(x), output_view_of(y), context);
      return along(y, d_y);
    };
    loss();
    Matrix<double> want = x * Eigen::Map<const Matrix<double>>(store.values(layer.weights()).data, 11, 19);
    if (bias) want.rowwise() += Eigen::Map<const Eigen::RowVectorXd>(store.values(layer.bias()).data, 19);
    EXPECT_MATRIX_NEAR(y, want, 1e-13);
    store.clear_gradients();
    layer.backward(store, view_of(x), view_of(d_y), output_view_of(d_x), context);
    expect_parameter_derivatives(store, loss);
    expect_derivative(x.data(), d_x.data(), x.size(), loss, "x");
  }
}

template <class Norm>
void check_norm(Index kept_per_row) {
  ParameterStore<double> store;
  const Norm layer(store, "norm", 13);
  disturb(store);
  Matrix<double> x = random_matrix<double>(21, 13, 1), y(21, 13), d_x = Matrix<double>::Zero(21, 13);
  const Matrix<double> d_y = random_matrix<double>(21, 13, 2);
  std::vector<double> kept(static_cast<std::size_t>(21 * kept_per_row));
  const auto loss = [&] {
    layer.forward(store, view_of(x), output_view_of(y), kept.data());
    return along(y, d_y);
  };
  loss();
  layer.backward(store, view_of(x), kept.data(), view_of(d_y), output_view_of(d_x));
  expect_parameter_derivatives(store, loss);
  expect_derivative(x.data(), d_x.data(), x.size(), loss, "x");
}

TEST(RmsNormLayer, HasTheGradientsOfItsFormula) { check_norm<RmsNorm<double>>(1); }
TEST(LayerNormLayer, HasTheGradientsOfItsFormula) { check_norm<LayerNorm<double>>(2); }

TEST(NormLayers, RowsOfOneNumberGiveNoNaN) {
  ParameterStore<double> store;
  const RmsNorm<double> of_squares(store, "squares", 4);
  const LayerNorm<double> of_moments(store, "moments", 4);
  disturb(store);
  const Matrix<double> zeros = Matrix<double>::Zero(1, 4), ones = Matrix<double>::Ones(1, 4);
  Matrix<double> y(1, 4), d_x = zeros;
  double inverse = 0, moments[2] = {};
  of_squares.forward(store, view_of(zeros), output_view_of(y), &inverse);
  EXPECT_TRUE(y.isZero(0));
  of_moments.forward(store, view_of(ones), output_view_of(y), moments);
  const ConstView<double> shift = std::as_const(store).values(store.find("moments.shift"));
  for (Index c = 0; c < 4; ++c) EXPECT_EQ(y(0, c), shift(0, c));
  of_squares.backward(store, view_of(zeros), &inverse, view_of(ones), output_view_of(d_x));
  of_moments.backward(store, view_of(ones), moments, view_of(ones), output_view_of(d_x));
  EXPECT_TRUE(d_x.allFinite());
}

/// y and d_x of a norm whose gain is 1, in double; `centred`: of LayerNorm.
struct NormOracle {
  NormOracle(const Eigen::MatrixXd& x, const Eigen::MatrixXd& d_y, bool centred, double eps) : y(x), d_x(x) {
    for (Index i = 0; i < x.rows(); ++i) {
      const Eigen::ArrayXd row = x.row(i).array() - (centred ? x.row(i).mean() : 0.0);
      const double inverse = 1 / std::sqrt(row.square().mean() + eps);
      const Eigen::ArrayXd u = row * inverse, g = d_y.row(i).array();
      y.row(i) = u;
      d_x.row(i) = inverse * (g - (centred ? g.mean() : 0.0) - u * (g * u).mean());
    }
  }
  Eigen::MatrixXd y, d_x;
};

template <class Norm>
void check_norm_of_size(double size, Index kept_per_row, bool centred, double eps) {
  SCOPED_TRACE(size);
  constexpr Index n = 6, d = 70;
  ParameterStore<float> store;
  const Norm layer(store, "norm", d);
  Matrix<float> x = random_matrix<float>(n, d, 1), y(n, d), d_x = Matrix<float>::Zero(n, d);
  x *= 1 / x.cwiseAbs().maxCoeff();
  x *= static_cast<float>(size);
  const Matrix<float> d_y = random_matrix<float>(n, d, 2);
  std::vector<float> kept(static_cast<std::size_t>(n * kept_per_row));
  layer.forward(store, view_of(x), output_view_of(y), kept.data());
  layer.backward(store, view_of(x), kept.data(), view_of(d_y), output_view_of(d_x));
  const NormOracle want(x.cast<double>(), d_y.cast<double>(), centred, eps);
  const auto near = [](const Matrix<float>& got, const Eigen::MatrixXd& of) {
    // Gradients by entries of 3e38 are below the smallest normal number.
    const double tolerance = 4e-6 * of.cwiseAbs().maxCoeff() + 4 * std::numeric_limits<float>::denorm_min();
    EXPECT_LT((got.cast<double>() - of).cwiseAbs().maxCoeff(), tolerance);
  };
  near(y, want.y);
  near(d_x, want.d_x);
  const ConstView<float> d_gain = std::as_const(store).gradients(store.find("norm.gain"));
  const Eigen::MatrixXd want_gain = (want.y.array() * d_y.cast<double>().array()).colwise().sum();
  near(Eigen::Map<const Matrix<float>>(d_gain.data, 1, d), want_gain);
}

TEST(NormLayers, RowsOfAnyFiniteSizeHaveTheirNorm) {
  for (const double size : {1e-25, 1.0, 1e5, 4e9, 5e9, 1e15, 1e19, 1e25, 3e38}) {
    check_norm_of_size<RmsNorm<float>>(size, 1, false, 1e-6);
    check_norm_of_size<LayerNorm<float>>(size, 2, true, 1e-5);
  }
}

TEST(NormLayers, LargeRowsOfDoubleHaveTheBitsOfSmallerOnes) {
  const auto answers = [](const auto& layer, ParameterStore<double>& store, double size) {
    const Matrix<double> x = random_matrix<double>(3, 13, 1) * size;
    Matrix<double> y(3, 13);
    std::vector<double> kept(6);
    layer.forward(store, view_of(x), output_view_of(y), kept.data());
    return y;
  };
  ParameterStore<double> store;
  const RmsNorm<double> of_squares(store, "squares", 13);
  const LayerNorm<double> of_moments(store, "moments", 13);
  EXPECT_SAME_BITS(answers(of_squares, store, 0x1p1020), answers(of_squares, store, 0x1p60));
  EXPECT_SAME_BITS(answers(of_moments, store, 0x1p1020), answers(of_moments, store, 0x1p60));
}

TEST(NormLayers, ARowOfOneLargeNumberIsCentredToZeros) {
  for (const float size : {1e5F, 1e19F, 0x1p127F}) {
    ParameterStore<float> store;
    const LayerNorm<float> layer(store, "norm", 4);
    const Matrix<float> x = Matrix<float>::Constant(1, 4, size);
    Matrix<float> y(1, 4), d_x = Matrix<float>::Zero(1, 4);
    float moments[2] = {};
    layer.forward(store, view_of(x), output_view_of(y), moments);
    EXPECT_TRUE(y.isZero(0)) << y;
    const Matrix<float> d_y = random_matrix<float>(1, 4, 2);
    layer.backward(store, view_of(x), moments, view_of(d_y), output_view_of(d_x));
    EXPECT_TRUE(d_x.allFinite()) << d_x;
  }
}

TEST(NormLayers, RefuseWhatHasNoNorm) {
  ParameterStore<float> store;
  for (const double eps : {0.0, -1.0, 1e-50, 1e50, std::numeric_limits<double>::quiet_NaN()}) {
    EXPECT_THROW(RmsNorm<float>(store, "norm", 4, eps), OptionError) << eps;
    EXPECT_THROW(LayerNorm<float>(store, "norm", 4, eps), OptionError) << eps;
  }
  EXPECT_THROW(RmsNorm<float>(store, "norm", 0), OptionError);
  EXPECT_THROW(LayerNorm<float>(store, "norm", 0), OptionError);
  EXPECT_EQ(store.n_slices(), 0);
}

TEST(FeedForwardLayer, HasTheGradientsOfItsFormula) {
  for (const Activation activation : {Activation::gelu, Activation::swiglu, Activation::squared_relu}) {
    SCOPED_TRACE(static_cast<int>(activation));
    ParameterStore<double> store;
    const FeedForward<double> layer(store, "mlp", 9, 17, activation, 3);
    Workspace workspace;
    const Context context{.workspace = &workspace, .threads = 1};
    Workspace kept_in;
    Workspace::Frame frame(kept_in);
    const auto kept = layer.take(frame, 14);
    Matrix<double> x = random_matrix<double>(14, 9, 1), y(14, 9), d_x(14, 9);
    const Matrix<double> d_y = random_matrix<double>(14, 9, 2);
    const auto loss = [&] {
      layer.forward(store, view_of(x), kept, output_view_of(y), context);
      return along(y, d_y);
    };
    loss();
    store.clear_gradients();
    layer.backward(store, view_of(x), kept, view_of(d_y), output_view_of(d_x), context);
    expect_parameter_derivatives(store, loss, 2e-7);
    expect_derivative(x.data(), d_x.data(), x.size(), loss, "x", 1e-5, 2e-7);
  }
}

TEST(EmbeddingLayer, GathersRowsAndScattersGradients) {
  ParameterStore<double> store;
  const Embedding<double> layer(store, "embedding", 6, 5, 1.0, 3);
  const std::vector<std::int32_t> tokens{3, 0, 3, 5};
  Matrix<double> y(4, 5);
  const Matrix<double> d_y = random_matrix<double>(4, 5, 2);
  const auto loss = [&] {
    y.setZero();
    layer.forward(store, tokens, output_view_of(y));
    return along(y, d_y);
  };
  loss();
  layer.backward(store, tokens, view_of(d_y));
  expect_parameter_derivatives(store, loss);
  const std::vector<std::int32_t> wrong{6};
  EXPECT_THROW(layer.forward(store, wrong, output_view_of(y)), OptionError);
}

TEST(RotaryPositions, RowIStandsAtPositionI) {
  Matrix<double> x = random_matrix<double>(5, 12, 1);  // two heads of width 6
  const Matrix<double> before = x;
  rotate_positions(output_view_of(x), 2, 100.0);
  EXPECT_SAME_BITS(x.row(0).eval(), before.row(0).eval());
  for (Index i = 0; i < 5; ++i) {
    for (Index h = 0; h < 2; ++h) {
      for (Index c = 0; c < 3; ++c) {
        const double angle = static_cast<double>(i) / std::pow(100.0, static_cast<double>(c) / 3);
        const double a = before(i, 6 * h + c), b = before(i, 6 * h + 3 + c);
        EXPECT_NEAR(x(i, 6 * h + c), a * std::cos(angle) - b * std::sin(angle), 1e-14);
        EXPECT_NEAR(x(i, 6 * h + 3 + c), a * std::sin(angle) + b * std::cos(angle), 1e-14);
      }
    }
  }
}

TEST(RotaryPositions, TurnBackAndKeepLengths) {
  Matrix<double> x = random_matrix<double>(9, 16, 1);
  const Matrix<double> before = x;
  rotate_positions(output_view_of(x), 2);
  EXPECT_MATRIX_NEAR(x.rowwise().norm().eval(), before.rowwise().norm().eval(), 1e-14);
  // The product of two rows of a head depends on their distance alone.
  Matrix<double> same = before;
  same.rowwise() = before.row(0);
  rotate_positions(output_view_of(same), 2);
  EXPECT_NEAR(same.row(2).head(8).dot(same.row(5).head(8)), same.row(4).head(8).dot(same.row(7).head(8)), 1e-13);
  rotate_positions(output_view_of(x), 2, 10000.0, -1);
  EXPECT_MATRIX_NEAR(x, before, 1e-14);
}

TEST(RotaryPositions, RefuseAnOddWidthOfHeads) {
  Matrix<double> x = random_matrix<double>(2, 12, 1);
  for (const Index n_heads : {0, 4, 5, 12}) EXPECT_THROW(rotate_positions(output_view_of(x), n_heads), ShapeError);
}

TEST(ParameterStoreErrors, NameTheArgument) {
  ParameterStore<float> store;
  store.add("a", 2, 3);
  EXPECT_THROW(store.add("a", 1, 1), OptionError);
  EXPECT_THROW(store.add("", 1, 1), OptionError);
  EXPECT_THROW(store.add("b", -1, 1), ShapeError);
  EXPECT_THROW(store.add("b", 1, 1, {.rate = -1}), OptionError);
  EXPECT_EQ(store.size(), 6);
}

TEST(ParameterStoreErrors, RatesAndDeviationsAreFiniteAndNotNegative) {
  ParameterStore<float> store;
  const Slice a = store.add("a", 2, 3);
  store.set_rate(a, 0.5);
  for (const double bad : {-1.0, nan_in_memory<double>, infinity_in_memory<double>}) {
    EXPECT_THROW(store.set_rate(a, bad), OptionError) << bad;
    EXPECT_THROW(store.set_options(a, {.rate = bad}), OptionError) << bad;
    EXPECT_THROW(store.add("b", 1, 1, {.rate = bad}), OptionError) << bad;
    EXPECT_THROW(store.fill_normal(a, bad, 1), OptionError) << bad;
    EXPECT_THROW(Embedding<float>(store, "b", 3, 4, bad, 1), OptionError) << bad;
  }
  EXPECT_THROW(store.fill_normal(a, 1e38, 1), OptionError);  // numbers of four deviations overflow
  EXPECT_THROW(store.set_rate(store.find("no such"), 0), OptionError);
  EXPECT_EQ(store.options(0).rate, 0.5);
  EXPECT_EQ(store.n_slices(), 1);
  for (const float value : store.all_values()) EXPECT_EQ(value, 0.0F);
}

void expect_same_parameters(const ParameterStore<float>& got, const ParameterStore<float>& want) {
  ASSERT_EQ(got.n_slices(), want.n_slices());
  for (Index s = 0; s < got.n_slices(); ++s) ASSERT_EQ(got.name(s), want.name(s));
  using Array = std::span<const float>;
  const std::pair<Array, Array> arrays[] = {{got.all_values(), want.all_values()},
                                            {got.all_gradients(), want.all_gradients()},
                                            {got.first_moments(), want.first_moments()},
                                            {got.second_moments(), want.second_moments()}};
  for (const auto& [a, b] : arrays) ASSERT_TRUE(std::ranges::equal(a, b));
}

TEST(ParameterStore, WhereMemoryEndsNothingIsAdded) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations are not counted here";
  ParameterStore<float> store;
  store.fill_normal(store.add("a parameter that was there before", 5, 7), 1, 1);
  std::ranges::fill(store.second_moments(), 3.0F);
  const ParameterStore<float> before = store;
  const int failures =
      with_each_allocation_failing([&] { store.add("a parameter that is added to the others", 40, 50); },
                                   [&] { expect_same_parameters(store, before); });
  EXPECT_GE(failures, 4);  // arrays that had got their memory keep it
  EXPECT_EQ(store.size(), 2035);
}

TEST(ParameterStore, ALayerThatThrowsTakesItsParametersBack) {
  const auto refused = [](const char* there, const auto& make) {
    ParameterStore<float> store;
    store.add(there, 1, 1);
    const ParameterStore<float> before = store;
    EXPECT_THROW(make(store), OptionError) << there;
    expect_same_parameters(store, before);
  };
  refused("x.b", [](auto& store) { Linear<float>(store, "x", 2, 3, true, 1); });
  refused("x.out.b", [](auto& store) { FeedForward<float>(store, "x", 2, 3, Activation::gelu, 1); });
  refused("x.shift", [](auto& store) { LayerNorm<float>(store, "x", 2); });
}

}  // namespace
}  // namespace heed::test
