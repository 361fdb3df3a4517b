#pragma once
#include <algorithm>
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/errors.hpp"
#include "heed/core/tensor_view.hpp"
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

/// Type-erased read-only view of one value per (query, key) pair: n_q x n_k, or 1 x n_k for all queries, or
/// (n_heads * n_q) x n_k with the rows of head 0 first where it differs between heads; or a tensor of batch x heads x
/// n_q x n_k, of which each of the first three may be 1. Empty means "not given". The numbers must outlive the view.
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

  /// What a tensor names; a matrix is the same for all entries of a batch, and stacks the rows of its heads.
  bool is_tensor() const { return is_tensor_; }
  Index n_entries() const { return n_entries_; }
  Index n_heads() const { return n_heads_; }
  /// True where heads of n_q queries have values of their own.
  bool by_head(Index n_q) const { return n_heads_ > 1 || rows_ > std::max<Index>(n_q, 1); }
  /// All rows there are: of a tensor row i of head h of entry b is number (b * n_heads() + h) * rows() + i.
  Index stacked_rows() const { return n_entries_ * n_heads_ * rows_; }

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
  /// The values of one head of n_q queries: row i is that of query i.
  void choose_head(Index head, Index n_q) {
    if (n_heads_ > 1) {
      move(head * head_stride_);
    } else if (by_head(n_q)) {
      move(head * n_q * row_stride_);
    }
    n_heads_ = 1;
    rows_ = std::min(rows_, std::max<Index>(n_q, 1));
  }
  /// The values of one entry of a batch.
  void choose_entry(Index entry) {
    if (n_entries_ > 1) move(entry * entry_stride_);
    n_entries_ = 1;
  }
  /// One row, for all queries.
  void choose_row(Index row) {
    move(row * row_stride_);
    rows_ = 1;
    row_stride_ = 0;
  }
  /// Rows first .. first + count - 1 of a matrix.
  void choose_rows(Index first, Index count) {
    move(first * row_stride_);
    rows_ = count;
  }
  /// Columns first .. first + count - 1.
  void choose_columns(Index first, Index count) {
    move(first * col_stride_);
    cols_ = count;
  }
  /// Queries first .. first + n_q - 1 of each head, which had n_before.
  void cut_queries(Index first, Index n_q, Index n_before, Index n_heads) {
    if (!given() || rows_ == 1 || n_q == n_before) return;
    if (by_head(n_before) && n_heads_ == 1) {
      n_heads_ = n_heads;
      head_stride_ = n_before * row_stride_;
      is_tensor_ = true;
    }
    move(first * row_stride_);
    rows_ = n_q;
  }

  template <class S>
  explicit PairView(TensorView<S> t)
      : data_(t.data),
        rows_(t.sizes[2]),
        cols_(t.sizes[3]),
        row_stride_(t.sizes[2] == 1 ? 0 : t.strides[2]),
        col_stride_(t.strides[3]),
        n_heads_(t.sizes[1]),
        head_stride_(t.strides[1]),
        n_entries_(t.sizes[0]),
        entry_stride_(t.strides[0]),
        dtype_(detail::dtype_of<std::remove_const_t<S>>()),
        is_tensor_(true) {
    static const std::remove_const_t<S> nothing{};
    if (data_ != nullptr) return;
    if (t.sizes[0] != 0 && t.sizes[1] != 0 && t.sizes[2] != 0 && t.sizes[3] != 0)
      throw ShapeError("heed: the data of a tensor for Mask::allowed or Mask::bias is null but its sizes are not 0");
    data_ = &nothing;
  }
  template <class S>
  explicit PairView(ConstView<S> m)
      : data_(m.data),
        rows_(m.rows),
        cols_(m.cols),
        row_stride_(m.rows == 1 ? 0 : m.row_stride),
        col_stride_(m.col_stride),
        dtype_(detail::dtype_of<S>()) {
    static const S nothing{};
    if (data_ == nullptr) data_ = &nothing;  // an empty matrix is given, with no rows or columns
  }

 private:
  void move(Index offset) { data_ = static_cast<const char*>(data_) + offset * scalar_bytes(); }

  const void* data_ = nullptr;
  Index rows_ = 0;  // of one head of a tensor; all of a matrix
  Index cols_ = 0;
  Index row_stride_ = 0;  // 0 where there is one row
  Index col_stride_ = 0;
  Index n_heads_ = 1, head_stride_ = 0;  // of a tensor
  Index n_entries_ = 1, entry_stride_ = 0;
  Dtype dtype_ = Dtype::f32;
  bool is_tensor_ = false;
};

namespace detail {

/// What the views of masks have in common: parts of themselves.
template <class Own>
class PairPart : public PairView {
 public:
  PairPart() = default;

  /// The values of one head of n_q queries, row i those of query i; of one entry of a batch; of one row.
  Own of_head(Index head, Index n_q) const {
    return part([&](Own& own) { own.choose_head(head, n_q); });
  }
  Own of_entry(Index entry) const {
    return part([&](Own& own) { own.choose_entry(entry); });
  }
  Own of_rows(Index first, Index count) const {
    return part([&](Own& own) { own.choose_rows(first, count); });
  }
  Own of_row(Index row) const {
    return part([&](Own& own) { own.choose_row(row); });
  }
  Own of_columns(Index first, Index count) const {
    return part([&](Own& own) { own.choose_columns(first, count); });
  }
  /// The same without the queries from n_q on of n_before, or with those from `first` on alone.
  Own of_queries(Index n_q, Index n_before, Index n_heads) const { return of_queries(0, n_q, n_before, n_heads); }
  Own of_queries(Index first, Index n_q, Index n_before, Index n_heads) const {
    return part([&](Own& own) { own.cut_queries(first, n_q, n_before, n_heads); });
  }

 protected:
  using PairView::PairView;

 private:
  template <class Choose>
  Own part(const Choose& choose) const {
    Own own = static_cast<const Own&>(*this);
    if (own.given()) choose(own);
    return own;
  }
};

}  // namespace detail

/// View of a boolean matrix: true = may attend.
class BoolView : public detail::PairPart<BoolView> {
  using Base = detail::PairPart<BoolView>;
  friend Base;

 public:
  BoolView() = default;
  template <DenseMatrix T>
  BoolView(const T& allowed) : Base(checked(allowed)) {}
  BoolView(TensorView<const bool> allowed) : Base(allowed) {}
  BoolView(TensorView<bool> allowed) : Base(allowed) {}
  template <TemporaryMatrix T>
  BoolView(T&&) {
    static_assert(sizeof(T) == 0,
                  "heed: mask.allowed or mask.keys would dangle: it views a temporary matrix; name the matrix first");
  }

 private:
  template <class T>
  static auto checked(const T& m) {
    static_assert(std::is_same_v<typename T::Scalar, bool>,
                  "heed: mask.allowed must be a matrix of bool (true = may attend), and so must mask.keys");
    return view_of(m);
  }
};

/// View of an additive matrix, in units of the scores after scaling; -inf masks the pair.
class BiasView : public detail::PairPart<BiasView> {
  using Base = detail::PairPart<BiasView>;
  friend Base;

 public:
  BiasView() = default;
  template <DenseMatrix T>
  BiasView(const T& bias) : Base(checked(bias)) {}
  template <class T>
    requires RealScalar<std::remove_const_t<T>> BiasView(TensorView<T> bias) : Base(bias) {}
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
