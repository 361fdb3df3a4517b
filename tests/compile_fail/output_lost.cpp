// expect: heed: out is a temporary matrix: its result would be lost; pass a matrix, a block or a map
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8);
  heed::attend_into(Eigen::MatrixXf(4, 8), nullptr, q, k, v);
}
