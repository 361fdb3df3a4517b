#include "heed/core/number_range.hpp"

#include <limits>
#include <string>

#include <gtest/gtest.h>

#include "support/matrices.hpp"

namespace heed {
namespace {

template <class T>
std::string said_of(double value) {
  try {
    detail::check_number(value, detail::number_range<T>(), "Some::option", " of head ", 3);
  } catch (const OptionError& error) {
    return error.what();
  }
  return "";
}

TEST(NumberRange, TakesExactlyTheNumbersThatFloatKeeps) {
  using Float = std::numeric_limits<float>;
  for (const double fine : {0.0, 1.0, 3.4e38, double(Float::max()), double(Float::min()), double(Float::denorm_min()),
                            0.6 * double(Float::denorm_min())}) {
    EXPECT_EQ(said_of<float>(fine), "") << fine;
    EXPECT_EQ(said_of<float>(-fine), "") << fine;
    EXPECT_EQ(static_cast<float>(fine) == 0, fine == 0) << fine;
  }
  for (const double wrong : {1e39, 3.5e38, 1e300, 1e-46, 0.5 * double(Float::denorm_min()), 1e-300}) {
    EXPECT_NE(said_of<float>(wrong).find("Some::option of head 3 = "), std::string::npos) << wrong;
    EXPECT_NE(said_of<float>(-wrong).find("sums are kept in float"), std::string::npos) << wrong;
  }
}

TEST(NumberRange, TakesEveryFiniteDoubleForDouble) {
  using Double = std::numeric_limits<double>;
  for (const double fine : {0.0, 1e39, 1e-46, Double::max(), Double::denorm_min()}) {
    EXPECT_EQ(said_of<double>(fine), "") << fine;
    EXPECT_EQ(said_of<double>(-fine), "") << fine;
  }
}

TEST(NumberRange, SaturationKeepsSignsInfinitiesAndNaN) {
  constexpr float largest = std::numeric_limits<float>::max();
  EXPECT_EQ(detail::saturated<float>(1e39), largest);
  EXPECT_EQ(detail::saturated<float>(-1e308), -largest);
  EXPECT_EQ(detail::saturated<float>(1.5), 1.5f);
  EXPECT_EQ(detail::saturated<float>(double(largest)), largest);
  EXPECT_TRUE(detail::is_minus_infinity(detail::saturated<float>(test::minus_infinity_of<double>())));
  EXPECT_EQ(detail::saturated<float>(test::infinity_of<double>()), test::infinity_of<float>());
  EXPECT_TRUE(test::is_nan(detail::saturated<float>(test::nan_of<double>())));
  EXPECT_EQ(detail::saturated<double>(1e308), 1e308);
}

}  // namespace
}  // namespace heed
