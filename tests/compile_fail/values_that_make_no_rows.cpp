// expect: heed: a value source that computes rows needs attend_heads(calls, heads_per_kv, options, run, context)
#include "heed/heed.hpp"

struct Nothing {
  using Scalar = float;
  static constexpr bool computes_rows = true;
  heed::Index n_keys() const { return 4; }
  heed::Index width() const { return 8; }
};

int main() {
  Eigen::MatrixXf q(4, 8), k(4, 8);
  return static_cast<int>(heed::attend(q, k, Nothing{}).out.rows());
}
