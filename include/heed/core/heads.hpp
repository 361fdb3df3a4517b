#pragma once
#include <cstddef>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include "heed/core/errors.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

/// Matrix type of one head inside packed rows: a map with both strides, so either storage order works without a copy.
template <class S>
using HeadMap = Eigen::Map<std::conditional_t<std::is_const_v<S>, const Matrix<std::remove_const_t<S>>, Matrix<S>>,
                           Eigen::Unaligned, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;

/// Views of the heads of packed rows, without copies: head h owns columns h * d .. (h + 1) * d - 1, d = cols / n_heads.
/// Writable when `packed` is; each view is a TokenMatrix.
///
/// Shapes  packed: n x (n_heads * d); returns n_heads views of n x d.
/// Errors  OptionError if n_heads < 1 or past 2^40; ShapeError if it does not divide cols(packed). A temporary matrix
///         does not compile.
/// Cost    none beyond the vector of views.
template <class T>
auto split_heads(T&& packed, Index n_heads) {
  using Plain = std::remove_cvref_t<T>;
  detail::require_token_matrix<Plain>();
  static_assert(std::is_lvalue_reference_v<T> || !OwningMatrix<Plain>,
                "heed: split_heads of a temporary matrix would dangle: name the matrix first");
  using S = std::remove_pointer_t<decltype(packed.data())>;
  if (n_heads < 1) throw OptionError(detail::message("n_heads = ", n_heads, " must be >= 1"));
  detail::checked_size(n_heads, "n_heads");
  if (packed.cols() % n_heads != 0) {
    throw ShapeError(detail::message("cols(packed) = ", packed.cols(), " must be a multiple of n_heads = ", n_heads));
  }
  const Index d = packed.cols() / n_heads;
  const Index row_stride = Plain::IsRowMajor ? packed.outerStride() : packed.innerStride();
  const Index col_stride = Plain::IsRowMajor ? packed.innerStride() : packed.outerStride();
  std::vector<HeadMap<S>> heads;
  heads.reserve(static_cast<std::size_t>(n_heads));
  for (Index h = 0; h < n_heads; ++h) {
    heads.emplace_back(detail::entry(packed.data(), h * d * col_stride), packed.rows(), d,
                       Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>(row_stride, col_stride));
  }
  return heads;
}

}  // namespace heed
