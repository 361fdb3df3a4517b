#pragma once
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// The kernels of backward passes for scalar T (bodies/gradient.inl).
template <class T>
struct GradientKernels {
  void (*gradients)(Size n_keys, Size panel, Size first, Size count, T c, T most, const T* base, const T* shift,
                    const T* mean, T* s, T* d);
  void (*bend)(Size n_keys, Size panel, Size first, Size count, T factor, const T* raw, T* d);
  void (*add_rows)(const T* rows, Size stride, Size n_rows, Size n_columns, T factor, T* to, Size row_stride,
                   Size column_stride, const Size* list);
  void (*add_products)(const T* a, Size a_stride, Size n_rows, const T* b, Size b_stride, Size n, Size columns, T* to,
                       Size to_stride);
};

}  // namespace heed::detail
