#undef HEED_COMPILED
#include "support/own_engine.hpp"

#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"

namespace heed::test {

AttentionResult<float> OwnEngine::attend(const Inputs<float>& in, const AttentionOptions& options) {
  return heed::attend(in.q, in.k, in.v, options);
}

AttentionGradients<float> OwnEngine::attend_backward(const Matrix<float>& d_out, const Inputs<float>& in,
                                                     const AttentionResult<float>& forward,
                                                     const AttentionOptions& options) {
  return heed::attend_backward(d_out, in.q, in.k, in.v, forward, options);
}

}  // namespace heed::test
