#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/random.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/trees/decision_tree.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/safe_power.hpp"
#include "heed/trees/split_direction.hpp"

namespace heed {

/// The direction in which a node is split.
enum class Split {
  principal_direction,  ///< along which its points vary most
  two_means,            ///< from one centre of two to the other
};

/// The points a tree is fitted to.
enum class FitPoints { keys, keys_and_queries };

/// How fit_tree makes a tree.
struct FitTreeOptions {
  Index height = 6;                          ///< 0 .. 24; 2^height leaves
  Split split = Split::principal_direction;  ///< two_means follows clusters better and costs the same
  FitPoints points = FitPoints::keys;  ///< what directions and medians are taken of; queries lie elsewhere than keys
  bool inner_product_lift = false;     ///< distances that follow q . k: see TreeLift
  std::uint64_t seed = 0;              ///< where directions start; same seed, same tree
};

namespace detail {

/// Fits one tree. Points are rows of `width` numbers; every node owns a run of `order_`, which its split divides.
template <class T>
class TreeFit {
 public:
  TreeFit(const FitTreeOptions& options, Index width) : options_(options), width_(width) {
    const Index n_nodes = (Index(1) << options.height) - 1;
    planes.setZero(n_nodes, width);
    biases.setZero(n_nodes);
  }

  /// Adds a row unless it holds NaN or an infinity.
  template <class S>
  void add(const ConstView<S>& rows, Index i, T extra) {
    const std::size_t before = points_.size();
    for (Index c = 0; c < rows.cols; ++c) {
      const T x = static_cast<T>(rows(i, c));
      if (!is_finite(x)) {
        points_.resize(before);
        return;
      }
      points_.push_back(x);
    }
    if (width_ > rows.cols) points_.push_back(extra);
    order_.push_back(static_cast<Index>(order_.size()));
  }

  void run() {
    z_.resize(order_.size());
    split(0, 0, static_cast<Index>(order_.size()));
  }

  Matrix<T> planes;  // nodes x width
  Vector<T> biases;  // nodes

 private:
  void split(Index node, Index first, Index end) {
    if (node >= planes.rows()) return;
    Index middle = first;  // a zero plane: everybody to the second child
    if (end - first > 1) middle = split_points(node, first, end);
    split(2 * node + 1, first, middle);
    split(2 * node + 2, middle, end);
  }

  // Sets the plane and the bias of a node of two points or more and sorts its run by child; returns where the second
  // begins.
  Index split_points(Index node, Index first, Index end) {
    NodePoints<T> points{points_.data(), order_.data() + first, end - first, width_};
    T* w = planes.data() + node * width_;
    // Points of extreme size are split as a copy of ordinary size. Plane and bias are its own, so that the products of
    // tokens are of ordinary size too.
    const T power = safe_power(points.largest());
    std::vector<T> copy;
    if (power != 1) {
      copy.reserve(static_cast<std::size_t>(points.size * width_));
      for (Index i = 0; i < points.size; ++i) {
        for (Index c = 0; c < width_; ++c) copy.push_back(points[i][c] * power);
      }
      points.rows = copy.data();
      points.list = nullptr;
    }
    CounterRng rng(options_.seed, static_cast<std::uint64_t>(node));
    if (options_.split == Split::two_means) {
      two_means(points, rng, w);
    } else {
      principal_direction(points, rng, w);
    }
    T* z = z_.data() + first;
    for (Index i = 0; i < points.size; ++i) z[i] = points.dot(points[i], w);
    biases(node) = -threshold_of(z, points.size);
    for (Index c = 0; c < width_ && power != 1; ++c) w[c] *= power;
    return divide(biases(node), first, end);
  }

  // Half-way between the two middle products.
  static T threshold_of(const T* z, Index n) {
    std::vector<T> sorted(z, z + n);
    const auto upper = sorted.begin() + n / 2;
    std::nth_element(sorted.begin(), upper, sorted.end());
    const T below = *std::max_element(sorted.begin(), upper);
    const T threshold = below + (*upper - below) / 2;
    return threshold > below ? threshold : *upper;  // neighbours, or equal
  }

  // Sorts the run by child; returns where the second begins.
  Index divide(T bias, Index first, Index end) {
    std::vector<Index> second;
    Index middle = first;
    for (Index i = first; i < end; ++i) {
      const Index index = order_[static_cast<std::size_t>(i)];
      if (z_[static_cast<std::size_t>(i)] + bias >= 0) {
        second.push_back(index);
      } else {
        order_[static_cast<std::size_t>(middle++)] = index;
      }
    }
    std::copy(second.begin(), second.end(), order_.begin() + middle);
    return middle;
  }

  const FitTreeOptions& options_;
  Index width_;
  std::vector<T> points_;     // m x width
  std::vector<Index> order_;  // m
  std::vector<T> z_;
};

/// The largest size of a number in row i; infinite where one is NaN or infinite.
template <class T, class S>
T row_top(const ConstView<S>& rows, Index i) {
  T top = 0;
  for (Index c = 0; c < rows.cols; ++c) {
    const T x = static_cast<T>(rows(i, c));
    if (!is_finite(x)) return -minus_infinity<T>;
    top = std::max(top, std::abs(x));
  }
  return top;
}

/// The length of the longest finite row, at most the largest number.
template <class T, class S>
T largest_length(const ConstView<S>& rows) {
  T top = 0, longest = 0;
  for (Index i = 0; i < rows.rows; ++i) {
    const T own = row_top<T>(rows, i);
    if (is_finite(own)) top = std::max(top, own);
  }
  const T power = safe_power(top);
  for (Index i = 0; i < rows.rows; ++i) {
    T sum = 0;
    for (Index c = 0; c < rows.cols; ++c) {
      const T x = static_cast<T>(rows(i, c)) * power;
      sum += x * x;
    }
    if (is_finite(sum)) longest = std::max(longest, std::sqrt(sum));
  }
  return std::min(longest, std::numeric_limits<T>::max() * power) / power;
}

}  // namespace detail

/// A tree fitted to tokens, without training: every node splits its points across `options.split` at the median, so
/// that leaves hold equally many of them but for ties, whatever the scale of the points. A node with less than two
/// points gets a zero plane, one with points beyond 2^32 or all below 2^-32 (double: 2^256, 2^-256) a plane that brings
/// their products back to that; others are of length 1. A fitted tree does not make TF- or TC-attention an
/// approximation of softmax attention: published models train theirs.
///
/// Shapes  k: n_k x d, q: n_q x d (read where options.points or the width ask for it); returns a tree of that height.
/// Errors  ShapeError if cols(q) != cols(k); OptionError for a height outside 0 .. 24. Rows with NaN or an infinity are
///         left out.
/// Cost    about 50 h d flops a point; memory (n_k + n_q) (d + 4) numbers, twice that for extreme scales.
/// Threads re-entrant; runs on the caller's thread. A pure function of its arguments.
/// Source  Madaan et al. 2023, section 3.3 (growing a tree); Sproull 1991 (principal directions); Bachrach et al. 2014
///         (the lift).
template <class K, class Q>
auto fit_tree(const K& k, const Q& q, const FitTreeOptions& options = {}) {
  const auto keys = view_of(k);
  const auto queries = view_of(q);
  using S = typename decltype(keys)::Scalar;
  using T = Accumulator<S>;
  static_assert(std::is_same_v<S, typename decltype(queries)::Scalar>, "heed: k and q must have one scalar type");
  if (keys.cols != queries.cols) {
    throw ShapeError(detail::message("cols(q) = ", queries.cols, " but cols(k) = ", keys.cols, ": they must be equal"));
  }
  if (options.height < 0 || options.height > DecisionTree<S>::most_height) {
    throw OptionError(
        detail::message("FitTreeOptions::height = ", options.height, " must be 0 .. ", DecisionTree<S>::most_height));
  }
  detail::checked_product("2^height * (cols(k) + 1)", {Index(1) << options.height, keys.cols + 1});
  const bool lifts = options.inner_product_lift;
  const T radius = lifts ? detail::largest_length<T>(keys) : T(0), power = detail::safe_power(radius);
  detail::TreeFit<T> fit(options, keys.cols + (lifts ? 1 : 0));
  for (Index j = 0; j < keys.rows; ++j) {
    T extra = 0;
    if (lifts) detail::lift_block<1>(keys, j, radius, power, &extra);
    fit.add(keys, j, extra);
  }
  for (Index i = 0; i < queries.rows && options.points == FitPoints::keys_and_queries; ++i) fit.add(queries, i, T(0));
  fit.run();
  TreeOptions<T> tree_options;
  if (lifts) tree_options.lift = TreeLift<T>{radius, fit.planes.col(keys.cols)};
  return DecisionTree<S>(fit.planes.leftCols(keys.cols).eval(), fit.biases, tree_options);
}

}  // namespace heed
