#pragma once
#include <string>
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"

namespace heed {

namespace detail {
template <class T>
std::true_type derives_from_dense(const Eigen::DenseBase<T>*);
std::false_type derives_from_dense(...);

template <class T>
inline constexpr bool is_dense_eigen =
    decltype(derives_from_dense(static_cast<const std::remove_cvref_t<T>*>(nullptr)))::value;

template <class T, bool = is_dense_eigen<T>>
inline constexpr bool has_direct_access = false;
template <class T>
inline constexpr bool has_direct_access<T, true> = (Eigen::internal::traits<std::remove_cvref_t<T>>::Flags &
                                                    Eigen::DirectAccessBit) != 0;

/// data + offset; null, the data of an empty matrix, stays null: adding to it is undefined.
template <class S>
S* entry(S* data, Index offset) {
  return data == nullptr ? nullptr : data + offset;
}
}  // namespace detail

/// Any dense Eigen object whose entries lie in memory: matrices, blocks, maps, refs, transposes; either storage order,
/// any stride. One row per token.
template <class T>
concept TokenMatrix = detail::has_direct_access<T>;

/// An Eigen object that owns its memory: a view of a temporary one would dangle.
template <class T>
concept OwningMatrix =
    TokenMatrix<T> && std::is_base_of_v<Eigen::PlainObjectBase<std::remove_cvref_t<T>>, std::remove_cvref_t<T>>;

/// What T of a parameter T&& is where the argument is an OwningMatrix that nobody has named.
template <class T>
concept TemporaryMatrix = OwningMatrix<T> && !std::is_lvalue_reference_v<T>;

/// Any dense Eigen object, with memory or not: what a door takes that has words of its own for expressions.
template <class T>
concept DenseMatrix = detail::is_dense_eigen<T>;

/// Read-only strided view, the one operand type of the kernels. Entry (i, j) is data[i * row_stride + j * col_stride].
/// Copies are shallow; the data must outlive the view.
template <class S>
struct ConstView {
  using Scalar = S;
  const S* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index row_stride = 0;
  Index col_stride = 1;

  const S& operator()(Index i, Index j) const { return data[i * row_stride + j * col_stride]; }
  ConstView columns(Index first, Index count) const {
    return {detail::entry(data, first * col_stride), rows, count, row_stride, col_stride};
  }
};

namespace detail {
struct Int8Rows;
}

/// Keys, or values, of one head of an 8-bit cache as an operand of the engine: no matrix, but read in its place.
template <>
struct ConstView<Int8> {
  using Scalar = Int8;
  const detail::Int8Rows* tokens = nullptr;
  Index rows = 0;
  Index cols = 0;
};

/// Writable strided view; see ConstView.
template <class S>
struct View {
  using Scalar = S;
  S* data = nullptr;
  Index rows = 0;
  Index cols = 0;
  Index row_stride = 0;
  Index col_stride = 1;

  S& operator()(Index i, Index j) const { return data[i * row_stride + j * col_stride]; }
  View columns(Index first, Index count) const {
    return {detail::entry(data, first * col_stride), rows, count, row_stride, col_stride};
  }
  View rows_from(Index first, Index count) const {
    return {detail::entry(data, first * row_stride), count, cols, row_stride, col_stride};
  }
};

namespace detail {

template <class T>
inline constexpr bool is_view = false;
template <class S>
inline constexpr bool is_view<ConstView<S>> = true;
template <class S>
inline constexpr bool is_view<View<S>> = true;

template <class T>
constexpr void require_token_matrix() {
  static_assert(is_view<T> || is_dense_eigen<T>,
                "heed: q, k, v, out and d_out must be dense Eigen matrices (one row per token)");
  static_assert(is_view<T> || !is_dense_eigen<T> || TokenMatrix<T>,
                "heed: an Eigen expression has no memory to read: call .eval() on it or store it in a matrix first");
}

}  // namespace detail

namespace detail {

/// Scalar of an operand; float for what is none, so that the message about it is reached.
template <class T>
struct ScalarOf {
  using type = float;
};
template <class T>
  requires requires { typename T::Scalar; }
struct ScalarOf<T> {
  using type = typename T::Scalar;
};
template <class T>
using OperandScalar = typename ScalarOf<T>::type;

}  // namespace detail

/// View of any TokenMatrix, without a copy.
template <class T>
auto view_of(const T& m) {
  // Here too: the bodies of functions called are looked at later than what follows.
  static_assert(detail::is_view<T> || detail::is_dense_eigen<T>,
                "heed: q, k, v and out must be dense Eigen matrices (one row per token)");
  if constexpr (detail::is_view<T>) {
    return ConstView<typename T::Scalar>{m.data, m.rows, m.cols, m.row_stride, m.col_stride};
  } else {
    detail::require_token_matrix<T>();
    using S = typename T::Scalar;
    const bool row_major = T::IsRowMajor;
    return ConstView<S>{m.data(), m.rows(), m.cols(), row_major ? m.outerStride() : m.innerStride(),
                        row_major ? m.innerStride() : m.outerStride()};
  }
}

/// Writable view of an output: a matrix, or a block or map passed as a temporary.
template <class T>
auto output_view_of(T&& m) {
  using Plain = std::remove_cvref_t<T>;
  if constexpr (detail::is_view<Plain>) {
    return m;
  } else {
    detail::require_token_matrix<Plain>();
    static_assert(std::is_lvalue_reference_v<T> || !OwningMatrix<Plain>,
                  "heed: out is a temporary matrix: its result would be lost; pass a matrix, a block or a map");
    using S = typename Plain::Scalar;
    static_assert(!std::is_const_v<std::remove_pointer_t<decltype(m.data())>>,
                  "heed: out must be writable, it is const");
    const bool row_major = Plain::IsRowMajor;
    return View<S>{m.data(), m.rows(), m.cols(), row_major ? m.outerStride() : m.innerStride(),
                   row_major ? m.innerStride() : m.outerStride()};
  }
}

namespace detail {

/// The same numbers, rows as columns.
template <class S>
ConstView<S> transposed(const ConstView<S>& m) {
  return {m.data, m.cols, m.rows, m.col_stride, m.row_stride};
}

template <class S>
void fill(const View<S>& to, S value) {
  for (Index i = 0; i < to.rows; ++i) {
    for (Index c = 0; c < to.cols; ++c) to(i, c) = value;
  }
}

}  // namespace detail
}  // namespace heed
