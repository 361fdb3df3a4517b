// expect: heed: mask.bias would dangle: it views a temporary matrix; name the matrix first
#include "heed/heed.hpp"

int main() {
  heed::AttentionOptions options{.mask = {.bias = Eigen::MatrixXf(3, 3)}};
  return options.mask.bias.given() ? 1 : 0;
}
