// compiles
#include <span>
#include <vector>

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
  const std::vector<float> sinks{0.5f};
  const std::vector<heed::Index> offsets{0, 3, 4};
  const Eigen::MatrixXd slopes = Eigen::MatrixXd::Zero(2, 1);
  heed::AttentionOptions viewed{.mask = {.alibi_slope = slopes.col(0).head(1), .sequence_offsets = offsets},
                                .sinks = sinks};
  viewed.mask.key_sequence_offsets = std::span<const heed::Index>(offsets);
  Eigen::MatrixXf out(4, 8), lse(4, 2);
  heed::attend_into(out, lse.col(1), q, k, v, viewed);
  return static_cast<int>(r.out.rows() + head.out.rows());
}
