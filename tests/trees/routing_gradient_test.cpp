#include "heed/trees/routing_gradient.hpp"

#include <cmath>
#include <span>
#include <vector>

#include <gtest/gtest.h>

#include "heed/core/flops.hpp"
#include "heed/core/workspace.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"

namespace heed::test::routing_gradient {
namespace {

using heed::detail::RoutedTokens;
using heed::detail::Router;
using heed::detail::SignalGroup;
using heed::detail::SignalPanel;
using heed::detail::TreeSums;

/// A tree of height 2 over tokens of width 3, and what one call adds.
struct Routing {
  static constexpr Index d = 3, stride = 16, n_nodes = 3;
  explicit Routing(bool lifted) {
    planes.leftCols(d) = 0.4 * random_matrix<double>(n_nodes, d, 5);
    router = {planes.data(), stride, biases.data(), lifted ? lift.data() : nullptr, 4.0, 2, d};
  }
  /// Every token signals y = 1 + token at each node.
  void add(Matrix<double>& x, TokenRole role) {
    const Index nodes[] = {0, 1, 2};
    const SignalGroup group{{0, x.rows()}, nodes, n_nodes};
    Workspace::Frame frame(workspace);
    const auto sums = TreeSums<double>::take(frame, n_nodes, d);
    sums.clear();
    d_x.setZero(x.rows(), d);
    const auto signals = [](const SignalPanel<double>& panel) {
      for (Index v = 0; v < n_nodes; ++v) {
        for (Index i = 0; i < panel.tokens.size; ++i)
          panel.y[v * panel.width + i] = 1 + static_cast<double>(panel.tokens[i]);
      }
    };
    heed::detail::add_routing_gradient(RoutedTokens<double, double>{&router, view_of(x), role, output_view_of(d_x)},
                                       std::span<const SignalGroup>(&group, 1), signals, sums,
                                       {.flops = &flops, .workspace = &workspace});
    for (Index v = 0; v < n_nodes; ++v) {
      of_biases(v) = sums.biases[v];
      for (Index c = 0; c < d; ++c) of_planes(v, c) = sums.planes[v * sums.stride + c];
    }
  }

  Workspace workspace;
  Matrix<double> planes = Matrix<double>::Zero(n_nodes, stride), d_x, of_planes{n_nodes, d};
  Vector<double> biases = Vector<double>::Zero(n_nodes), lift = random_matrix<double>(n_nodes, 1, 6),
                 of_biases{n_nodes};
  Router<double> router;
  FlopCounter flops;
};

/// With biases of 0, a row that stands as zeros would lie on every plane.
TEST(RoutingGradient, ARowThatIsNotFiniteGivesNothing) {
  for (const TokenRole role : {TokenRole::query, TokenRole::key}) {
    for (const double bad : {nan_of<double>(), infinity_of<double>()}) {
      Routing routing(false);
      Matrix<double> x = random_matrix<double>(20, 3, 1);
      x(7, 1) = bad;
      routing.add(x, role);
      Matrix<double> planes = Matrix<double>::Zero(3, 3);
      Vector<double> biases = Vector<double>::Zero(3);
      Index reached = 0;
      for (Index i = 0; i < 20; ++i) {
        if (i == 7) continue;
        for (Index v = 0; v < 3; ++v) {
          if (std::abs(routing.planes.row(v).head(3).dot(x.row(i))) > 1) continue;
          ++reached;
          biases(v) += 1 + static_cast<double>(i);
          planes.row(v) += (1 + static_cast<double>(i)) * x.row(i);
        }
      }
      EXPECT_GT(reached, 20);
      EXPECT_MATRIX_NEAR(routing.of_planes, planes, 1e-12);
      EXPECT_MATRIX_NEAR(routing.of_biases, biases, 1e-12);
      EXPECT_TRUE(routing.d_x.row(7).isZero(0));
    }
  }
}

TEST(RoutingGradient, CountsTheCoordinateThatKeysAloneHave) {
  for (const bool lifted : {false, true}) {
    for (const TokenRole role : {TokenRole::query, TokenRole::key}) {
      Routing routing(lifted);
      Matrix<double> x = random_matrix<double>(20, 3, 1);
      routing.add(x, role);
      const double lift = lifted && role == TokenRole::key ? 1 : 0, pairs = 20 * 3;
      EXPECT_EQ(routing.flops.products(Phase::route), 2 * pairs * (3 + lift));
      EXPECT_EQ(routing.flops.products(Phase::backward_scores), pairs * (4 * 3 + 2 * lift));
    }
  }
}

}  // namespace
}  // namespace heed::test::routing_gradient
