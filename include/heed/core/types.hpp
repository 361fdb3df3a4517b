#pragma once
#include "heed/core/compiler.hpp"

#include <cstddef>
#include <type_traits>

#include <Eigen/Core>

namespace heed {

/// Signed size type of every count and index: Eigen's own, unless EIGEN_DEFAULT_DENSE_INDEX_TYPE has made that another.
using Index = std::ptrdiff_t;

/// Storage scalars the engines accept: float, double, Eigen::half, Eigen::bfloat16.
template <class S>
concept RealScalar = std::is_same_v<S, float> || std::is_same_v<S, double> || std::is_same_v<S, Eigen::half> ||
    std::is_same_v<S, Eigen::bfloat16>;

/// Storage of a cache in whole numbers of 8 bits with a scale a token: KeyValueCache<Int8>. No scalar of matrices.
struct Int8 {};

namespace detail {
template <class S>
struct AccumulatorOf {
  using type = S;
};
template <>
struct AccumulatorOf<Eigen::half> {
  using type = float;
};
template <>
struct AccumulatorOf<Eigen::bfloat16> {
  using type = float;
};
}  // namespace detail

/// Scalar in which sums over `S` are kept: float for the 16-bit storage types, `S` itself otherwise.
template <class S>
using Accumulator = typename detail::AccumulatorOf<S>::type;

/// Owned matrix of results, one row per token. DontAlign: allocated by plain malloc in every translation unit, so a
/// result made in one compiled with AVX-512 may be freed in one compiled without (Eigen's aligned allocator differs
/// between the two).
template <class S>
using Matrix = Eigen::Matrix<S, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor | Eigen::DontAlign>;

/// Owned column vector, allocated like `Matrix`.
template <class S>
using Vector = Eigen::Matrix<S, Eigen::Dynamic, 1, Eigen::ColMajor | Eigen::DontAlign>;

}  // namespace heed
