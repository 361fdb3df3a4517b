#pragma once
#include "heed/kernels/scalars.hpp"

namespace heed::detail {

/// The kernels of activation functions for scalar T (bodies/activation.inl).
template <class T>
struct ActivationKernels {
  void (*gelu)(Size n, const T* u, T* h);
  void (*gelu_backward)(Size n, const T* u, const T* d_h, T* d_u);
};

}  // namespace heed::detail
