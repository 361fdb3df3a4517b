// expect: heed: q, k and v must have one scalar type: cast them to the same (for example k.cast<float>().eval())
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXd q(4, 8);
  Eigen::MatrixXf k(4, 8), v(4, 8);
  return static_cast<int>(heed::attend(q, k, v).out.rows());
}
