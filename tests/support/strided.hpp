#pragma once
#include <Eigen/Core>

#include "heed/core/heads.hpp"
#include "heed/core/types.hpp"
#include "support/matrices.hpp"

namespace heed::test {

/// How a matrix lies in a larger buffer.
enum class Layout {
  rows,     ///< rows apart, entries of a row together: a block of a row-major matrix
  columns,  ///< columns apart: a block of a column-major matrix, or the transpose of a row-major one
  both,     ///< row by row with gaps between entries
  spread,   ///< column by column with gaps between entries
};

/// A matrix inside a larger unaligned buffer whose other entries are NaN: reading them shows, and so does writing them.
template <class S>
class Strided {
 public:
  Strided(Index rows, Index cols, Layout layout) : rows_(rows), cols_(cols) {
    switch (layout) {
      case Layout::rows: row_stride_ = cols + 2, col_stride_ = 1; break;
      case Layout::columns: row_stride_ = 1, col_stride_ = rows + 1; break;
      case Layout::both: row_stride_ = 3 * cols + 1, col_stride_ = 3; break;
      case Layout::spread: row_stride_ = 2, col_stride_ = 2 * rows + 3; break;
    }
    buffer_ = Vector<S>::Constant(2 * offset + rows * row_stride_ + cols * col_stride_, nan_of<S>());
  }
  template <class M>
  Strided(const M& entries, Layout layout) : Strided(entries.rows(), entries.cols(), layout) {
    map() = entries;
  }

  HeadMap<S> map() { return {buffer_.data() + offset, rows_, cols_, {row_stride_, col_stride_}}; }
  HeadMap<const S> map() const { return {buffer_.data() + offset, rows_, cols_, {row_stride_, col_stride_}}; }

  bool surroundings_untouched() const {
    Strided copy = *this;
    copy.map().setConstant(nan_of<S>());
    for (Index t = 0; t < copy.buffer_.size(); ++t) {
      if (!same_bits(copy.buffer_(t), nan_of<S>())) return false;
    }
    return true;
  }

 private:
  static constexpr Index offset = 5;
  Index rows_;
  Index cols_;
  Index row_stride_ = 0;
  Index col_stride_ = 0;
  Vector<S> buffer_;
};

}  // namespace heed::test
