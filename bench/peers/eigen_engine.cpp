// What an Eigen user writes today: three expressions, or blocks by hand. Built twice, with plain -O2 and for the CPU at
// hand.
#define EIGEN_DONT_PARALLELIZE
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>
#include <Eigen/Core>

#include "peers/engine.hpp"

namespace heed_bench {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Rows = Eigen::Map<const Matrix>;
using Output = Eigen::Map<Matrix>;
constexpr float masked = -std::numeric_limits<float>::infinity();

class EigenEngine : public Engine {
 public:
  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    shape_ = shape;
    sets_ = sets;
    out_ = out;
    scale_ = 1.0F / std::sqrt(static_cast<float>(shape.d));
    scratch_.resize(static_cast<std::size_t>(shape.threads));
  }
  void release() override { scratch_.clear(); }

 protected:
  [[nodiscard]] Rows keys(std::size_t set, Eigen::Index h) const {
    return {sets_[set].k + h * shape_.n_k * shape_.d, shape_.n_k, shape_.d};
  }
  [[nodiscard]] Rows values(std::size_t set, Eigen::Index h) const {
    return {sets_[set].v + h * shape_.n_k * shape_.d, shape_.n_k, shape_.d};
  }
  [[nodiscard]] Rows queries(std::size_t set, Eigen::Index h, Eigen::Index first, Eigen::Index count) const {
    return {sets_[set].q + (h * shape_.n_q + first) * shape_.d, count, shape_.d};
  }
  [[nodiscard]] Output output(Eigen::Index h, Eigen::Index first, Eigen::Index count) const {
    return {out_ + (h * shape_.n_q + first) * shape_.d, count, shape_.d};
  }
  Matrix& scratch() { return scratch_[static_cast<std::size_t>(omp_get_thread_num())]; }

  Shape shape_;
  std::vector<Operands> sets_;
  std::vector<Matrix> scratch_;  // one a thread, kept between calls
  float* out_ = nullptr;
  float scale_ = 1;
};

/// Scores, weights, output: one expression each, the whole score matrix at once, heads over threads.
class PlainEigen final : public EigenEngine {
 public:
  [[nodiscard]] std::string name() const override { return "eigen plain " HEED_PEER_FLAGS; }
  [[nodiscard]] bool supports(const Shape& shape) const override {
    return shape.n_q * shape.n_k <= (std::ptrdiff_t{1} << 26);
  }
  void run(std::size_t set) override {
#pragma omp parallel for schedule(dynamic) num_threads(shape_.threads)
    for (Eigen::Index h = 0; h < shape_.n_heads; ++h) {
      Matrix& s = scratch();
      s.noalias() = scale_ * queries(set, h, 0, shape_.n_q) * keys(set, h).transpose();  // n_q x n_k
      if (shape_.causal)
        for (Eigen::Index i = 0; i < s.rows(); ++i) s.row(i).tail(s.cols() - 1 - i).setConstant(masked);
      s = (s.colwise() - s.rowwise().maxCoeff().eval()).array().exp();
      Output out = output(h, 0, shape_.n_q);
      out.noalias() = s * values(set, h);
      out.array().colwise() /= s.rowwise().sum().array();
    }
  }
};

/// Works on 128 queries at a time, so that their scores stay in cache, and skips the keys behind a causal block's last
/// query.
class CarefulEigen final : public EigenEngine {
 public:
  [[nodiscard]] std::string name() const override { return "eigen careful " HEED_PEER_FLAGS; }
  void run(std::size_t set) override {
    constexpr Eigen::Index block = 128;
    const Eigen::Index n_blocks = (shape_.n_q + block - 1) / block;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(shape_.threads)
    for (Eigen::Index h = 0; h < shape_.n_heads; ++h) {
      for (Eigen::Index b = 0; b < n_blocks; ++b) {
        const Eigen::Index first = (n_blocks - 1 - b) * block;  // longest causal blocks first
        const Eigen::Index count = std::min(block, shape_.n_q - first);
        const Eigen::Index n_seen = shape_.causal ? first + count : shape_.n_k;
        Matrix& s = scratch();
        s.resize(block, shape_.n_k);  // of one size for every block, so that only the first one allocates
        Eigen::Map<Matrix> p(s.data(), count, n_seen);
        p.noalias() = scale_ * queries(set, h, first, count) * keys(set, h).topRows(n_seen).transpose();
        Eigen::Array<float, block, 1> inverse_sum;
        for (Eigen::Index i = 0; i < count; ++i) {
          auto row = p.row(i).array();
          if (shape_.causal) row.tail(n_seen - 1 - (first + i)).setConstant(masked);
          row = (row - row.maxCoeff()).exp();
          inverse_sum[i] = 1.0F / row.sum();
        }
        Output out = output(h, first, count);
        out.noalias() = p * values(set, h).topRows(n_seen);
        out.array().colwise() *= inverse_sum.head(count);
      }
    }
  }
};

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) {
  if (index == 0) return new heed_bench::PlainEigen;
  if (index == 1) return new heed_bench::CarefulEigen;
  return nullptr;
}
