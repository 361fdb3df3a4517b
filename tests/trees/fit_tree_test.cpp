#include "heed/trees/fit_tree.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "heed/trees/tree_balance.hpp"
#include "support/matrices.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

Eigen::Map<const Eigen::VectorX<Index>> numbers(const std::vector<Index>& counts) {
  return {counts.data(), static_cast<Index>(counts.size())};
}

TEST(FitTree, SpreadsItsKeysEvenly) {
  const auto in = random_inputs<float>({.n_q = 300, .n_k = 1003, .d = 17});
  for (const Split split : {Split::principal_direction, Split::two_means}) {
    for (const bool lift : {false, true}) {
      const auto tree = fit_tree(in.k, in.q, {.height = 4, .split = split, .inner_product_lift = lift});
      const TreeBalance balance = tree_balance(tree, in.q, in.k);
      EXPECT_EQ(tree.height(), 4);
      EXPECT_LE(numbers(balance.keys).maxCoeff() - numbers(balance.keys).minCoeff(), 2);
      EXPECT_EQ(numbers(balance.keys).sum(), 1003);
      EXPECT_EQ(numbers(balance.queries).sum(), 300);
    }
  }
}

TEST(FitTree, SpreadsKeysAndQueriesTogetherWhereAsked) {
  auto in = random_inputs<double>({.n_q = 512, .n_k = 512, .d = 6});
  in.q.array() += 3.0;  // elsewhere than the keys
  const auto tree = fit_tree(in.k, in.q, {.height = 3, .points = FitPoints::keys_and_queries});
  const TreeBalance balance = tree_balance(tree, in.q, in.k);
  const Vector<Index> both = numbers(balance.keys) + numbers(balance.queries);
  EXPECT_LE(both.maxCoeff() - both.minCoeff(), 1);
}

/// Two clouds far apart along one direction: both ways to split must find it.
TEST(FitTree, SplitsAlongTheDirectionOfMostVariance) {
  Matrix<double> k = random_matrix<double>(200, 12, 4);
  Eigen::RowVectorXd apart = random_matrix<double>(1, 12, 5);
  apart.normalize();
  for (Index j = 0; j < 200; ++j) k.row(j) += (j % 2 == 0 ? 10.0 : -10.0) * apart;
  for (const Split split : {Split::principal_direction, Split::two_means}) {
    const auto tree = fit_tree(k, k, {.height = 1, .split = split});
    EXPECT_GT(std::abs(tree.planes().row(0).dot(apart)), 0.98);
    EXPECT_NEAR(tree.planes().row(0).norm(), 1.0, 1e-12);
    const Vector<Index> leaf = tree.leaf_of(k);
    for (Index j = 0; j < 200; ++j) EXPECT_EQ(leaf(j), leaf(j % 2));
  }
}

/// With the lift, a query's leaf is one of long keys that lie its way, whatever their distance.
TEST(FitTree, TheLiftMakesKeysAsLongAsOneAnother) {
  const auto in = random_inputs<double>({.n_q = 10, .n_k = 300, .d = 8});
  const auto tree = fit_tree(in.k, in.q, {.height = 4, .inner_product_lift = true});
  ASSERT_TRUE(tree.lift().has_value());
  EXPECT_NEAR(tree.lift()->radius, in.k.rowwise().norm().maxCoeff(), 1e-12);
  for (Index v = 0; v < 15; ++v)
    EXPECT_NEAR(tree.planes().row(v).squaredNorm() + std::pow(tree.lift()->weights(v), 2), 1.0, 1e-12);
}

TEST(FitTree, IsAFunctionOfItsArguments) {
  const auto in = random_inputs<float>({.n_q = 50, .n_k = 333, .d = 9});
  for (const Split split : {Split::principal_direction, Split::two_means}) {
    const auto a = fit_tree(in.k, in.q, {.height = 5, .split = split, .seed = 3});
    const auto b = fit_tree(in.k, in.q, {.height = 5, .split = split, .seed = 3});
    EXPECT_SAME_BITS(a.planes(), b.planes());
    EXPECT_SAME_BITS(a.biases(), b.biases());
  }
}

TEST(FitTree, BearsFewEqualAndPoisonedRows) {
  Matrix<float> k = random_matrix<float>(9, 4, 1);
  k(2, 1) = nan_of<float>();
  k(3, 0) = infinity_of<float>();
  for (const Split split : {Split::principal_direction, Split::two_means}) {
    EXPECT_EQ(fit_tree(k, k, {.height = 6, .split = split}).height(), 6);
    EXPECT_EQ(fit_tree(k.topRows(0), k.topRows(0), {.height = 2, .split = split}).height(), 2);
    const Matrix<float> equal = Matrix<float>::Constant(50, 4, 0.3f);
    const auto tree = fit_tree(equal, equal, {.height = 3, .split = split});
    const Vector<Index> leaf = tree.leaf_of(equal);
    EXPECT_EQ(leaf.minCoeff(), leaf.maxCoeff());
  }
  EXPECT_THROW(fit_tree(k, k, {.height = -1}), OptionError);
  EXPECT_THROW(fit_tree(k, k, {.height = 25}), OptionError);
  EXPECT_THROW(fit_tree(k, k.leftCols(3), {.height = 2}), ShapeError);
}

TEST(TreeBalance, IsThatOfTheLeaves) {
  Matrix<double> planes = Matrix<double>::Zero(3, 1);
  planes << 1, 1, 1;
  Vector<double> biases(3);
  biases << 0, 1, -1;  // leaves: x < -1, x < 0, x < 1, the rest
  const DecisionTree<double> tree(planes, biases);
  Matrix<double> q(4, 1), k(5, 1);
  q << -2, -2, 0.5, 3;
  k << -0.5, 0.5, 0.5, 2, 2;
  const TreeBalance balance = tree_balance(tree, q, k);
  EXPECT_EQ(balance.keys, (std::vector<Index>{0, 1, 2, 2}));
  EXPECT_EQ(balance.queries, (std::vector<Index>{2, 0, 1, 1}));
  EXPECT_DOUBLE_EQ(balance.pair_fraction, (1 * 2 + 1 * 2) / 20.0);
  EXPECT_EQ(balance.empty_leaves, 1);
  EXPECT_EQ(balance.queries_in_empty, 2);
  EXPECT_EQ(balance.largest_leaf, 2);
}

}  // namespace
}  // namespace heed::test
