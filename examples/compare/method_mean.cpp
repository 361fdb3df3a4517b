// The mean of the value rows that the mask keeps, whatever q and k say: what an approximation must beat to be worth its
// name. Under a causal mask it is a running mean.
#include <algorithm>

#include "method.hpp"

namespace compare {
namespace {

class MeanAttempt : public Attempt {
 public:
  MeanAttempt(const Head& head, const Settings& settings)
      : v_(head.v), mask_(settings.options.mask), out_(head.q->rows(), head.v->cols()), sum_(head.v->cols()) {}

  void run(heed::FlopCounter* flops) override {
    const Index n_q = out_.rows();
    const Index n_k = v_->rows();
    const Index n_real = std::min(n_k, mask_.n_real_keys);
    const bool causal = mask_.causal != heed::Causal::none;
    const Index shift = mask_.causal == heed::Causal::bottom_right ? n_k - n_q : 0;
    sum_.setZero();
    Index n_summed = 0;
    for (Index i = 0; i < n_q; ++i) {
      const Index n_seen = causal ? std::clamp(i + shift + 1, Index{0}, n_real) : n_real;
      for (; n_summed < n_seen; ++n_summed) sum_ += v_->row(n_summed);
      if (n_seen == 0) {
        out_.row(i).setZero();
      } else {
        out_.row(i) = sum_ * (1.0F / static_cast<float>(n_seen));
      }
    }
    if (flops == nullptr) return;
    // A sum counts as products with 1, a division as a product.
    flops->add_products(heed::Phase::values,
                        2.0 * static_cast<double>(n_summed + n_q) * static_cast<double>(sum_.size()));
    flops->add_tokens(static_cast<double>(n_real), static_cast<double>(n_k));
  }

  [[nodiscard]] heed::Matrix<float> out() const override { return out_; }

 private:
  Rows v_;
  heed::Mask mask_;
  heed::Matrix<float> out_;
  Eigen::RowVectorXf sum_;
};

const Registration mean_registration{
    {.name = "mean-of-v",
     .description = "the mean of the values a query may see: ignores q and k",
     .family = Family::all,
     .by_default = true,
     .bind = [](const Head& head, const Settings& settings) -> std::unique_ptr<Attempt> {
       return std::make_unique<MeanAttempt>(head, settings);
     }}};

}  // namespace
}  // namespace compare
