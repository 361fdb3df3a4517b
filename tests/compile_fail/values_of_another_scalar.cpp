// expect: heed: values must have the scalar type of q and k: cast what they are made from to the same
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXd q(4, 8), k(4, 8);
  Eigen::MatrixXf x(4, 8), w_v(8, 8);
  return static_cast<int>(heed::attend(q, k, heed::ProjectedValues<float>(x, w_v)).out.rows());
}
