#pragma once
#define EIGEN_DONT_PARALLELIZE
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>
#include <Eigen/Core>

#include "peers/engine.hpp"

namespace heed_bench {

/// Blocks of queries against blocks of keys with a running softmax, on somebody else's sgemm: the schedule of ATen on
/// the CPU.
///
/// `Gemm` has one static function on row-major operands, called by one thread:
///   run(turn_a, turn_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc)   c = alpha op(a) op(b) + beta c, op(x) = x^T
///                                                                       where it is turned
/// Source  Dao et al. 2022, algorithm 1; block sizes of ATen's flash_attention kernel: 256, 64 or 32 queries, 512 keys.
template <class Gemm>
class FlashSchedule : public Engine {
 public:
  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    shape_ = shape;
    sets_ = sets;
    out_ = out;
    query_block_ = shape.n_q >= 768 ? 256 : shape.n_q >= 192 ? 64 : 32;
    key_block_ = std::min<Eigen::Index>(512, shape.n_k);
    scratch_.resize(static_cast<std::size_t>(shape.threads));
    for (auto& scratch : scratch_) scratch.resize(static_cast<std::size_t>(query_block_ * (key_block_ + 2)));
  }
  void release() override { scratch_.clear(); }

  void run(std::size_t set) override {
    const Eigen::Index n_blocks = (shape_.n_q + query_block_ - 1) / query_block_;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(shape_.threads)
    for (Eigen::Index h = 0; h < shape_.n_heads; ++h)
      for (Eigen::Index b = 0; b < n_blocks; ++b) block(set, h, (n_blocks - 1 - b) * query_block_);
  }

 private:
  void block(std::size_t set, Eigen::Index h, Eigen::Index first) {
    using Row = Eigen::Map<Eigen::Array<float, 1, Eigen::Dynamic>>;
    constexpr float infinity = std::numeric_limits<float>::infinity();
    const Eigen::Index d = shape_.d;
    const Eigen::Index count = std::min(query_block_, shape_.n_q - first);
    const Eigen::Index n_seen = shape_.causal ? first + count : shape_.n_k;
    const float scale = 1.0F / std::sqrt(static_cast<float>(d));
    const float* q = sets_[set].q + (h * shape_.n_q + first) * d;
    float* out = out_ + (h * shape_.n_q + first) * d;
    float* s = scratch_[static_cast<std::size_t>(omp_get_thread_num())].data();  // query_block x key_block
    float* highest = s + query_block_ * key_block_;
    float* sum = highest + query_block_;
    std::fill_n(highest, count, -infinity);
    std::fill_n(sum, count, 0.0F);
    std::fill_n(out, count * d, 0.0F);
    for (Eigen::Index begin = 0; begin < n_seen; begin += key_block_) {
      const Eigen::Index keys = std::min(key_block_, n_seen - begin);
      const float* k = sets_[set].k + (h * shape_.n_k + begin) * d;
      const float* v = sets_[set].v + (h * shape_.n_k + begin) * d;
      Gemm::run(false, true, count, keys, d, scale, q, d, k, d, 0, s, key_block_);
      for (Eigen::Index i = 0; i < count; ++i) {
        Row row(s + i * key_block_, keys);
        const Eigen::Index visible = shape_.causal ? std::clamp<Eigen::Index>(first + i + 1 - begin, 0, keys) : keys;
        if (visible == 0) {
          row.setZero();
          continue;
        }
        row.tail(keys - visible).setZero();
        auto kept = row.head(visible);
        const float now = std::max(highest[i], kept.maxCoeff());
        kept = (kept - now).exp();
        const float old_weight = std::exp(highest[i] - now);  // 0 for the first block: highest starts at -inf
        sum[i] = sum[i] * old_weight + kept.sum();
        if (old_weight != 1.0F && begin > 0) Row(out + i * d, d) *= old_weight;
        highest[i] = now;
      }
      Gemm::run(false, false, count, d, keys, 1, s, key_block_, v, d, 1, out, d);
    }
    for (Eigen::Index i = 0; i < count; ++i) Row(out + i * d, d) *= 1.0F / sum[i];
  }

  Shape shape_;
  std::vector<Operands> sets_;
  std::vector<std::vector<float>> scratch_;
  Eigen::Index query_block_ = 0;
  Eigen::Index key_block_ = 0;
  float* out_ = nullptr;
};

}  // namespace heed_bench
