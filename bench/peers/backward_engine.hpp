#pragma once
#define EIGEN_DONT_PARALLELIZE
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <vector>
#include <Eigen/Core>

#include "peers/engine.hpp"

namespace heed_bench {

/// Gradients by query blocks of one head after another, heads over threads: what ATen's kernel does and what an Eigen
/// user would. prepare() runs forward by plain expressions; `head` is what is timed.
class BackwardEngine : public Engine {
 public:
  using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

  [[nodiscard]] bool goes_backward() const override { return true; }

  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    shape_ = shape;
    sets_ = sets;
    d_q_ = out;
    d_k_ = d_q_ + shape.query_numbers();
    d_v_ = d_k_ + shape.key_numbers();
    scale_ = 1.0F / std::sqrt(static_cast<float>(shape.d));
    scratch_.resize(static_cast<std::size_t>(shape.threads));
    for (const Operands& set : sets) lse_.push_back(forward(set));
  }
  void release() override {
    scratch_.clear();
    lse_.clear();
  }
  void run(std::size_t set) override {
#pragma omp parallel for schedule(dynamic) num_threads(shape_.threads)
    for (Eigen::Index h = 0; h < shape_.n_heads; ++h)
      head(set, h, scratch_[static_cast<std::size_t>(omp_get_thread_num())]);
  }

 protected:
  /// Of each query: log-sum-exp, and d_out . out.
  struct Forward {
    Matrix lse, mean;  // n_heads x n_q
  };

  /// Writes the gradients of head h.
  virtual void head(std::size_t set, Eigen::Index h, std::vector<float>& scratch) = 0;

  Shape shape_;
  std::vector<Operands> sets_;
  std::vector<Forward> lse_;
  std::vector<std::vector<float>> scratch_;  // one a thread, kept between calls
  float *d_q_ = nullptr, *d_k_ = nullptr, *d_v_ = nullptr;
  float scale_ = 1;

 private:
  [[nodiscard]] Forward forward(const Operands& set) const {
    using Rows = Eigen::Map<const Matrix>;
    Forward result{Matrix(shape_.n_heads, shape_.n_q), Matrix(shape_.n_heads, shape_.n_q)};
    for (Eigen::Index h = 0; h < shape_.n_heads; ++h) {
      const Rows k(set.k + h * shape_.n_k * shape_.d, shape_.n_k, shape_.d),
          v(set.v + h * shape_.n_k * shape_.d, shape_.n_k, shape_.d);
      for (Eigen::Index i = 0; i < shape_.n_q; ++i) {
        const Eigen::Index n_seen = shape_.causal ? i + 1 : shape_.n_k, at = (h * shape_.n_q + i) * shape_.d;
        const Rows q(set.q + at, 1, shape_.d), d_out(set.d_out + at, 1, shape_.d);
        Eigen::Array<float, 1, Eigen::Dynamic> s = (scale_ * q * k.topRows(n_seen).transpose()).array();
        const float top = s.maxCoeff();
        s = (s - top).exp();
        const float sum = s.sum();
        result.lse(h, i) = top + std::log(sum);
        result.mean(h, i) = ((s.matrix() / sum) * v.topRows(n_seen)).row(0).dot(d_out.row(0));
      }
    }
    return result;
  }
};

}  // namespace heed_bench
