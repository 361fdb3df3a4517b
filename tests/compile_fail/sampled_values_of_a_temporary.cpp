// expect: heed: MonteCarloValues would dangle: it views a temporary matrix; name it first
#include "heed/heed.hpp"

int main() {
  const Eigen::MatrixXf w_v(3, 2);
  return static_cast<int>(heed::MonteCarloValues<float>(Eigen::MatrixXf(4, 3), w_v).width());
}
