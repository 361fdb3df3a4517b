// Heads without copies: packed rows (n x heads*d) as a linear layer leaves them, grouped heads, and memory that is
// not Eigen's.
#include <cstddef>
#include <cstdio>
#include <vector>

#include <Eigen/Core>

#include <heed/heed.hpp>

int main() {
  const Eigen::Index n = 50, n_heads = 6, n_kv_heads = 3, d = 8, d_v = 10;

  // One buffer for q, k and v of every token, the output of one fused projection.
  const Eigen::Index q_cols = n_heads * d, k_cols = n_kv_heads * d, v_cols = n_kv_heads * d_v;
  using RowMatrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const RowMatrix fused = RowMatrix::Random(n, q_cols + k_cols + v_cols);
  const auto q = fused.leftCols(q_cols), k = fused.middleCols(q_cols, k_cols), v = fused.rightCols(v_cols);

  // All heads at once: query head h uses key/value head h / 2 here.
  RowMatrix out(n, n_heads * d_v), lse(n, n_heads);
  heed::multi_head_attend_into(out, lse, q, k, v, {.n_heads = n_heads, .n_kv_heads = n_kv_heads});

  // The same head by head, through views into the packed rows.
  const auto q_heads = heed::split_heads(q, n_heads);
  const auto k_heads = heed::split_heads(k, n_kv_heads);
  const auto v_heads = heed::split_heads(v, n_kv_heads);
  RowMatrix one_by_one(n, n_heads * d_v);
  auto out_heads = heed::split_heads(one_by_one, n_heads);  // writable: results land in their columns
  for (std::size_t h = 0; h < q_heads.size(); ++h) {
    heed::attend_into(out_heads[h], {}, q_heads[h], k_heads[h / 2], v_heads[h / 2]);
  }
  const bool same_bits = out == one_by_one;
  std::printf("%td heads at once and one by one: %s\n", n_heads, same_bits ? "the same bits" : "DIFFERENT");
  const bool in_place = q_heads[1].data() == fused.data() + d;
  std::printf("head 1 starts %td floats into the fused buffer: %s\n", q_heads[1].data() - fused.data(),
              in_place ? "no copy" : "A COPY");

  // Memory that is not Eigen's, the other way round: features by tokens, as convolution libraries keep it.
  std::vector<float> foreign(static_cast<std::size_t>(q_cols * n));
  Eigen::Map<RowMatrix> by_features(foreign.data(), q_cols, n);
  by_features = q.transpose();
  const auto turned =
      heed::multi_head_attend(by_features.transpose(), k, v, {.n_heads = n_heads, .n_kv_heads = n_kv_heads});
  const float difference = (turned.out - out).cwiseAbs().maxCoeff();
  std::printf("queries stored as features by tokens: largest difference %.1e\n", difference);

  return same_bits && in_place && difference < 1e-6f ? 0 : 1;
}
