// expect: heed: an Eigen expression has no memory to read: call .eval() on it or store it in a matrix first
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8);
  return static_cast<int>(heed::attend(q * 2, k, v).out.rows());
}
