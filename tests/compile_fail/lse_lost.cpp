// expect: heed: lse is a temporary vector: its numbers would be lost; pass a vector, a block or a map
#include "heed/heed.hpp"

int main() {
  const Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8);
  Eigen::MatrixXf out(4, 8);
  heed::attend_into(out, Eigen::VectorXf(4), q, k, v);
  return 0;
}
