#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>

#include <Eigen/Core>

#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/trees/median_biases.hpp"
#include "heed/trees/route.hpp"

namespace heed {

namespace detail {

/// What a message says of a number that is not finite in T.
template <class T>
const char* must_be_finite(double given) {
  return is_finite(given) && std::is_same_v<T, float> ? " must be finite in float, which sums are kept in"
                                                      : " must be finite";
}

}  // namespace detail

/// Any dense Eigen object, expressions among them, of which a copy is made.
template <class T>
concept NumberMatrix = detail::is_dense_eigen<T>;

/// Where the biases of a tree come from.
enum class TreeBiases {
  /// As given.
  stored,
  /// Of each node, minus the median of its plane's products with the keys of the call that reach it: leaves hold
  /// equally many keys. It looks at all keys at once, so methods refuse it for causal masks.
  key_medians,
};

/// Inner products as distances: with ||k|| <= radius a key stands as [k, sqrt(radius^2 - ||k||^2)] and a query as
/// [q, 0], so that the largest product is the nearest neighbour. The last coordinate of each plane is kept apart in
/// `weights`.
template <class T>
struct TreeLift {
  T radius = 0;
  Vector<T> weights{};  ///< 2^h - 1
};

/// How a tree reads its matrices.
template <class T>
struct TreeOptions {
  TreeBiases biases = TreeBiases::stored;  ///< stored: what training and fitting leave
  std::optional<TreeLift<T>> lift{};       ///< keys' extra coordinate; default: keys and queries are read alike
};

/// A tree of hyperplanes that sends every token to one of 2^h leaves: at node v a row x with w_v . x + b_v >= 0 goes to
/// the second child; for a key of a tree with a lift (w_v . x + u_v e) + b_v, u the weights of the lift and e the key's
/// extra coordinate, every operation rounded. Nodes are numbered in level order, leaves from the left: the first
/// decision is the leaf's highest bit. NaN goes to the first child. S: the storage scalar of the tokens; planes and
/// biases are kept in the scalar sums are kept in.
///
/// Shapes  planes: (2^h - 1) x d, biases: 2^h - 1; height 0 is a single leaf for tokens of any width.
/// Errors  ShapeError where rows(planes) + 1 is no power of two, height > 24, or biases do not fit; OptionError for a
///         NaN or an infinity in planes, biases or lift, and for what becomes one in the scalar sums are kept in.
/// Cost    routing: 2 h d flops a token, along its path only; about 2^h (d + 16) numbers of memory.
/// Threads const members are re-entrant.
/// Source  Madaan, Bhojanapalli, Jain, Jain 2023, section 3; Karthikeyan, Jain, Natarajan, Jain 2021 (the tree itself).
template <RealScalar S>
class DecisionTree {
 public:
  using Scalar = S;
  using Sum = Accumulator<S>;
  static constexpr Index most_height = 24;

  /// One leaf.
  DecisionTree() = default;

  template <NumberMatrix Planes, NumberMatrix Biases>
  DecisionTree(const Planes& planes, const Biases& biases, const TreeOptions<Sum>& options = {})
      : planes_(planes.template cast<Sum>()), biases_(as_column(biases)), options_(options) {
    const Index n_nodes = planes_.rows();
    while ((Index(1) << height_) - 1 < n_nodes && height_ < most_height) ++height_;
    if ((Index(1) << height_) - 1 != n_nodes) {
      throw ShapeError(detail::message("rows(planes) = ", n_nodes, " must be 2^h - 1 with h = 0 .. ", most_height));
    }
    check_size(biases_, "biases");
    if (n_nodes > 0 && planes_.cols() < 1)
      throw ShapeError(detail::message("cols(planes) = ", planes_.cols(), " must be >= 1"));
    check_finite(planes_, biases_, planes, biases);
    if (options_.lift) {
      check_size(options_.lift->weights, "lift.weights");
      check_finite(options_.lift->weights, "lift.weights", [&](Index v) { return options.lift->weights(v); });
      if (!detail::is_finite(options_.lift->radius) || options_.lift->radius < 0) {
        throw OptionError(
            detail::message("lift.radius = ", static_cast<double>(options_.lift->radius), " must be >= 0 and finite"));
      }
    }
    padded_.setZero(n_nodes, detail::padded_width(planes_.cols()));
    padded_.leftCols(planes_.cols()) = planes_;
  }

  /// Puts other numbers in the place of its planes and biases, whose shapes stay: nothing is allocated.
  /// Errors  as the constructor, and ShapeError for planes of another shape; the tree is untouched then.
  template <NumberMatrix Planes, NumberMatrix Biases>
  void set_numbers(const Planes& planes, const Biases& biases) {
    if (planes.rows() != planes_.rows() || planes.cols() != planes_.cols()) {
      throw ShapeError(detail::message("planes is ", planes.rows(), " x ", planes.cols(),
                                       " but must be as before: ", planes_.rows(), " x ", planes_.cols()));
    }
    check_vector(biases);
    check_size(biases, "biases");
    check_finite(planes, biases, planes, biases);
    planes_ = planes.template cast<Sum>();
    for (Index v = 0; v < biases_.size(); ++v) biases_(v) = static_cast<Sum>(entry(biases, v));
    padded_.leftCols(planes_.cols()) = planes_;
  }

  DecisionTree(const DecisionTree&) = default;
  /// Leaves the other a single leaf.
  DecisionTree(DecisionTree&& other) noexcept
      : height_(std::exchange(other.height_, 0)),
        planes_(std::move(other.planes_)),
        biases_(std::move(other.biases_)),
        padded_(std::move(other.padded_)),
        options_(std::move(other.options_)) {}
  /// By value: where copying throws, the tree stays what it was.
  DecisionTree& operator=(DecisionTree other) {
    height_ = other.height_;
    planes_.swap(other.planes_);
    biases_.swap(other.biases_);
    padded_.swap(other.padded_);
    options_ = std::move(other.options_);
    return *this;
  }

  Index height() const { return height_; }
  Index n_leaves() const { return Index(1) << height_; }
  /// Width of the tokens it routes; 0 for a single leaf, which takes any.
  Index d() const { return height_ == 0 ? 0 : planes_.cols(); }
  const Matrix<Sum>& planes() const { return planes_; }
  const Vector<Sum>& biases() const { return biases_; }
  TreeBiases bias_rule() const { return options_.biases; }
  const std::optional<TreeLift<Sum>>& lift() const { return options_.lift; }

  /// Leaf of every row, 0 .. 2^h - 1, as queries are routed. With TreeBiases::key_medians the rows are themselves the
  /// keys.
  /// Errors  ShapeError if cols(tokens) != d().
  template <class Tokens>
  Vector<Index> leaf_of(const Tokens& tokens, const Context& context = {}) const {
    return leaves(view_of(tokens), TokenRole::query, context);
  }
  /// The same as keys are routed: differs from leaf_of where the tree has a lift.
  template <class Tokens>
  Vector<Index> leaf_of_keys(const Tokens& keys, const Context& context = {}) const {
    return leaves(view_of(keys), TokenRole::key, context);
  }

  /// This tree with stored biases: those of `keys` under TreeBiases::key_medians, its own otherwise.
  template <class Tokens>
  DecisionTree with_biases_of(const Tokens& keys) const {
    DecisionTree tree = *this;
    tree.options_.biases = TreeBiases::stored;
    if (options_.biases == TreeBiases::stored || height_ == 0) return tree;
    Workspace workspace;
    Workspace::Frame frame(workspace);
    const auto rows = view_of(keys);
    check_width(rows.cols, "keys");
    const detail::Router<Sum> router = router_for(rows, rows.rows, nullptr, frame, 1);
    tree.biases_ = Eigen::Map<const Vector<Sum>>(router.biases, biases_.size());
    return tree;
  }

  /// How its planes are laid out for the kernels, biases as stored.
  detail::Router<Sum> router() const {
    detail::Router<Sum> router{padded_.data(), padded_.cols(), biases_.data(), nullptr, Sum(0), height_, d()};
    if (options_.lift) {
      router.lift = options_.lift->weights.data();
      router.radius = options_.lift->radius;
    }
    return router;
  }
  /// The same with the biases a call over the first n_real of `keys` uses, taken from `frame` where they are medians
  /// over those of the keys that `counts` flags (null: all).
  template <class Key>
  detail::Router<Sum> router_for(const ConstView<Key>& keys, Index n_real, const bool* counts, Workspace::Frame& frame,
                                 int threads) const {
    detail::Router<Sum> router = this->router();
    // In the frame planes begin at cache lines, which a tree that may be copied cannot promise: a sixth of the time of
    // many tokens.
    if (keys.rows > 2 * padded_.rows()) {
      Sum* aligned = frame.take<Sum>(padded_.size());
      std::copy_n(padded_.data(), padded_.size(), aligned);
      router.planes = aligned;
    }
    if (options_.biases == TreeBiases::key_medians && height_ > 0)
      router.biases = detail::median_biases(router, keys, n_real, counts, frame, threads);
    return router;
  }

  /// Throws ShapeError unless tokens of this width can be routed.
  void check_width(Index cols, const char* name) const {
    if (height_ > 0 && cols != planes_.cols()) {
      throw ShapeError(
          detail::message("cols(", name, ") = ", cols, " but the tree has planes of ", planes_.cols(), " entries"));
    }
  }

 private:
  template <class Biases>
  static void check_vector(const Biases& biases) {
    if (biases.rows() != 1 && biases.cols() != 1 && biases.size() > 0)
      throw ShapeError(detail::message("biases is ", biases.rows(), " x ", biases.cols(), " but must be a vector"));
  }
  template <class Biases>
  static Vector<Sum> as_column(const Biases& biases) {
    check_vector(biases);
    Vector<Sum> column(biases.size());
    for (Index v = 0; v < biases.size(); ++v) column(v) = static_cast<Sum>(entry(biases, v));
    return column;
  }
  template <class Numbers>
  static auto entry(const Numbers& numbers, Index v) {
    return numbers.cols() == 1 ? numbers.coeff(v, 0) : numbers.coeff(0, v);
  }

  template <class Numbers>
  void check_size(const Numbers& numbers, const char* name) const {
    if (numbers.size() != planes_.rows()) {
      throw ShapeError(
          detail::message(name, " has ", numbers.size(), " entries but must have rows(planes) = ", planes_.rows()));
    }
  }
  // `given...`: what numbers were before they were converted, or the numbers themselves.
  template <class Planes, class Biases, class GivenPlanes, class GivenBiases>
  static void check_finite(const Planes& planes, const Biases& biases, const GivenPlanes& given_planes,
                           const GivenBiases& given_biases) {
    for (Index v = 0; v < planes.rows(); ++v) {
      for (Index c = 0; c < planes.cols(); ++c) {
        if (detail::is_finite(static_cast<Sum>(planes.coeff(v, c)))) continue;
        const double given = static_cast<double>(given_planes.coeff(v, c));
        throw OptionError(detail::message("planes(", v, ", ", c, ") = ", given, detail::must_be_finite<Sum>(given)));
      }
    }
    for (Index v = 0; v < biases.size(); ++v) {
      if (detail::is_finite(static_cast<Sum>(entry(biases, v)))) continue;
      const double given = static_cast<double>(entry(given_biases, v));
      throw OptionError(detail::message("biases(", v, ") = ", given, detail::must_be_finite<Sum>(given)));
    }
  }
  template <class Given>
  static void check_finite(const Vector<Sum>& numbers, const char* name, const Given& given) {
    for (Index v = 0; v < numbers.size(); ++v) {
      if (detail::is_finite(numbers(v))) continue;
      const double value = static_cast<double>(given(v));
      throw OptionError(detail::message(name, "(", v, ") = ", value, detail::must_be_finite<Sum>(value)));
    }
  }

  template <class Token>
  Vector<Index> leaves(const ConstView<Token>& tokens, TokenRole role, const Context& context) const {
    static_assert(std::is_same_v<Accumulator<Token>, Sum>,
                  "heed: tokens must have the scalar of the tree (a float tree also routes half and bfloat16)");
    check_width(tokens.cols, "tokens");
    detail::check_context(context);
    Vector<Index> leaf(tokens.rows);
    std::optional<Workspace> own;
    Workspace::Frame frame(context.workspace != nullptr ? *context.workspace : own.emplace());
    const int threads = thread_count(context.threads);
    const auto router = router_for(tokens, tokens.rows, nullptr, frame, threads);
    detail::RouteJob<Sum, Token> job{&router, tokens, tokens.rows, role, leaf.data()};
    detail::route_all(std::span<const detail::RouteJob<Sum, Token>>(&job, 1), frame, threads);
    if (context.flops != nullptr)
      context.flops->add_products(Phase::route, detail::route_flops(router, tokens.rows, role));
    return leaf;
  }

  static int thread_count(Index asked) { return detail::thread_count(asked); }

  Index height_ = 0;
  Matrix<Sum> planes_{Matrix<Sum>::Zero(0, 0)};
  Vector<Sum> biases_;
  Matrix<Sum> padded_;
  TreeOptions<Sum> options_;
};

}  // namespace heed
