#pragma once
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

/// Scalar of a type-erased view.
enum class Dtype { f32, f64, f16, bf16, boolean };

namespace detail {
template <class S>
constexpr Dtype dtype_of() {
  if constexpr (std::is_same_v<S, float>) return Dtype::f32;
  if constexpr (std::is_same_v<S, double>) return Dtype::f64;
  if constexpr (std::is_same_v<S, Eigen::half>) return Dtype::f16;
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return Dtype::bf16;
  if constexpr (std::is_same_v<S, bool>) return Dtype::boolean;
}
}  // namespace detail

/// Type-erased read-only view of one value per (query, key) pair: n_q x n_k, or (n_heads * n_q) x n_k with the rows of
/// head 0 first when it differs between heads. Empty means "not given". The matrix must outlive the view.
class PairView {
 public:
  PairView() = default;

  bool given() const { return data_ != nullptr; }
  Index rows() const { return rows_; }
  Index cols() const { return cols_; }
  Index row_stride() const { return row_stride_; }
  Index col_stride() const { return col_stride_; }
  Dtype dtype() const { return dtype_; }
  Index scalar_bytes() const {
    switch (dtype_) {
      case Dtype::f64: return 8;
      case Dtype::f32: return 4;
      case Dtype::f16:
      case Dtype::bf16: return 2;
      case Dtype::boolean: return 1;
      default: return 0;
    }
  }
  const void* data() const { return data_; }

  /// Value at (i, j) as a number; false is 0 and true is 1.
  double at(Index i, Index j) const {
    const Index offset = i * row_stride_ + j * col_stride_;
    switch (dtype_) {
      case Dtype::f64: return static_cast<const double*>(data_)[offset];
      case Dtype::f32: return static_cast<double>(static_cast<const float*>(data_)[offset]);
      case Dtype::f16: return static_cast<double>(static_cast<float>(static_cast<const Eigen::half*>(data_)[offset]));
      case Dtype::bf16:
        return static_cast<double>(static_cast<float>(static_cast<const Eigen::bfloat16*>(data_)[offset]));
      case Dtype::boolean: return static_cast<const bool*>(data_)[offset] ? 1.0 : 0.0;
      default: return 0.0;
    }
  }

 protected:
  template <class S>
  explicit PairView(ConstView<S> m)
      : data_(m.data),
        rows_(m.rows),
        cols_(m.cols),
        row_stride_(m.row_stride),
        col_stride_(m.col_stride),
        dtype_(detail::dtype_of<S>()) {
    static const S nothing{};
    if (data_ == nullptr) data_ = &nothing;  // an empty matrix is given, with no rows or columns
  }

 private:
  const void* data_ = nullptr;
  Index rows_ = 0;
  Index cols_ = 0;
  Index row_stride_ = 0;
  Index col_stride_ = 0;
  Dtype dtype_ = Dtype::f32;
};

/// View of a boolean matrix: true = may attend.
class BoolView : public PairView {
 public:
  BoolView() = default;
  template <DenseMatrix T>
  BoolView(const T& allowed) : PairView(checked(allowed)) {}
  template <TemporaryMatrix T>
  BoolView(T&&) {
    static_assert(sizeof(T) == 0,
                  "heed: mask.allowed would dangle: it views a temporary matrix; name the matrix first");
  }

 private:
  template <class T>
  static auto checked(const T& m) {
    static_assert(std::is_same_v<typename T::Scalar, bool>,
                  "heed: mask.allowed must be a matrix of bool (true = may attend)");
    return view_of(m);
  }
};

/// View of an additive matrix, in units of the scores after scaling; -inf masks the pair.
class BiasView : public PairView {
 public:
  BiasView() = default;
  template <DenseMatrix T>
  BiasView(const T& bias) : PairView(checked(bias)) {}
  template <TemporaryMatrix T>
  BiasView(T&&) {
    static_assert(sizeof(T) == 0, "heed: mask.bias would dangle: it views a temporary matrix; name the matrix first");
  }

 private:
  template <class T>
  static auto checked(const T& m) {
    static_assert(RealScalar<typename T::Scalar>,
                  "heed: mask.bias must be a matrix of float, double, half or bfloat16");
    return view_of(m);
  }
};

}  // namespace heed
