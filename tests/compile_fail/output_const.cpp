// expect: heed: out must be writable, it is const
#include "heed/heed.hpp"

int main() {
  Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8);
  const Eigen::MatrixXf out(4, 8);
  heed::attend_into(out, nullptr, q, k, v);
}
