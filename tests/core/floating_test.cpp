#include "heed/core/floating.hpp"

#include <limits>

#include <gtest/gtest.h>

#include "support/matrices.hpp"

namespace heed {
namespace {

template <class S>
void expect_told_apart() {
  using detail::is_finite;
  using detail::is_minus_infinity;
  const S numbers[] = {S(0),
                       -S(0),
                       S(1),
                       std::numeric_limits<S>::lowest(),
                       std::numeric_limits<S>::max(),
                       std::numeric_limits<S>::denorm_min(),
                       -std::numeric_limits<S>::denorm_min()};
  for (const S x : numbers) {
    EXPECT_FALSE(is_minus_infinity(x)) << x;
    EXPECT_TRUE(is_finite(x)) << x;
  }
  EXPECT_TRUE(is_minus_infinity(test::minus_infinity_of<S>()));
  EXPECT_TRUE(is_minus_infinity(detail::minus_infinity<S>));
  EXPECT_FALSE(is_minus_infinity(test::infinity_of<S>()));
  EXPECT_FALSE(is_minus_infinity(test::nan_of<S>()));
  EXPECT_FALSE(is_finite(test::minus_infinity_of<S>()));
  EXPECT_FALSE(is_finite(test::infinity_of<S>()));
  EXPECT_FALSE(is_finite(test::nan_of<S>()));
}

TEST(Floating, TellsInfinitiesFromNumbers) {
  expect_told_apart<float>();
  expect_told_apart<double>();
}

}  // namespace
}  // namespace heed
