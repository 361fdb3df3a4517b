#include "heed/trees/decision_tree.hpp"

#include <cmath>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/matrices.hpp"
#include "support/strided.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

/// Leaf of a row in plain loops and double; -1 where some decision is too close to tell.
template <class S, class Row>
Index plain_leaf(const DecisionTree<S>& tree, const Row& x, double closeness, bool as_key = false) {
  Index node = 0;
  double rest = tree.lift() ? std::pow(static_cast<double>(tree.lift()->radius), 2) : 0.0;
  for (Index c = 0; c < x.cols() && tree.lift(); ++c) rest -= std::pow(static_cast<double>(x(0, c)), 2);
  for (Index level = 0; level < tree.height(); ++level) {
    double z = static_cast<double>(tree.biases()(node));
    for (Index c = 0; c < x.cols(); ++c)
      z += static_cast<double>(tree.planes()(node, c)) * static_cast<double>(x(0, c));
    if (as_key && tree.lift()) z += static_cast<double>(tree.lift()->weights(node)) * std::sqrt(std::max(0.0, rest));
    if (std::abs(z) < closeness) return -1;
    node = 2 * node + (z >= 0 ? 2 : 1);
  }
  return node + 1 - tree.n_leaves();
}

template <class S>
void expect_routes_like_plain_loops(double closeness) {
  for (const Index d : {1, 3, 8, 15, 16, 17, 33, 64, 80}) {
    for (const Index height : {0, 1, 3, 7}) {
      for (const Index n : {1, 15, 16, 17, 127, 128, 129, 300}) {
        const Matrix<S> x = random_matrix<S>(n, d, static_cast<std::uint64_t>(n + d));
        const DecisionTree<S> tree = random_tree<S>(height, d);
        const Vector<Index> leaf = tree.leaf_of(x);
        Index judged = 0;
        for (Index i = 0; i < n; ++i) {
          const Index want = plain_leaf(tree, x.row(i), closeness);
          judged += want >= 0;
          if (want >= 0) {
            EXPECT_EQ(leaf(i), want) << "row " << i << " of " << n << ", d = " << d << ", height = " << height;
          }
        }
        EXPECT_GE(10 * judged, 9 * n);
      }
    }
  }
}

TEST(DecisionTree, RoutesLikePlainLoopsInEveryScalar) {
  expect_routes_like_plain_loops<float>(1e-4);
  expect_routes_like_plain_loops<double>(1e-12);
  expect_routes_like_plain_loops<Eigen::half>(1e-4);
  expect_routes_like_plain_loops<Eigen::bfloat16>(1e-4);
}

TEST(DecisionTree, TheFirstDecisionIsTheHighestBitAndZeroGoesToTheSecondChild) {
  Matrix<float> planes(3, 2);
  planes << 1, 0, 0, 1, 0, 1;
  const DecisionTree<float> tree(planes, Vector<float>::Zero(3));
  Matrix<float> x(5, 2);
  x << -1, -1, -1, 1, 1, -1, 1, 1, 0, -0.0f;
  const Eigen::VectorX<Index> leaf = tree.leaf_of(x);
  EXPECT_EQ(leaf(0), 0);
  EXPECT_EQ(leaf(1), 1);
  EXPECT_EQ(leaf(2), 2);
  EXPECT_EQ(leaf(3), 3);
  EXPECT_EQ(leaf(4), 3);
}

TEST(DecisionTree, StorageRowsBesideItAndThreadsChangeNoLeaf) {
  // Many tokens right on a plane: a decision depends on the last bit of its product.
  Matrix<float> x = random_matrix<float>(601, 19, 5);
  DecisionTree<float> tree = random_tree<float>(6, 19);
  Vector<float> biases = tree.biases();
  for (Index v = 0; v < 63; ++v) biases(v) = -tree.planes().row(v).dot(x.row(v));
  tree = DecisionTree<float>(tree.planes(), biases);
  const Vector<Index> want = tree.leaf_of(x, {.threads = 1});
  for (const Layout layout : {Layout::rows, Layout::columns, Layout::both, Layout::spread}) {
    const Strided<float> stored(x, layout);
    EXPECT_SAME_BITS(tree.leaf_of(stored.map()), want);
  }
  EXPECT_SAME_BITS(tree.leaf_of(x, {.threads = 4}), want);
  for (Index i = 0; i < 601; ++i) EXPECT_EQ(tree.leaf_of(x.row(i))(0), want(i));
}

TEST(DecisionTree, NanGoesToTheFirstChild) {
  Matrix<float> x = random_matrix<float>(20, 5, 1);
  x(7, 2) = nan_of<float>();
  EXPECT_EQ(random_tree<float>(4, 5).leaf_of(x)(7), 0);
}

TEST(DecisionTree, CountsTheProductsOfItsPaths) {
  FlopCounter flops;
  random_tree<float>(5, 12).leaf_of(random_matrix<float>(33, 12, 1), {.flops = &flops});
  EXPECT_EQ(flops.products(Phase::route), 2.0 * 5 * 12 * 33);
  EXPECT_EQ(flops.products(), flops.products(Phase::route));
  // Keys of a lifted tree have a coordinate more, queries have not.
  const DecisionTree<float> lifted =
      random_tree<float>(5, 12, 1, {.lift = TreeLift<float>{1, Vector<float>::Ones(31)}});
  flops.reset();
  lifted.leaf_of(random_matrix<float>(33, 12, 1), {.flops = &flops});
  EXPECT_EQ(flops.products(), 2.0 * 5 * 12 * 33);
  lifted.leaf_of_keys(random_matrix<float>(33, 12, 1), {.flops = &flops});
  EXPECT_EQ(flops.products(), 2.0 * 5 * 12 * 33 + 2.0 * 5 * 13 * 33);
}

TEST(DecisionTree, MediansOfTheKeysBalanceItsLeaves) {
  for (const Index n : {1, 7, 64, 203, 1000}) {
    const Matrix<float> k = random_matrix<float>(n, 19, static_cast<std::uint64_t>(n));
    const DecisionTree<float> tree = random_tree<float>(3, 19, 1, {.biases = TreeBiases::key_medians});
    Vector<Index> count = Vector<Index>::Zero(8);
    const Vector<Index> leaf = tree.leaf_of(k);
    for (const Index l : leaf) ++count(l);
    EXPECT_LE(count.maxCoeff() - count.minCoeff(), 1) << "n = " << n;
    const DecisionTree<float> stored = tree.with_biases_of(k);
    EXPECT_EQ(stored.bias_rule(), TreeBiases::stored);
    EXPECT_SAME_BITS(stored.leaf_of(k), leaf);
  }
}

TEST(DecisionTree, LiftsKeysAndNotQueries) {
  const Matrix<double> x = random_matrix<double>(200, 6, 3);
  const TreeOptions<double> options{.lift = TreeLift<double>{8.0, random_matrix<double>(15, 1, 9)}};
  const DecisionTree<double> tree = random_tree<double>(4, 6, 1, options);
  const Vector<Index> as_query = tree.leaf_of(x), as_key = tree.leaf_of_keys(x);
  for (Index i = 0; i < 200; ++i) {
    EXPECT_EQ(as_query(i), plain_leaf(tree, x.row(i), 0.0));
    EXPECT_EQ(as_key(i), plain_leaf(tree, x.row(i), 0.0, true));
  }
  EXPECT_NE(as_query, as_key);
}

/// Everything times a power of two: tokens, radius and biases. Squares of these numbers overflow or vanish.
template <class S>
void expect_lift_of_any_scale(const std::vector<int>& exponents) {
  using T = Accumulator<S>;
  const Matrix<S> x = random_matrix<S>(200, 6, 3);
  const Vector<T> weights = random_matrix<T>(15, 1, 9);
  const DecisionTree<S> tree = random_tree<S>(4, 6, 1, {.lift = TreeLift<T>{T(2.5), weights}});
  const Vector<Index> as_query = tree.leaf_of(x), as_key = tree.leaf_of_keys(x);
  EXPECT_NE(as_query, as_key);
  for (const int exponent : exponents) {
    const T factor = std::ldexp(T(1), exponent);
    const Matrix<S> scaled = (x.template cast<T>() * factor).template cast<S>();
    const DecisionTree<S> same(tree.planes(), (tree.biases() * factor).eval(),
                               {.lift = TreeLift<T>{T(2.5) * factor, weights}});
    EXPECT_SAME_BITS(same.leaf_of_keys(scaled), as_key) << exponent;
    EXPECT_SAME_BITS(same.leaf_of(scaled), as_query) << exponent;
  }
}

TEST(DecisionTree, LiftsKeysOfAnyScale) {
  expect_lift_of_any_scale<float>({-90, -70, -40, 20, 40, 65, 100, 120});
  expect_lift_of_any_scale<Eigen::bfloat16>({-90, -70, -40, 20, 40, 65, 100, 120});
  expect_lift_of_any_scale<double>({-900, -600, -300, 20, 300, 520, 900, 1000});
}

TEST(DecisionTree, LongerKeysThanTheRadiusAreNotLifted) {
  const Matrix<float> planes{{0.0f}};
  const DecisionTree<float> tree(planes, Vector<float>::Constant(1, -0.5f),
                                 {.lift = TreeLift<float>{1e-30f, Vector<float>::Constant(1, 1e30f)}});
  const Matrix<float> k{{0.0f}, {0.5e-30f}, {1e-30f}, {1.0f}, {1e30f}, {3e38f}};
  EXPECT_EQ(tree.leaf_of_keys(k), (Vector<Index>{{1, 1, 0, 0, 0, 0}}));
}

template <class Run>
std::string said(const Run& run) {
  try {
    run();
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
  return "nothing";
}

TEST(DecisionTree, RefusesWhatIsNoTree) {
  const Matrix<float> planes = random_matrix<float>(7, 4, 1);
  const Vector<float> biases = Vector<float>::Zero(7);
  EXPECT_EQ(said([&] { DecisionTree<float>(planes.topRows(5), biases.head(5)); }),
            "heed: rows(planes) = 5 must be 2^h - 1 with h = 0 .. 24");
  EXPECT_EQ(said([&] { DecisionTree<float>(planes, biases.head(6)); }),
            "heed: biases has 6 entries but must have rows(planes) = 7");
  EXPECT_EQ(said([&] { DecisionTree<float>(planes.leftCols(0), biases); }), "heed: cols(planes) = 0 must be >= 1");
  Matrix<float> bad = planes;
  bad(3, 2) = nan_of<float>();
  EXPECT_EQ(said([&] { DecisionTree<float>(bad, biases); }), "heed: planes(3, 2) = nan must be finite");
  bad(3, 2) = infinity_of<float>();
  EXPECT_EQ(said([&] { DecisionTree<float>(bad, biases); }), "heed: planes(3, 2) = inf must be finite");
  Vector<float> bad_bias = biases;
  bad_bias(1) = minus_infinity_of<float>();
  EXPECT_EQ(said([&] { DecisionTree<float>(planes, bad_bias); }), "heed: biases(1) = -inf must be finite");
  EXPECT_EQ(said([&] { DecisionTree<float>(planes, biases).leaf_of(random_matrix<float>(3, 5, 1)); }),
            "heed: cols(tokens) = 5 but the tree has planes of 4 entries");
  EXPECT_NO_THROW(DecisionTree<float>(Matrix<float>(0, 4), Vector<float>(0)));
  // Finite as given, and not in the scalar of the sums.
  Matrix<double> wide = planes.cast<double>();
  wide(3, 2) = -1e39;
  EXPECT_EQ(said([&] { DecisionTree<Eigen::half>(wide, biases); }),
            "heed: planes(3, 2) = -1e+39 must be finite in float, which sums are kept in");
  EXPECT_NO_THROW(DecisionTree<double>(wide, biases));
  Vector<double> wide_biases = Vector<double>::Zero(7);
  wide_biases(6) = 1e39;
  EXPECT_EQ(said([&] { DecisionTree<float>(planes, wide_biases); }),
            "heed: biases(6) = 1e+39 must be finite in float, which sums are kept in");
  EXPECT_EQ(said([&] { DecisionTree<float>(planes, wide_biases.transpose()); }),
            "heed: biases(6) = 1e+39 must be finite in float, which sums are kept in");
  for (const float radius : {-1.0f, nan_of<float>(), infinity_of<float>()}) {
    EXPECT_NE(said([&] {
                DecisionTree<float>(planes, biases, {.lift = TreeLift<float>{radius, biases}});
              }).find("heed: lift.radius = "),
              std::string::npos);
  }
  EXPECT_EQ(said([&] {
              DecisionTree<float>(planes, biases, {.lift = TreeLift<float>{1, bad_bias}});
            }),
            "heed: lift.weights(1) = -inf must be finite");
  EXPECT_EQ(said([&] {
              DecisionTree<float>(planes, biases, {.lift = TreeLift<float>{1, biases.head(6)}});
            }),
            "heed: lift.weights has 6 entries but must have rows(planes) = 7");
}

TEST(DecisionTree, TakesOtherNumbersOfItsShapeOrStaysWhatItWas) {
  const Matrix<float> planes = random_matrix<float>(7, 4, 1), others = random_matrix<float>(7, 4, 2),
                      tokens = random_matrix<float>(90, 4, 3);
  const Vector<float> biases = Vector<float>::Zero(7), other_biases = random_matrix<float>(7, 1, 4);
  for (const TreeBiases rule : {TreeBiases::stored, TreeBiases::key_medians}) {
    DecisionTree<float> tree(planes, biases, {.biases = rule});
    const DecisionTree<float> before = tree, want(others, other_biases, {.biases = rule});
    Matrix<float> bad = others;
    bad(3, 2) = nan_of<float>();
    Vector<float> bad_biases = other_biases;
    bad_biases(6) = infinity_of<float>();
    EXPECT_EQ(said([&] { tree.set_numbers(bad, other_biases); }), "heed: planes(3, 2) = nan must be finite");
    EXPECT_EQ(said([&] { tree.set_numbers(others, bad_biases); }), "heed: biases(6) = inf must be finite");
    EXPECT_EQ(said([&] { tree.set_numbers(others.topRows(3), other_biases.head(3)); }),
              "heed: planes is 3 x 4 but must be as before: 7 x 4");
    EXPECT_EQ(said([&] { tree.set_numbers(others, other_biases.head(6)); }),
              "heed: biases has 6 entries but must have rows(planes) = 7");
    EXPECT_SAME_BITS(tree.planes(), before.planes());
    EXPECT_EQ(tree.leaf_of(tokens), before.leaf_of(tokens));
    tree.set_numbers(others, other_biases.transpose());
    EXPECT_SAME_BITS(tree.planes(), others);
    EXPECT_EQ(tree.leaf_of(tokens), want.leaf_of(tokens));
    EXPECT_NE(tree.leaf_of(tokens), before.leaf_of(tokens));
  }
}

}  // namespace
}  // namespace heed::test
