#pragma once
#include <Eigen/Core>

#include "heed/core/heads.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"

namespace heed::detail {

/// Row-major rows without gaps, taken from a frame: what layers keep between forward and backward.
template <class T>
View<T> take_rows(Workspace::Frame& frame, Index rows, Index cols) {
  return {frame.take<T>(rows * cols), rows, cols, cols, 1};
}

template <class T>
ConstView<T> read_only(const View<T>& view) {
  return {view.data, view.rows, view.cols, view.row_stride, view.col_stride};
}

/// A view as the doors take it.
template <class T>
HeadMap<T> map_of(const View<T>& view) {
  const Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic> strides(view.row_stride, view.col_stride);
  return HeadMap<T>(view.data, view.rows, view.cols, strides);
}

template <class T>
using RowArray = Eigen::Array<T, 1, Eigen::Dynamic>;

/// Row i of a view whose columns are next to each other, as an expression.
template <class T>
Eigen::Map<const RowArray<T>> row_of(const ConstView<T>& x, Index i) {
  return Eigen::Map<const RowArray<T>>(x.data + i * x.row_stride, x.cols);
}
template <class T>
Eigen::Map<RowArray<T>> row_of(const View<T>& x, Index i) {
  return Eigen::Map<RowArray<T>>(x.data + i * x.row_stride, x.cols);
}

}  // namespace heed::detail
