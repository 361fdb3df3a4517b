#include "heed/core/sizes.hpp"

#include <limits>
#include <string>

#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(Sizes, ProductsThatOverflowAreRefusedByName) {
  constexpr Index most = Index(1) << 58, huge = std::numeric_limits<Index>::max();
  EXPECT_EQ(detail::checked_product("rooms", {3, 4, 5}), 60);
  EXPECT_EQ(detail::checked_product("rooms", {Index(1) << 29, Index(1) << 29}), most);
  EXPECT_EQ(detail::checked_product("rooms", {huge, huge, 0, huge}), 0);
  EXPECT_THROW(detail::checked_product("rooms", {huge}), ShapeError);
  EXPECT_THROW(detail::checked_product("rooms", {Index(1) << 32, Index(1) << 32}), ShapeError);  // 0 where it wraps
  try {
    detail::checked_product("rooms", {huge, 4});
    ADD_FAILURE() << "nothing was thrown";
  } catch (const ShapeError& error) {
    EXPECT_EQ(std::string(error.what()).find("heed: rooms = 3.68935e+19 must be at most 2^58"), 0u) << error.what();
  }
}

TEST(Sizes, ASizePastWhatMemoryHoldsIsRefusedByName) {
  EXPECT_EQ(detail::checked_size(Index(1) << 40, "rooms"), Index(1) << 40);
  try {
    detail::checked_size((Index(1) << 40) + 1, "rooms");
    ADD_FAILURE() << "nothing was thrown";
  } catch (const OptionError& error) {
    EXPECT_EQ(std::string(error.what()), "heed: rooms = 1099511627777 must be at most 2^40 = 1099511627776");
  }
}

}  // namespace
}  // namespace heed
