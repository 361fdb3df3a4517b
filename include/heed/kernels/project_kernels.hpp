#pragma once
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// Kernels on rows of a weight matrix and columns of weights, as function pointers over raw pointers; what each
/// computes stands beside its body in bodies/project.inl.
template <class T>
struct ProjectKernels {
  Size lanes;       ///< entries of a vector; rows of weights are padded with zeros to whole vectors
  Size max_tokens;  ///< tokens one call of `encode` takes

  void (*encode)(const T* w, Size w_stride, const std::int32_t* list, Size n, const T* const* y, Size y_stride,
                 Size n_tokens, Size columns, T* const* out);
  T (*products)(Size n, const T* x, const T* norms, T* size);
  void (*centre)(Size n, const T* x, const T* mean, T* y);
  T (*square)(Size n, const T* x, const T* mean);
  Size (*count_above)(Size n, const T* size, T floor);
  Size (*list_above)(Size n, const T* size, T floor, Size first, std::int32_t* list);
  void (*fold)(Size n_keys, Size panel, Size count, const T* weights, T* top, T* squares);
  void (*finish_row)(Size n, const T* sum, T factor, const T* base, T* to);
  void (*multiply)(Size n, T factor, T* x);
  void (*interleave)(Size n, const T* const* rows, Size n_rows, T* to, Size stride);
  void (*draw)(std::uint64_t seed, std::uint64_t stream, const std::uint64_t* cells, Size n, Size count,
               std::int32_t* list);
};

}  // namespace heed::detail
