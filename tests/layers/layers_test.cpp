#include <cmath>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "heed/layers/embedding.hpp"
#include "heed/layers/feed_forward.hpp"
#include "heed/layers/linear.hpp"
#include "heed/layers/norms.hpp"
#include "heed/layers/parameter_store.hpp"
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

TEST(ParameterStoreErrors, NameTheArgument) {
  ParameterStore<float> store;
  store.add("a", 2, 3);
  EXPECT_THROW(store.add("a", 1, 1), OptionError);
  EXPECT_THROW(store.add("", 1, 1), OptionError);
  EXPECT_THROW(store.add("b", -1, 1), ShapeError);
  EXPECT_THROW(store.add("b", 1, 1, {.rate = -1}), OptionError);
  EXPECT_EQ(store.size(), 6);
}

}  // namespace
}  // namespace heed::test
