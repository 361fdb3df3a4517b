// expect: heed: mask.allowed must be a matrix of bool (true = may attend)
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXf allowed(3, 3);
  heed::AttentionOptions options{.mask = {.allowed = allowed}};
  return options.mask.allowed.given() ? 1 : 0;
}
