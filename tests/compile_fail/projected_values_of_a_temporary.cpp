// expect: heed: ProjectedValues would dangle: it views a temporary matrix; name it first
#include "heed/heed.hpp"

int main() {
  const Eigen::MatrixXf x(4, 3);
  return static_cast<int>(heed::ProjectedValues<float>(x, Eigen::MatrixXf(3, 2)).width());
}
