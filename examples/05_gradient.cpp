// Attention that learns: attend forward, attend_backward for the gradients, a step of gradient descent. The smallest
// complete training loop: queries, keys and values are moved until causal attention gives the rows it is asked for.
#include <cmath>
#include <cstdio>

#include <Eigen/Core>

#include <heed/heed.hpp>

using heed::Index;

int main() {
  const Index n = 64, d = 16;
  Eigen::MatrixXf q = Eigen::MatrixXf::Random(n, d), k = Eigen::MatrixXf::Random(n, d),
                  v = Eigen::MatrixXf::Random(n, d);
  const Eigen::MatrixXf wanted = Eigen::MatrixXf::Random(n, d);
  const heed::AttentionOptions options{.mask = {.causal = heed::Causal::square}};

  float first = 0, loss = 0;
  for (int step = 0; step < 200; ++step) {
    const auto r = heed::attend(q, k, v, options);
    const Eigen::MatrixXf difference = r.out - wanted;
    loss = difference.squaredNorm() / static_cast<float>(difference.size());
    if (step == 0) first = loss;
    if (step % 50 == 0) std::printf("step %3d  loss %.4f\n", step, static_cast<double>(loss));

    // d_out is what the loss says of out; the rest is the chain rule, without a matrix of n x n.
    const auto g = heed::attend_backward(difference, q, k, v, r, options);
    const float rate = 0.2f;
    q -= rate * g.d_q;
    k -= rate * g.d_k;
    v -= rate * g.d_v;
  }
  std::printf("step 200  loss %.4f\n", static_cast<double>(loss));

  // The same gradient, checked against central differences of one entry.
  const Eigen::MatrixXf d_out = Eigen::MatrixXf::Random(n, d);
  const auto r = heed::attend(q, k, v, options);
  const auto g = heed::attend_backward(d_out, q, k, v, r, options);
  const float h = 1e-2f;
  Eigen::MatrixXf up = q, down = q;
  up(5, 3) += h;
  down(5, 3) -= h;
  const float slope =
      ((heed::attend(up, k, v, options).out - heed::attend(down, k, v, options).out).array() * d_out.array()).sum() /
      (2 * h);
  std::printf("d_q(5, 3): %.4f, by differences %.4f\n", static_cast<double>(g.d_q(5, 3)), static_cast<double>(slope));
  return loss < first / 2 && std::abs(slope - g.d_q(5, 3)) < 2e-2f ? 0 : 1;
}
