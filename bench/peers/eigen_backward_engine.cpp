// What a careful Eigen user writes for gradients today. Built twice, with plain -O2 and for the CPU at hand.
#include "peers/backward_engine.hpp"

namespace heed_bench {
namespace {

/// Works on 128 queries at a time, so that their scores stay in cache, and skips the keys behind a causal block's last
/// query.
class CarefulEigen final : public BackwardEngine {
 public:
  [[nodiscard]] std::string name() const override { return "eigen careful " HEED_PEER_FLAGS; }

 protected:
  void head(std::size_t set, Eigen::Index h, std::vector<float>& scratch) override {
    using Eigen::Index;
    using Rows = Eigen::Map<const Matrix>;
    using Output = Eigen::Map<Matrix>;
    constexpr Index block = 128;
    const Index d = shape_.d, n_q = shape_.n_q, n_k = shape_.n_k;
    const Operands& in = sets_[set];
    scratch.resize(static_cast<std::size_t>(2 * block * n_k));
    const Rows k(in.k + h * n_k * d, n_k, d), v(in.v + h * n_k * d, n_k, d);
    Output d_k(d_k_ + h * n_k * d, n_k, d), d_v(d_v_ + h * n_k * d, n_k, d);
    d_k.setZero();
    d_v.setZero();
    for (Index first = 0; first < n_q; first += block) {
      const Index count = std::min(block, n_q - first), n_seen = shape_.causal ? first + count : n_k;
      const Rows q(in.q + (h * n_q + first) * d, count, d), d_out(in.d_out + (h * n_q + first) * d, count, d);
      Output p(scratch.data(), count, n_seen), s(scratch.data() + block * n_k, count, n_seen);
      p.noalias() = scale_ * q * k.topRows(n_seen).transpose();
      s.noalias() = d_out * v.topRows(n_seen).transpose();
      for (Index i = 0; i < count; ++i) {
        auto row = p.row(i).array();
        row = (row - lse_[set].lse(h, first + i)).exp();
        if (shape_.causal) row.tail(n_seen - 1 - (first + i)).setZero();
        s.row(i).array() = scale_ * row * (s.row(i).array() - lse_[set].mean(h, first + i));
      }
      d_v.topRows(n_seen).noalias() += p.transpose() * d_out;
      Output(d_q_ + (h * n_q + first) * d, count, d).noalias() = s * k.topRows(n_seen);
      d_k.topRows(n_seen).noalias() += s.transpose() * q;
    }
  }
};

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) { return index == 0 ? new heed_bench::CarefulEigen : nullptr; }
