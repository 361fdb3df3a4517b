#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/random.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/trees/decision_tree.hpp"

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
  const T* point(Index at) const { return points_.data() + order_[static_cast<std::size_t>(at)] * width_; }
  T* plane(Index node) { return planes.data() + node * width_; }

  void split(Index node, Index first, Index end) {
    if (node >= planes.rows()) return;
    Index middle = first;  // a zero plane: everybody to the second child
    if (end - first > 1) {
      CounterRng rng(options_.seed, static_cast<std::uint64_t>(node));
      if (options_.split == Split::two_means) {
        two_means(plane(node), first, end, rng);
      } else {
        principal_direction(plane(node), first, end, rng);
      }
      middle = divide(node, first, end);
    }
    split(2 * node + 1, first, middle);
    split(2 * node + 2, middle, end);
  }

  T dot(const T* a, const T* b) const {
    T sum = 0;
    for (Index c = 0; c < width_; ++c) sum += a[c] * b[c];
    return sum;
  }

  // To length 1; stays 0 where it is.
  void normalise(T* w) const {
    T largest = 0;
    for (Index c = 0; c < width_; ++c) largest = std::max(largest, std::abs(w[c]));
    if (largest == 0) return;
    for (Index c = 0; c < width_; ++c) w[c] /= largest;  // squares of what is left neither overflow nor vanish
    const T inverse = T(1) / std::sqrt(dot(w, w));
    for (Index c = 0; c < width_; ++c) w[c] *= inverse;
  }

  // Power iteration on the covariance. A dozen steps: the split needs a direction of much variance, not the eigenvector.
  void principal_direction(T* w, Index first, Index end, CounterRng& rng) const {
    std::vector<T> mean(static_cast<std::size_t>(width_)), next(static_cast<std::size_t>(width_));
    for (Index i = first; i < end; ++i) {
      for (Index c = 0; c < width_; ++c) mean[static_cast<std::size_t>(c)] += point(i)[c];
    }
    for (T& x : mean) x /= static_cast<T>(end - first);
    for (Index c = 0; c < width_; ++c) w[c] = static_cast<T>(rng.uniform() - 0.5);
    for (int step = 0; step < 12; ++step) {
      normalise(w);
      const T shift = dot(mean.data(), w);
      std::fill(next.begin(), next.end(), T(0));
      for (Index i = first; i < end; ++i) {
        const T* x = point(i);
        const T along = dot(x, w) - shift;
        for (Index c = 0; c < width_; ++c)
          next[static_cast<std::size_t>(c)] += along * (x[c] - mean[static_cast<std::size_t>(c)]);
      }
      std::copy(next.begin(), next.end(), w);
    }
    normalise(w);
  }

  // Lloyd's algorithm from two drawn points.
  void two_means(T* w, Index first, Index end, CounterRng& rng) const {
    const Index a = first + rng.below(end - first);
    const Index b = first + (a - first + 1 + rng.below(end - first - 1)) % (end - first);
    const auto width = static_cast<std::size_t>(width_);
    std::vector<T> centre[2] = {{point(a), point(a) + width_}, {point(b), point(b) + width_}};
    for (int step = 0; step < 8; ++step) {
      std::vector<T> sum[2] = {std::vector<T>(width), std::vector<T>(width)};
      Index count[2] = {0, 0};
      const T half = (dot(centre[1].data(), centre[1].data()) - dot(centre[0].data(), centre[0].data())) / 2;
      for (Index i = first; i < end; ++i) {
        const T* x = point(i);
        const int nearer = dot(x, centre[1].data()) - dot(x, centre[0].data()) >= half ? 1 : 0;
        ++count[nearer];
        for (std::size_t c = 0; c < width; ++c) sum[nearer][c] += x[c];
      }
      for (const int side : {0, 1}) {
        for (std::size_t c = 0; c < width && count[side] > 0; ++c)
          centre[side][c] = sum[side][c] / static_cast<T>(count[side]);
      }
    }
    for (Index c = 0; c < width_; ++c)
      w[c] = centre[1][static_cast<std::size_t>(c)] - centre[0][static_cast<std::size_t>(c)];
    normalise(w);
  }

  // Sets the bias half-way between the two middle products and sorts the run by child; returns where the second begins.
  Index divide(Index node, Index first, Index end) {
    const T* w = plane(node);
    for (Index i = first; i < end; ++i) z_[static_cast<std::size_t>(i)] = dot(point(i), w);
    std::vector<T> sorted(z_.begin() + first, z_.begin() + end);
    const auto upper = sorted.begin() + (end - first) / 2;
    std::nth_element(sorted.begin(), upper, sorted.end());
    const T below = *std::max_element(sorted.begin(), upper);
    T threshold = below + (*upper - below) / 2;
    if (!(threshold > below)) threshold = *upper;  // neighbours, or equal
    biases(node) = -threshold;
    std::vector<Index> second;
    Index middle = first;
    for (Index i = first; i < end; ++i) {
      const Index index = order_[static_cast<std::size_t>(i)];
      if (z_[static_cast<std::size_t>(i)] + biases(node) >= 0) {
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

/// Length of a row in the scalar T.
template <class T, class S>
T row_norm(const ConstView<S>& rows, Index i) {
  T sum = 0;
  for (Index c = 0; c < rows.cols; ++c) sum += static_cast<T>(rows(i, c)) * static_cast<T>(rows(i, c));
  return std::sqrt(sum);
}

}  // namespace detail

/// A tree fitted to tokens, without training: every node splits its points across `options.split` at the median, so that leaves hold
/// equally many of them but for ties. A node with less than two points gets a zero plane.
/// A fitted tree does not make TF- or TC-attention an approximation of softmax attention: published models train theirs.
///
/// Shapes  k: n_k x d, q: n_q x d (read where options.points or the width ask for it); returns a tree of that height.
/// Errors  ShapeError if cols(q) != cols(k); OptionError for a height outside 0 .. 24. Rows with NaN or an infinity are left out.
/// Cost    about 50 h d flops a point; memory (n_k + n_q) (d + 4) numbers.
/// Threads re-entrant; runs on the caller's thread. A pure function of its arguments.
/// Source  Madaan et al. 2023, section 3.3 (growing a tree); Sproull 1991 (principal directions); Bachrach et al. 2014 (the lift).
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
  T radius = 0;
  for (Index j = 0; j < keys.rows && options.inner_product_lift; ++j) {
    const T norm = detail::row_norm<T>(keys, j);
    if (detail::is_finite(norm)) radius = std::max(radius, norm);
  }
  detail::TreeFit<T> fit(options, keys.cols + (options.inner_product_lift ? 1 : 0));
  for (Index j = 0; j < keys.rows; ++j) {
    const T norm = options.inner_product_lift ? detail::row_norm<T>(keys, j) : T(0);
    fit.add(keys, j, std::sqrt(std::max(T(0), radius * radius - norm * norm)));
  }
  for (Index i = 0; i < queries.rows && options.points == FitPoints::keys_and_queries; ++i) fit.add(queries, i, T(0));
  fit.run();
  TreeOptions<T> tree_options;
  if (options.inner_product_lift) tree_options.lift = TreeLift<T>{radius, fit.planes.col(keys.cols)};
  return DecisionTree<S>(fit.planes.leftCols(keys.cols).eval(), fit.biases, tree_options);
}

}  // namespace heed
