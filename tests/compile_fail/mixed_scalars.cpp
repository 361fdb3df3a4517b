// expect: heed: 
// expect: same scalar
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXd q(4, 8);
  Eigen::MatrixXf k(4, 8), v(4, 8);
  return static_cast<int>(heed::attend(q, k, v).out.rows());
}
