// Biases that are medians of a call's keys: for lifted trees, extreme keys, every scalar and every way to ask for them.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/trees/decision_tree.hpp"
#include "support/matrices.hpp"
#include "support/strided.hpp"
#include "support/trees.hpp"

namespace heed::test::median_biases {
namespace {

/// Keys in each leaf.
Vector<Index> counts_of(const Vector<Index>& leaf, Index n_leaves) {
  Vector<Index> counts = Vector<Index>::Zero(n_leaves);
  for (const Index l : leaf) ++counts(l);
  return counts;
}

template <class T>
TreeOptions<T> lifted_medians(T radius, const Vector<T>& weights) {
  return {.biases = TreeBiases::key_medians, .lift = TreeLift<T>{radius, weights}};
}

TEST(MedianBiases, HalveTheKeysOfALiftedTree) {
  const Matrix<float> planes{{0.3f}};
  const Matrix<float> k{{0.1f}, {0.7f}, {0.9f}, {-0.4f}};
  const DecisionTree<float> tree(planes, Vector<float>::Zero(1),
                                 lifted_medians<float>(1.0f, Vector<float>::Constant(1, 0.7f)));
  EXPECT_EQ(counts_of(tree.leaf_of_keys(k), 2), (Vector<Index>{{2, 2}}));
  EXPECT_EQ(counts_of(tree.with_biases_of(k).leaf_of_keys(k), 2), (Vector<Index>{{2, 2}}));
}

/// Biases and leaves by their definition, in plain loops of one feature: z = (w x + u e) + b, every operation rounded
/// to T. Keys are small multiples of 1/64 and the radius is 1, so that e = sqrt(1 - x^2) is rounded once, whatever
/// the machine fuses.
template <class T>
struct PlainTree {
  Vector<T> planes, weights, biases;
  Index height;

  static T rounded(T x) {
    const volatile T kept = x;
    return kept;
  }
  T product(Index node, T x) const {
    const T of_x = rounded(planes(node) * x), of_lift = rounded(weights(node) * rounded(std::sqrt(1 - x * x)));
    return rounded(of_x + of_lift);
  }
  Index leaf(T x) const {
    Index node = 0;
    for (Index level = 0; level < height; ++level)
      node = 2 * node + (rounded(product(node, x) + biases(node)) >= 0 ? 2 : 1);
    return node + 1 - (Index(1) << height);
  }
  void take_medians(const std::vector<T>& keys, Index node = 0) {
    if (node >= biases.size() || keys.empty()) return;
    std::vector<T> products;
    for (const T x : keys) products.push_back(product(node, x));
    std::sort(products.begin(), products.end());
    biases(node) = -products[products.size() / 2];
    std::vector<T> child[2];
    for (const T x : keys) child[rounded(product(node, x) + biases(node)) >= 0 ? 1 : 0].push_back(x);
    take_medians(child[0], 2 * node + 1);
    take_medians(child[1], 2 * node + 2);
  }
};

template <class S>
void expect_plain_medians() {
  using T = Accumulator<S>;
  for (const Index n : {1, 2, 3, 16, 63, 101}) {
    for (const Index height : {1, 2, 4}) {
      for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        const Index n_nodes = (Index(1) << height) - 1;
        PlainTree<T> plain{random_matrix<T>(n_nodes, 1, seed), random_matrix<T>(n_nodes, 1, seed + 10),
                           Vector<T>::Zero(n_nodes), height};
        Matrix<S> k(n, 1);
        std::vector<T> keys;
        for (Index j = 0; j < n; ++j) {
          keys.push_back(static_cast<T>((j * 37 + static_cast<Index>(seed)) % 127 - 63) / 64);
          k(j, 0) = static_cast<S>(keys.back());
        }
        const DecisionTree<S> tree(plain.planes, plain.biases, lifted_medians<T>(1, plain.weights));
        plain.take_medians(keys);
        const DecisionTree<S> stored = tree.with_biases_of(k);
        EXPECT_SAME_BITS(stored.biases(), plain.biases);
        const Vector<Index> leaf = tree.leaf_of_keys(k), of_stored = stored.leaf_of_keys(k);
        for (Index j = 0; j < n; ++j) {
          EXPECT_EQ(leaf(j), plain.leaf(keys[static_cast<std::size_t>(j)])) << "key " << j << " of " << n;
          EXPECT_EQ(of_stored(j), leaf(j));
        }
      }
    }
  }
}

TEST(MedianBiases, AreThoseOfPlainLoopsInEveryScalarTheMedianKeyToo) {
  expect_plain_medians<float>();
  expect_plain_medians<double>();
  expect_plain_medians<Eigen::half>();
  expect_plain_medians<Eigen::bfloat16>();
}

template <class S>
void expect_even_leaves() {
  using T = Accumulator<S>;
  // Products of sixteen-bit numbers in one feature are often equal, and equal ones stay together.
  for (const Index d : {sizeof(S) == 2 ? 2 : 1, 3, 15, 16, 17, 32, 33, 64, 80, 128}) {
    for (const Index n : {1, 2, 7, 64, 129, 203}) {
      const Index height = 3;
      const Matrix<S> k = random_matrix<S>(n, d, static_cast<std::uint64_t>(n + d));
      const T radius = static_cast<T>(1.1 * std::sqrt(static_cast<double>(d)));  // a third of the keys are longer
      const DecisionTree<S> tree = random_tree<S>(height, d, 3, lifted_medians<T>(radius, random_matrix<T>(7, 1, 5)));
      const Vector<Index> leaf = tree.leaf_of_keys(k);
      const Vector<Index> counts = counts_of(leaf, 8);
      EXPECT_LE(counts.maxCoeff() - counts.minCoeff(), 1) << "n = " << n << ", d = " << d;
      const DecisionTree<S> stored = tree.with_biases_of(k);
      EXPECT_SAME_BITS(stored.leaf_of_keys(k), leaf);
      for (const Layout layout : {Layout::columns, Layout::both, Layout::spread}) {
        const Strided<S> other(k, layout);
        EXPECT_SAME_BITS(tree.leaf_of_keys(other.map()), leaf);
        EXPECT_SAME_BITS(tree.with_biases_of(other.map()).biases(), stored.biases());
      }
      EXPECT_SAME_BITS(tree.leaf_of_keys(k, {.threads = 3}), leaf);
    }
  }
}

TEST(MedianBiases, SpreadLiftedKeysEvenlyInEveryScalarStorageAndWidth) {
  expect_even_leaves<float>();
  expect_even_leaves<double>();
  expect_even_leaves<Eigen::half>();
  expect_even_leaves<Eigen::bfloat16>();
}

/// Leaves of `some` keys in one feature under the plane (w) and, where asked, a lift that adds nothing.
template <class S>
Vector<Index> halves(Accumulator<S> w, const std::vector<std::pair<Index, double>>& some, bool lifted) {
  using T = Accumulator<S>;
  std::vector<S> keys;
  for (const auto& [n, x] : some) {
    for (Index j = 0; j < n; ++j) keys.push_back(static_cast<S>(x));
  }
  const Matrix<S> k = Eigen::Map<const Matrix<S>>(keys.data(), static_cast<Index>(keys.size()), 1);
  TreeOptions<T> options{.biases = TreeBiases::key_medians};
  if (lifted) options.lift = TreeLift<T>{std::numeric_limits<T>::max(), Vector<T>::Zero(1)};
  const DecisionTree<S> tree(Matrix<T>::Constant(1, 1, w), Vector<T>::Zero(1), options);
  const DecisionTree<S> stored = tree.with_biases_of(k);
  EXPECT_TRUE(heed::detail::is_finite(stored.biases()(0)));
  EXPECT_SAME_BITS(stored.leaf_of_keys(k), tree.leaf_of_keys(k));
  return counts_of(tree.leaf_of_keys(k), 2);
}

template <class S>
void expect_extreme_halves() {
  using T = Accumulator<S>;
  const double inf = infinity_of<double>(), nan = nan_of<double>();
  const T large = std::numeric_limits<T>::max() / 2;
  for (const bool lifted : {false, true}) {
    SCOPED_TRACE(lifted ? "lifted" : "plain");
    const auto counts = [&](T w, const std::vector<std::pair<Index, double>>& some) {
      return halves<S>(w, some, lifted);
    };
    EXPECT_EQ(counts(1, {{5, nan}, {3, -inf}, {6, -2.0}, {6, 3.0}, {4, inf}}), (Vector<Index>{{8, 16}}));
    EXPECT_EQ(counts(1, {{2, nan}, {3, -inf}, {6, -2.0}, {6, 3.0}, {7, inf}}), (Vector<Index>{{11, 13}}));
    EXPECT_EQ(counts(-1, {{2, nan}, {3, inf}, {6, 2.0}, {6, -3.0}, {7, -inf}}), (Vector<Index>{{11, 13}}));
    EXPECT_EQ(counts(1, {{4, -2.0}, {12, inf}}), (Vector<Index>{{4, 12}}));
    EXPECT_EQ(counts(1, {{12, nan}, {2, -5.0}, {2, -2.0}}), (Vector<Index>{{12, 4}})) << "all that a bias can move";
    EXPECT_EQ(counts(1, {{12, -inf}, {1, -5.0}, {3, inf}}), (Vector<Index>{{12, 4}}));
    EXPECT_EQ(counts(1, {{9, nan}}), (Vector<Index>{{9, 0}}));
    EXPECT_EQ(counts(1, {{9, -inf}}), (Vector<Index>{{9, 0}}));
    EXPECT_EQ(counts(1, {{9, inf}}), (Vector<Index>{{0, 9}}));
    // Products beyond range are as infinite as infinite keys, those at its end are not.
    EXPECT_EQ(counts(large, {{5, -8.0}, {2, -1.0}, {3, 1.0}, {5, 16.0}}), (Vector<Index>{{7, 8}}));
    EXPECT_EQ(counts(large, {{8, -2.0}, {5, 2.0}}), (Vector<Index>{{8, 5}}));
    EXPECT_EQ(counts(large, {{5, -2.0}, {8, 2.0}}), (Vector<Index>{{5, 8}}));
  }
}

TEST(MedianBiases, KeysThatNoBiasMovesGoWhereTheRouterSendsThem) {
  expect_extreme_halves<float>();
  expect_extreme_halves<double>();
  expect_extreme_halves<Eigen::half>();
  expect_extreme_halves<Eigen::bfloat16>();
}

}  // namespace
}  // namespace heed::test::median_biases
