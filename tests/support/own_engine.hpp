#pragma once
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "support/inputs.hpp"

namespace heed::test {

/// Attention and its gradients from a translation unit that compiles kernels and engine itself, as users do.
struct OwnEngine {
  static AttentionResult<float> attend(const Inputs<float>& in, const AttentionOptions& options);
  static AttentionGradients<float> attend_backward(const Matrix<float>& d_out, const Inputs<float>& in,
                                                   const AttentionResult<float>& forward,
                                                   const AttentionOptions& options);
};

}  // namespace heed::test
