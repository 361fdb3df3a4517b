// The first call: out = softmax(q k^T / sqrt(d)) v, then the same with masks.
#include <cmath>
#include <cstdio>

#include <Eigen/Core>

#include <heed/heed.hpp>

int main() {
  const Eigen::Index n_q = 6, n_k = 10, d = 16, d_v = 4;
  const Eigen::MatrixXf q = Eigen::MatrixXf::Random(n_q, d);  // one row per token; either storage order works
  const Eigen::MatrixXf k = Eigen::MatrixXf::Random(n_k, d);
  const Eigen::MatrixXf v = Eigen::MatrixXf::Random(n_k, d_v);

  const auto [out, lse] = heed::attend(q, k, v);

  // What it computes, written as three Eigen expressions. The library never builds the n_q x n_k matrix.
  const Eigen::ArrayXXf scores = q * k.transpose() / std::sqrt(static_cast<float>(d));
  const Eigen::ArrayXXf weights = scores.exp();
  const Eigen::ArrayXf sums = weights.rowwise().sum();
  const Eigen::MatrixXf want = (weights.colwise() / sums).matrix() * v;
  const float difference = (out - want).cwiseAbs().maxCoeff();
  std::printf("attend(q, k, v): %td x %td, largest difference from the three expressions %.1e\n", out.rows(),
              out.cols(), difference);
  std::printf("lse of the first query: %.4f, its softmax denominator: %.4f\n", lse(0), std::exp(lse(0)));

  // Masks intersect. The queries are the last 6 of 10 tokens, each sees itself and the two before it.
  const auto local = heed::attend(q, k, v, {.mask = {.causal = heed::Causal::bottom_right, .window_left = 2}});

  // Any other rule is a matrix of bool: true = may attend. Here key 3 is hidden from every query.
  using BoolMatrix = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic>;
  BoolMatrix allowed = BoolMatrix::Constant(n_q, n_k, true);
  allowed.col(3).setConstant(false);
  const auto without_key = heed::attend(q, k, v, {.mask = {.allowed = allowed}});

  // A query that may see nothing gets zeros, and -inf where the others have their log of the denominator.
  allowed.row(0).setConstant(false);
  const auto blind = heed::attend(q, k, v, {.mask = {.allowed = allowed}});
  std::printf("a query that sees no key: out %.1f, lse %.1f\n", blind.out(0, 0), blind.lse(0));

  // What a masked key holds cannot matter, not even NaN: it is skipped, not multiplied by 0.
  Eigen::MatrixXf broken = v;
  broken.row(3).setConstant(std::nanf(""));
  const bool untouched = heed::attend(q, k, broken, {.mask = {.allowed = allowed}}).out.isApprox(blind.out, 1e-6f);
  std::printf("NaN in a masked key reaches the answer: %s\n", untouched ? "no" : "yes");

  const bool good = difference < 1e-6f && local.out.allFinite() && without_key.out.allFinite() &&
                    blind.out.row(0).isZero(0.0f) && untouched;
  return good ? 0 : 1;
}
