// expect: heed: out must have the scalar type of q
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8);
  Eigen::MatrixXd out(4, 8);
  heed::attend_into(out, nullptr, q, k, v);
}
