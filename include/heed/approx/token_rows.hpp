#pragma once
#include <type_traits>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Rows of x as the encoding kernels read them: contiguous, in the accumulator; in place where they already are.
template <class S>
class TokenRows {
 public:
  using T = Accumulator<S>;
  TokenRows(const ConstView<S>& x, Isa isa) : x_(x), stored_(storage_kernels<T, KernelScalar<S>>(isa)) {}
  bool in_place() const { return std::is_same_v<S, T> && x_.col_stride == 1; }
  /// Row j; `room` holds a row.
  const T* row(Index j, T* room) const {
    if constexpr (std::is_same_v<S, T>) {
      if (x_.col_stride == 1) return x_.data + j * x_.row_stride;
    }
    stored_.gather(kernel_pointer(x_.data) + j * x_.row_stride, x_.row_stride, x_.col_stride, nullptr, 1, x_.cols, room,
                   x_.cols);
    return room;
  }

 private:
  ConstView<S> x_;
  const StorageKernels<T, KernelScalar<S>>& stored_;
};

}  // namespace heed::detail
