#include "heed/core/errors.hpp"

#include <cstddef>
#include <stdexcept>
#include <type_traits>

#include <gtest/gtest.h>

namespace heed {
namespace {

TEST(Errors, AreOfTheStandardFamilies) {
  static_assert(std::is_base_of_v<std::invalid_argument, ShapeError>);
  static_assert(std::is_base_of_v<std::invalid_argument, OptionError>);
  static_assert(std::is_base_of_v<std::runtime_error, FormatError>);
}

TEST(Errors, MessagesNameTheLibraryAndWriteNumbersPlainly) {
  EXPECT_EQ(detail::message("cols(q) = ", 16, " but cols(k) = ", 15), "heed: cols(q) = 16 but cols(k) = 15");
  EXPECT_EQ(detail::message("softcap = ", -2.5, " must be > 0"), "heed: softcap = -2.5 must be > 0");
  EXPECT_EQ(detail::message("x = ", 3.0), "heed: x = 3");
  EXPECT_EQ(detail::message("x = ", 0.0f), "heed: x = 0");
  EXPECT_EQ(detail::message("n = ", std::size_t{7}), "heed: n = 7");
}

TEST(Errors, MessagesTellSmallNumbersFromZeroAndStayShortForLargeOnes) {
  EXPECT_EQ(detail::message("alpha = ", -1e-9), "heed: alpha = -1e-09");
  EXPECT_EQ(detail::message("alpha = ", 1e300), "heed: alpha = 1e+300");
  EXPECT_EQ(detail::message("alpha = ", 0.25), "heed: alpha = 0.25");
}

}  // namespace
}  // namespace heed
