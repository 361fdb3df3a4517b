#include "heed/trees/leaf_signals.hpp"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/inputs.hpp"

namespace heed::test::leaf_signals {
namespace {

/// dL/ds of one token from the formula in the header: s_v is the decision that was taken on the path to `leaf`,
/// whatever the sign of z, and the sign of z elsewhere.
Vector<double> plain_signals(Index height, RoutingGradient routing, Index leaf, const Vector<double>& u,
                             const Vector<double>& z) {
  const Index n_leaves = Index(1) << height;
  Vector<double> s(n_leaves - 1), y = Vector<double>::Zero(n_leaves - 1);
  const auto on_path = [&](Index to, const auto& visit) {  // visit(node, the side on which the path goes on)
    for (Index node = n_leaves + to; node > 1; node /= 2) visit(node / 2 - 1, node % 2 == 1 ? 1.0 : -1.0);
  };
  for (Index v = 0; v < n_leaves - 1; ++v) s(v) = z(v) >= 0 ? 1 : -1;
  on_path(leaf, [&](Index v, double side) { s(v) = side; });
  std::vector<Index> leaves;
  if (routing == RoutingGradient::all_leaves) {
    for (Index c = 0; c < n_leaves; ++c) leaves.push_back(leaf ^ c);
  } else {
    leaves.push_back(leaf);
    for (Index t = 0; t < height; ++t) {
      Index node = ((n_leaves + leaf) >> (height - 1 - t)) ^ 1;
      while (node < n_leaves) node = 2 * node + (s(node - 1) > 0 ? 1 : 0);
      leaves.push_back(node - n_leaves);
    }
  }
  Vector<double> g(static_cast<Index>(leaves.size()));
  for (Index c = 0; c < g.size(); ++c) {
    double a = 0;
    on_path(leaves[static_cast<std::size_t>(c)], [&](Index v, double side) { a += side * s(v); });
    g(c) = std::exp(a);
  }
  g /= g.sum();
  const double mean = g.dot(u.head(g.size()));
  for (Index c = 0; c < g.size(); ++c) {
    on_path(leaves[static_cast<std::size_t>(c)], [&](Index v, double side) { y(v) += side * g(c) * (u(c) - mean); });
  }
  return y;
}

/// Half of the tokens lie, by rounding or by medians, on the side of a plane that their projection does not tell.
TEST(LeafSignals, FollowTheDecisionsThatWereTaken) {
  constexpr Index width = 16, n = 11, height = 3, n_nodes = 7;
  for (const RoutingGradient routing : {RoutingGradient::flip, RoutingGradient::all_leaves}) {
    const heed::detail::LeafSignals set(height, routing);
    for (Index leaf = 0; leaf < 8; ++leaf) {
      SCOPED_TRACE("leaf " + std::to_string(leaf));
      const auto seed = static_cast<std::uint64_t>(leaf);
      const Matrix<double> u = random_matrix<double>(set.n_columns(), n, 3 + seed);
      Matrix<double> z = random_matrix<double>(n_nodes, width, 90 + seed), y = Matrix<double>::Zero(n_nodes, width),
                     room(n_nodes + 1, width);
      set.write(leaf, u.data(), n,
                heed::detail::SignalPanel<double>{0, {0, n}, width, z.data(), y.data(), room.data()});
      for (Index i = 0; i < n; ++i) {
        const Vector<double> want = plain_signals(height, routing, leaf, u.col(i), z.col(i));
        for (Index v = 0; v < n_nodes; ++v) EXPECT_NEAR(y(v, i), want(v), 1e-14) << "token " << i << ", node " << v;
      }
    }
  }
}

}  // namespace
}  // namespace heed::test::leaf_signals
