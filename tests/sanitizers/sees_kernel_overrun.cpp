#include <cstdio>

#include "heed/heed.hpp"

// A map that claims one row of keys and values more than there is: the kernels, compiled for instruction sets of their
// own, read past the end, and the sanitizer must see into them.
int main() try {
  const Eigen::Index n = 67, d = 24;
  Eigen::MatrixXf q = Eigen::MatrixXf::Ones(n, d);
  heed::Matrix<float> k = heed::Matrix<float>::Ones(n, d), v = k;
  const Eigen::Map<const heed::Matrix<float>> longer_k(k.data(), n + 1, d), longer_v(v.data(), n + 1, d);
  return heed::attend(q, longer_k, longer_v).out.allFinite() ? 0 : 1;
} catch (const heed::OptionError& error) {  // this machine lacks the instruction set that HEED_ISA names
  std::puts(error.what());
  return 77;
}
