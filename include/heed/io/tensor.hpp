#pragma once
#include "heed/core/macros_away.inl"

#include <array>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <numeric>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <Eigen/Core>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/io/detail/shape.hpp"
#include "heed/io/tensor_dtype.hpp"

namespace heed {

/// An n-dimensional array as files hold it: shape, dtype, and the bytes in C order (last index fastest), little-endian.
///
/// Shapes  any rank; rank 0 is one element. bytes().size() is always the product of the shape times bytes_of(dtype).
/// Errors  ShapeError where a size is negative, the product overflows, an index is out of range or the rank does not
///         fit; OptionError where integers are asked of a float tensor.
/// Cost    one owned copy of the bytes; every conversion is one pass over the elements it returns.
/// Threads const members are re-entrant.
class Tensor {
 public:
  Tensor() : Tensor({0}, TensorDtype::f32) {}

  /// Zeros of `shape`.
  Tensor(std::vector<Index> shape, TensorDtype dtype) : shape_(std::move(shape)), dtype_(dtype) {
    const auto bytes = detail::tensor_bytes(shape_, dtype_);
    if (!bytes) {
      throw ShapeError("heed: Tensor shape is " + detail::shape_text(shape_) +
                       " but must be sizes >= 0 whose product of bytes stays under 2^63");
    }
    bytes_.resize(static_cast<std::size_t>(*bytes));
  }

  Tensor(const Tensor&) = default;
  Tensor(Tensor&&) = default;
  /// By value: where copying throws, the tensor stays what it was.
  Tensor& operator=(Tensor other) {
    shape_.swap(other.shape_);
    std::swap(dtype_, other.dtype_);
    bytes_.swap(other.bytes_);
    return *this;
  }

  /// A copy of `values` in C order, stored as S itself: `Tensor::of<float>({2, 3}, values)`.
  template <StoredScalar S>
  static Tensor of(std::vector<Index> shape, std::type_identity_t<std::span<const S>> values) {
    Tensor tensor(std::move(shape), tensor_dtype_of<S>());
    if (static_cast<Index>(values.size()) != tensor.size()) {
      throw ShapeError("heed: Tensor::of was given " + std::to_string(values.size()) + " values but shape " +
                       detail::shape_text(tensor.shape_) + " must have " + std::to_string(tensor.size()));
    }
    if (!values.empty()) std::memcpy(tensor.bytes_.data(), values.data(), tensor.bytes_.size());
    return tensor;
  }

  /// A rows x cols tensor of any Eigen object, stored as its own scalar.
  template <class Derived>
    requires StoredScalar<typename Derived::Scalar>
  static Tensor of(const Eigen::DenseBase<Derived>& matrix) {
    using S = typename Derived::Scalar;
    const Matrix<S> rows = matrix;  // C order
    return of<S>({rows.rows(), rows.cols()}, std::span<const S>(rows.data(), static_cast<std::size_t>(rows.size())));
  }

  [[nodiscard]] const std::vector<Index>& shape() const { return shape_; }
  [[nodiscard]] TensorDtype dtype() const { return dtype_; }
  [[nodiscard]] Index rank() const { return static_cast<Index>(shape_.size()); }
  [[nodiscard]] Index size() const { return static_cast<Index>(bytes_.size() / bytes_of(dtype_)); }
  [[nodiscard]] std::span<const std::byte> bytes() const { return bytes_; }
  [[nodiscard]] std::span<std::byte> bytes() { return bytes_; }

  /// Every element in C order as S = float, double, Eigen::half or Eigen::bfloat16, rounded to the nearest.
  template <RealScalar S>
  [[nodiscard]] std::vector<S> as() const {
    std::vector<S> values(static_cast<std::size_t>(size()));
    convert(0, std::span<S>(values));
    return values;
  }

  /// Every element of an integer or boolean tensor, in C order.
  [[nodiscard]] std::vector<Index> integers() const {
    std::vector<Index> values(static_cast<std::size_t>(size()));
    convert(0, std::span<Index>(values));
    return values;
  }

  /// How many matrices the last two axes make: the product of all axes before them. ShapeError below rank 2.
  [[nodiscard]] Index n_matrices() const {
    require_rank_two();
    return std::accumulate(shape_.begin(), shape_.end() - 2, Index{1}, std::multiplies<>());
  }

  /// Matrix number `n` of n_matrices(), leading axes in C order: shape[rank-2] x shape[rank-1].
  template <RealScalar S>
  [[nodiscard]] Matrix<S> nth_matrix(Index n) const {
    if (n < 0 || n >= n_matrices()) {
      throw ShapeError("heed: Tensor matrix number is " + std::to_string(n) + " but must be from 0 and below " +
                       std::to_string(n_matrices()) + " for shape " + detail::shape_text(shape_));
    }
    Matrix<S> slice(shape_.end()[-2], shape_.end()[-1]);
    convert(n * slice.size(), std::span<S>(slice.data(), static_cast<std::size_t>(slice.size())));
    return slice;
  }

  /// The matrix of the last two axes at one index for each axis before them: v.matrix<float>(layer, head) of rank 4.
  template <RealScalar S, std::convertible_to<Index>... Leading>
  [[nodiscard]] Matrix<S> matrix(Leading... leading) const {
    require_rank_two();
    if (rank() - 2 != static_cast<Index>(sizeof...(Leading))) {
      throw ShapeError("heed: Tensor::matrix was given " + std::to_string(sizeof...(Leading)) +
                       " leading indices but must have " + std::to_string(rank() - 2) + " for shape " +
                       detail::shape_text(shape_));
    }
    const std::array<Index, sizeof...(Leading)> indices = {static_cast<Index>(leading)...};
    Index n = 0;
    for (std::size_t axis = 0; axis < indices.size(); ++axis) {
      if (indices[axis] < 0 || indices[axis] >= shape_[axis]) {
        throw ShapeError(detail::message("Tensor index of axis ", axis, " is ", indices[axis],
                                         " but must be from 0 and below ", shape_[axis]));
      }
      n = n * shape_[axis] + indices[axis];
    }
    return nth_matrix<S>(n);
  }

 private:
  void require_rank_two() const {
    if (rank() < 2) {
      throw ShapeError("heed: Tensor shape is " + detail::shape_text(shape_) + " but must have at least two axes here");
    }
  }

  template <class To>
  void convert(Index first, std::span<To> into) const {
    switch (dtype_) {
      case TensorDtype::f64: return convert_from<double>(first, into);
      case TensorDtype::f32: return convert_from<float>(first, into);
      case TensorDtype::f16: return convert_from<Eigen::half>(first, into);
      case TensorDtype::bf16: return convert_from<Eigen::bfloat16>(first, into);
      case TensorDtype::i64: return convert_from<std::int64_t>(first, into);
      case TensorDtype::i32: return convert_from<std::int32_t>(first, into);
      case TensorDtype::u8:
      case TensorDtype::boolean:
      default: return convert_from<std::uint8_t>(first, into);
    }
  }

  template <class From, class To>
  void convert_from(Index first, std::span<To> into) const {
    const std::byte* at = bytes_.data() + static_cast<std::size_t>(first) * sizeof(From);
    if constexpr (std::is_same_v<From, To>) {
      if (!into.empty()) std::memcpy(into.data(), at, into.size_bytes());
    } else if constexpr (std::is_integral_v<To> && !std::is_integral_v<From>) {
      throw OptionError("heed: Tensor::integers was asked of dtype " + std::string(name_of(dtype_)) +
                        " but must be of I64, I32, U8 or BOOL; take as<float>()");
    } else {
      using Between = std::conditional_t<std::is_arithmetic_v<From> && std::is_arithmetic_v<To>, From, float>;
      for (To& value : into) {
        From stored;
        std::memcpy(&stored, at, sizeof(From));  // the bytes need no alignment
        value = static_cast<To>(static_cast<Between>(stored));
        at += sizeof(From);
      }
    }
  }

  std::vector<Index> shape_;
  TensorDtype dtype_;
  std::vector<std::byte> bytes_;
};

}  // namespace heed

#include "heed/core/macros_back.inl"
