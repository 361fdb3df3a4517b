// expect: heed: 
// expect: dense Eigen matrices
#include <vector>

#include "heed/heed.hpp"

int main() {
  std::vector<float> q(32), k(32), v(32);
  return static_cast<int>(heed::attend(q, k, v).out.rows());
}
