// expect: heed: numbers per head would dangle: they view a temporary vector; name the vector first
#include "heed/heed.hpp"

int main() {
  const Eigen::VectorXd slopes = Eigen::VectorXd::Constant(3, 0.5);
  heed::AttentionOptions options{.mask = {.alibi_slope = (slopes * 2).eval()}};
  return options.mask.alibi_slope.given() ? 1 : 0;
}
