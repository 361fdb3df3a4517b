#include "heed/core/flops.hpp"

#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(FlopCounter, StartsAtZeroAndAddsUpByPhase) {
  FlopCounter flops;
  EXPECT_EQ(flops.products(), 0.0);
  EXPECT_EQ(flops.exponentials(), 0.0);
  flops.add_products(Phase::scores, 10.0);
  flops.add_products(Phase::values, 5.0);
  flops.add_products(Phase::scores, 1.0);
  flops.add_exponentials(3.0);
  EXPECT_EQ(flops.products(Phase::scores), 11.0);
  EXPECT_EQ(flops.products(Phase::values), 5.0);
  EXPECT_EQ(flops.products(Phase::route), 0.0);
  EXPECT_EQ(flops.products(), 16.0) << "exponentials are counted apart";
  EXPECT_EQ(flops.exponentials(), 3.0);
}

TEST(FlopCounter, CountsRealAndPaddedTokensApart) {
  FlopCounter flops;
  flops.add_tokens(30.0, 128.0);
  flops.add_tokens(2.0, 128.0);
  EXPECT_EQ(flops.real_tokens(), 32.0);
  EXPECT_EQ(flops.padded_tokens(), 256.0);
}

TEST(FlopCounter, KeepsEveryPhaseApart) {
  const Phase phases[] = {Phase::route, Phase::project, Phase::sample, Phase::scores, Phase::values, Phase::far_field};
  FlopCounter flops;
  double count = 1.0;
  for (const Phase phase : phases) flops.add_products(phase, count *= 2.0);
  count = 1.0;
  for (const Phase phase : phases) EXPECT_EQ(flops.products(phase), count *= 2.0);
  EXPECT_EQ(flops.products(), 126.0);
}

TEST(FlopCounter, ResetForgetsEverything) {
  FlopCounter flops;
  flops.add_products(Phase::route, 1.0);
  flops.add_exponentials(1.0);
  flops.add_tokens(1.0, 1.0);
  flops.reset();
  EXPECT_EQ(flops.products() + flops.exponentials() + flops.real_tokens() + flops.padded_tokens(), 0.0);
}

}  // namespace
}  // namespace heed
