// expect: heed: split_heads of a temporary matrix would dangle: name the matrix first
#include "heed/heed.hpp"

int main() {
  auto heads = heed::split_heads(Eigen::MatrixXf(4, 16), 2);
  return static_cast<int>(heads.size());
}
