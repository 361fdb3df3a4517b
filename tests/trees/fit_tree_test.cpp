#include "heed/trees/fit_tree.hpp"

#include <cmath>
#include <cstdint>
#include <string>
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
      EXPECT_LE(numbers(balance.keys).maxCoeff() - numbers(balance.keys).minCoeff(), 1);
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

/// The lift of a key as long as the radius is the root of what rounding leaves: large beside what distinguishes keys
/// of one length, and another number where it is computed in another way.
TEST(FitTree, LiftsKeysAsTheRouterDoes) {
  for (std::uint64_t seed = 1; seed <= 5; ++seed) {
    auto in = random_inputs<float>({.n_q = 1, .n_k = 1000, .d = 3, .seed = seed});
    in.k *= 3e-3f;
    in.k.col(0).array() += 1.0f;
    in.k.rowwise().normalize();
    const auto tree = fit_tree(in.k, in.q, {.height = 8, .inner_product_lift = true});
    const TreeBalance balance = tree_balance(tree, in.q, in.k);
    const auto keys = numbers(balance.keys);
    EXPECT_LE(keys.maxCoeff() - keys.minCoeff(), 1);
  }
}

constexpr Split both_splits[] = {Split::principal_direction, Split::two_means};

/// Keys of few digits, so that they may be multiplied by powers of two down to the least numbers of S without rounding.
template <class S>
Matrix<S> coarse_keys(Index n, Index d, double step) {
  Matrix<double> keys = random_matrix<double>(n, d, 8);
  for (Index j = 0; j < n; ++j) {
    for (Index c = 0; c < d; ++c) keys(j, c) = step * std::round(keys(j, c) / step);
  }
  return keys.cast<S>();
}

/// Fits k times 2^e for each of `exponents` and expects the leaves of k itself.
template <class S>
void expect_leaves_of_any_scale(const Matrix<S>& k, const std::vector<int>& exponents, int largest_lifted) {
  using T = Accumulator<S>;
  for (const Split split : both_splits) {
    for (const bool lift : {false, true}) {
      for (const FitPoints points : {FitPoints::keys, FitPoints::keys_and_queries}) {
        const FitTreeOptions options{.height = 4, .split = split, .points = points, .inner_product_lift = lift};
        const auto tree = fit_tree(k, k, options);
        const Vector<Index> as_key = tree.leaf_of_keys(k), as_query = tree.leaf_of(k);
        for (const int exponent : exponents) {
          if (lift && exponent > largest_lifted) continue;  // the longest key's length must be a number of T
          SCOPED_TRACE("2^" + std::to_string(exponent) + (lift ? ", lifted" : "") +
                       (split == Split::two_means ? ", two means" : ""));
          const Matrix<S> scaled = (k.template cast<T>() * std::ldexp(T(1), exponent)).template cast<S>();
          const auto got = fit_tree(scaled, scaled, options);
          EXPECT_SAME_BITS(got.leaf_of_keys(scaled), as_key);
          EXPECT_SAME_BITS(got.leaf_of(scaled), as_query);
        }
      }
    }
  }
}

TEST(FitTree, APowerOfTwoChangesNoLeaf) {
  expect_leaves_of_any_scale(coarse_keys<float>(300, 7, 0x1p-10),
                             {-136, -126, -100, -80, -64, -40, -33, -32, -31, 20, 31, 32, 33, 63, 65, 100, 124, 126},
                             124);
  expect_leaves_of_any_scale(coarse_keys<Eigen::bfloat16>(300, 7, 0x1p-5),
                             {-126, -100, -80, -40, -32, 20, 32, 63, 65, 100, 124, 126}, 124);
  expect_leaves_of_any_scale(coarse_keys<double>(300, 7, 0x1p-20),
                             {-1050, -1022, -600, -256, -255, 100, 255, 256, 512, 900, 1020, 1022}, 1020);
}

template <class S>
void expect_even_leaves(const Matrix<S>& k, const std::string& what, std::vector<bool> lifts = {false, true}) {
  for (const Split split : both_splits) {
    for (const bool lift : lifts) {
      SCOPED_TRACE(what + (lift ? ", lifted" : "") + (split == Split::two_means ? ", two means" : ""));
      const auto tree = fit_tree(k, k, {.height = 4, .split = split, .inner_product_lift = lift});
      const TreeBalance balance = tree_balance(tree, k, k);
      const auto keys = numbers(balance.keys);
      EXPECT_LE(keys.maxCoeff() - keys.minCoeff(), 1);
    }
  }
}

TEST(FitTree, SpreadsKeysOfAnyScaleEvenly) {
  const Matrix<double> k = random_matrix<double>(403, 16, 5);
  for (int exponent = -38; exponent <= 38; exponent += 2)
    expect_even_leaves<float>((k * std::pow(10.0, exponent)).cast<float>(), "1e" + std::to_string(exponent));
  for (int exponent = -307; exponent <= 307; exponent += 10)
    expect_even_leaves<double>(k * std::pow(10.0, exponent), "1e" + std::to_string(exponent));
  for (const double outlier : {1e10, 1e20, 1e30, 1e37}) {
    Matrix<double> mixed = k;
    mixed.row(17) *= outlier;
    expect_even_leaves<float>(mixed.cast<float>(), "an outlier", {false});  // beside it all others are lifted alike
    mixed.row(30) *= -outlier;
    expect_even_leaves<float>(mixed.cast<float>(), "two outliers", {false});
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
  const Matrix<float> wide(0, Index(1) << 40);  // no number of it is there
  EXPECT_THROW(fit_tree(wide, wide, {.height = 24}), ShapeError);
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
