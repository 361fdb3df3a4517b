// expect: heed: mask.allowed or mask.keys would dangle: it views a temporary matrix; name the matrix first
#include "heed/heed.hpp"

int main() {
  heed::AttentionOptions options{.mask = {.allowed = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>(3, 3)}};
  return options.mask.allowed.given() ? 1 : 0;
}
