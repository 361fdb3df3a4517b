#include <gtest/gtest.h>

#include "heed/exact/attend.hpp"
#include "heed/exact/attend_backward.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/own_engine.hpp"

namespace heed::test {
namespace {

// Units that only see the engine declared (HEED_COMPILED) and units that compile it themselves may meet in one program.
TEST(CompiledEngine, GivesTheBitsOfAUnitThatCompilesItsOwn) {
  const auto in = random_inputs<float>({.n_q = 65, .n_k = 113, .d = 24, .d_v = 17});
  const Matrix<float> d_out = random_matrix<float>(65, 17, 5);
  const AttentionOptions options{.mask = {.causal = Causal::bottom_right, .window_left = 70}};
  const AttentionResult<float> r = attend(in.q, in.k, in.v, options), own = OwnEngine::attend(in, options);
  EXPECT_SAME_BITS(r.out, own.out);
  EXPECT_SAME_BITS(r.lse, own.lse);
  const auto g = attend_backward(d_out, in.q, in.k, in.v, r, options);
  const auto own_g = OwnEngine::attend_backward(d_out, in, r, options);
  EXPECT_SAME_BITS(g.d_q, own_g.d_q);
  EXPECT_SAME_BITS(g.d_k, own_g.d_k);
  EXPECT_SAME_BITS(g.d_v, own_g.d_v);
}

}  // namespace
}  // namespace heed::test
