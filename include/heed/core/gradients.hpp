#pragma once
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/pair_view.hpp"
#include "heed/core/types.hpp"
#include "heed/core/vector_view.hpp"

namespace heed {

/// Where the gradient of a tree's routing comes from: the leaves beside a token's own whose gain is looked at. (Madaan,
/// Bhojanapalli, Jain, Jain 2023; the bounded form and the choice of leaves are ours.)
enum class RoutingGradient {
  flip,        ///< the h leaves that one other decision of the path leads to, those behind it being the token's own
  all_leaves,  ///< every leaf: all pairs
  none,        ///< none: the routing is taken as it is, and trees get a gradient of 0
};

/// What a backward pass is asked for besides the gradients of its operands.
struct BackwardOptions {
  RoutingGradient routing = RoutingGradient::flip;  ///< of methods with a tree
  bool bounded = true;  ///< weights of other leaves as if united with the query's own: at most 1. False: the gradient
                        ///< of the soft form, whose weights explode where attention is sharp
  BiasView d_lse{};     ///< gradient that comes in through lse: n_q x n_heads, or n_q x 1 for all heads; default: none
  bool bias = false;    ///< whether d_bias is wanted; the _into forms go by whether it is there
};

/// Gradients of queries and keys.
template <class S>
struct QueryKeyGradients {
  Matrix<S> d_q;  ///< as q
  Matrix<S> d_k;  ///< as k
};

/// Gradients of values that lie in memory.
template <class S>
struct StoredValueGradients {
  Matrix<S> d_v;  ///< as v
};

/// Gradients by what options hold.
template <class T>
struct OptionGradients {
  Matrix<T> d_bias;   ///< as mask.bias where BackwardOptions::bias asked for it, rows of a tensor stacked; else empty
  Vector<T> d_sinks;  ///< one a head where sinks are given; else empty
};

/// Of a method without parameters that learn.
struct NoGradients {};

/// Of a list of methods: those of each.
template <class Gradients>
struct ListedGradients {
  std::vector<Gradients> d_methods;
};

/// Gradient of a tree of hyperplanes, in the scalar sums are kept in. Biases that are medians of a call's keys
/// (TreeBiases::key_medians) stand as constants: they get the gradient of stored biases of the same values.
template <class S>
struct TreeGradient {
  Matrix<S> planes;  ///< 2^h - 1 x d
  Vector<S> biases;  ///< 2^h - 1
};

/// What a backward pass returns: gradients by queries and keys in their storage scalar, by values or by what their
/// source is made from, by options, and by the parameters of the method. Sums over pairs are kept in the accumulator of
/// S.
template <class S, class ValueGradients = StoredValueGradients<S>, class MethodGradients = NoGradients>
struct AttentionGradients : QueryKeyGradients<S>, ValueGradients, OptionGradients<Accumulator<S>>, MethodGradients {};

namespace detail {

inline void check_gradient_of_out(Index rows, Index cols, Index n_q, Index d_v) {
  if (rows != n_q || cols != d_v) {
    throw ShapeError(
        message("d_out is ", rows, " x ", cols, " but must be rows(q) x the width of out = ", n_q, " x ", d_v));
  }
}

inline void check_gradient_of_lse(const PairView& d_lse, Index n_q, Index n_heads) {
  if (d_lse.is_tensor())
    throw ShapeError("heed: BackwardOptions::d_lse is a tensor but must be a matrix of rows(q) x n_heads");
  if (!d_lse.given() || (d_lse.rows() == n_q && (d_lse.cols() == 1 || d_lse.cols() == n_heads))) return;
  throw ShapeError(message("BackwardOptions::d_lse is ", d_lse.rows(), " x ", d_lse.cols(),
                           " but must be rows(q) x n_heads = ", n_q, " x ", n_heads));
}

/// A gradient that the caller brought must be shaped as what it belongs to.
inline void check_gradient(Index rows, Index cols, const char* name, const char* of, Index n, Index width) {
  if (rows != n || cols != width)
    throw ShapeError(message(name, " is ", rows, " x ", cols, " but must be as ", of, ": ", n, " x ", width));
}

inline double gradient_of_lse(const PairView& d_lse, Index i, Index head) {
  return d_lse.at(i, d_lse.cols() == 1 ? 0 : head);
}

}  // namespace detail
}  // namespace heed
