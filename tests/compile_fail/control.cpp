// compiles
#include "heed/heed.hpp"

// What the programs beside this one do wrong, done right.
int main() {
  Eigen::MatrixXf q(4, 8), k(4, 8), v(4, 8), bias(4, 4);
  Eigen::MatrixXf packed(4, 16);
  const Eigen::MatrixXf scaled = q * 2;
  const heed::AttentionOptions options{.mask = {.bias = bias}};
  auto heads = heed::split_heads(packed, 2);
  const auto r = heed::attend(scaled, k, v, options);
  const auto head = heed::attend(heads[0], k.topRows(4), v);
  return static_cast<int>(r.out.rows() + head.out.rows());
}
