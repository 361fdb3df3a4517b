// The deterministic competitor of sampling: w_v becomes a product of two thin matrices, with as many products as
// sampling may spend. Rank k costs k (d_model + d_v) products a token in place of d_model d_v. The right factor spans
// the leading eigenvectors of w_v^T w_v (the truncated SVD of w_v), or of (x w_v)^T x w_v (the best for these x).
#include <algorithm>

#include <Eigen/Eigenvalues>

#include "attend_attempt.hpp"

namespace compare {
namespace {

class LowRankAttempt : public Attempt {
 public:
  LowRankAttempt(const Head& head, const Settings& settings, bool aware) : head_(head), settings_(settings) {
    const Eigen::MatrixXd w = head.w_v->cast<double>(), x = head.x->cast<double>();
    const Eigen::MatrixXd rows = aware ? Eigen::MatrixXd(x * w) : w;
    const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(Eigen::MatrixXd(rows.transpose() * rows));
    const auto d_in = static_cast<double>(w.rows()), d_v = static_cast<double>(w.cols());
    const auto rank = std::clamp<Index>(static_cast<Index>(settings.fraction * d_in * d_v / (d_in + d_v)), 1, w.cols());
    const Eigen::MatrixXd basis = solver.eigenvectors().rightCols(rank);  // eigenvalues ascend
    left_ = (w * basis).cast<float>();
    right_ = basis.transpose().cast<float>();
    out_.resize(head.q->rows(), w.cols());
  }

  void run(heed::FlopCounter* flops) override {
    const Index real = std::min(head_.x->rows(), settings_.options.mask.n_real_keys);
    v_.setZero(head_.x->rows(), right_.cols());
    v_.topRows(real) = (head_.x->topRows(real) * left_) * right_;
    if (head_.b_v) v_.rowwise() += head_.b_v->row(0);
    heed::attend_into(out_, nullptr, *head_.q, *head_.k, v_, settings_.options, heed::ExactAttention{},
                      {.flops = flops, .workspace = &workspace_, .threads = settings_.threads});
    if (flops != nullptr) {
      flops->add_products(heed::Phase::project, 2.0 * static_cast<double>(real) * static_cast<double>(right_.rows()) *
                                                    static_cast<double>(left_.rows() + right_.cols()));
    }
  }

  [[nodiscard]] heed::Matrix<float> out() const override { return out_; }

 private:
  Head head_;
  Settings settings_;
  heed::Matrix<float> left_, right_, v_, out_;  // d_model x k, k x d_v
  heed::Workspace workspace_;
};

void add_low_rank(const char* name, const char* description, bool aware) {
  Registration({.name = name,
                .description = description,
                .family = Family::values,
                .by_default = aware,
                .needs = Needs::projection,
                .bind = [aware](const Head& head, const Settings& settings) -> std::unique_ptr<Attempt> {
                  return std::make_unique<LowRankAttempt>(head, settings, aware);
                }});
}

const bool low_rank_registered = [] {
  add_low_rank("svd", "w_v by its truncated SVD, at the products of the sampled methods", false);
  add_low_rank("svd-aware", "w_v by the best low rank for these x, at the products of the sampled methods", true);
  return true;
}();

}  // namespace
}  // namespace compare
