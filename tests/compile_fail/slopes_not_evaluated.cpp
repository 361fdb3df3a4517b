// expect: heed: an Eigen expression has no memory to view: store the numbers per head in a vector first
#include "heed/heed.hpp"

int main() {
  const Eigen::VectorXd slopes = Eigen::VectorXd::Constant(3, 0.5);
  heed::AttentionOptions options{.mask = {.alibi_slope = slopes * 2}};
  return options.mask.alibi_slope.given() ? 1 : 0;
}
