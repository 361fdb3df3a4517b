// expect: heed: q, k, v and out must be dense Eigen matrices (one row per token)
#include <vector>

#include "heed/heed.hpp"

int main() {
  std::vector<float> q(32), k(32), v(32);
  return static_cast<int>(heed::attend(q, k, v).out.rows());
}
