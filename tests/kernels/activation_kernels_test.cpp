#include "heed/kernels/activation_kernels.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include <gtest/gtest.h>

#include "heed/kernels/select.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

template <class T>
class ActivationKernelsOf : public testing::Test {
 protected:
  const heed::detail::ActivationKernels<T>& kernels = heed::detail::activation_kernels<T>(heed::active_isa());
  static constexpr double unit = static_cast<double>(std::numeric_limits<T>::epsilon());
};
using ActivationScalars = testing::Types<float, double>;
TYPED_TEST_SUITE(ActivationKernelsOf, ActivationScalars);

double inner(double u) { return std::sqrt(2 / std::acos(-1.0)) * (u + 0.044715 * u * u * u); }
double gelu(double u) { return u * (1 + std::tanh(inner(u))) / 2; }
/// By central differences where the function bends, and at the far ends by what it is there.
double slope(double u) {
  if (std::abs(u) > 12) return u > 0 ? 1 : 0;
  const double step = 1e-5;
  return (gelu(u + step) - gelu(u - step)) / (2 * step);
}

TYPED_TEST(ActivationKernelsOf, GeluAndItsSlopeAtEveryLength) {
  using T = TypeParam;
  for (const Index n : {0, 1, 7, 16, 33, 1000}) {
    std::vector<T> u(static_cast<std::size_t>(n)), d_h = u, h(u.size() + 1, T(77)), d_u = h;
    for (std::size_t e = 0; e < u.size(); ++e) {
      u[e] = static_cast<T>(n == 1000 ? 0.012 * (static_cast<double>(e) - 500) : 0.37 * static_cast<double>(e) - 3);
      d_h[e] = static_cast<T>(1 + 0.1 * static_cast<double>(e % 5));
    }
    this->kernels.gelu(n, u.data(), h.data());
    this->kernels.gelu_backward(n, u.data(), d_h.data(), d_u.data());
    for (std::size_t e = 0; e < u.size(); ++e) {
      const double x = static_cast<double>(u[e]), d = static_cast<double>(d_h[e]);
      EXPECT_NEAR(static_cast<double>(h[e]), gelu(x), 16 * this->unit * (1 + std::abs(x)));
      EXPECT_NEAR(static_cast<double>(d_u[e]), d * slope(x), 32 * this->unit * d + 1e-9);
    }
    EXPECT_EQ(h.back(), T(77));  // nothing behind the run is written
    EXPECT_EQ(d_u.back(), T(77));
  }
}

TYPED_TEST(ActivationKernelsOf, GeluOfFarNumbersIsTheNumberOrZeroAndNanStays) {
  using T = TypeParam;
  const T u[] = {T(1e3), T(-1e3), T(1e15), T(-1e15), T(0), nan_of<T>()}, ones[] = {1, 1, 1, 1, 1, 1};
  T h[6], d_u[6];
  this->kernels.gelu(6, u, h);
  this->kernels.gelu_backward(6, u, ones, d_u);
  for (const int e : {0, 2}) {
    EXPECT_EQ(h[e], u[e]);
    EXPECT_EQ(d_u[e], T(1));
    EXPECT_EQ(h[e + 1], T(0));
    EXPECT_EQ(d_u[e + 1], T(0));
  }
  EXPECT_EQ(h[4], T(0));
  EXPECT_EQ(d_u[4], T(0.5));
  EXPECT_TRUE(std::isnan(h[5]) && std::isnan(d_u[5]));
}

}  // namespace
}  // namespace heed::test
