// expect: heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 matrices; cast others first
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXi q(4, 8), k(4, 8), v(4, 8);
  return static_cast<int>(heed::attend(q, k, v).out.rows());
}
