// expect: heed: an Eigen expression has no memory to read: call .eval() on it or store it in a matrix first
#include "heed/heed.hpp"

int main() {
  const Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8), wanted(4, 8);
  const auto r = heed::attend(q, k, v);
  return static_cast<int>(heed::attend_backward(r.out - wanted, q, k, v, r).d_q.rows());
}
