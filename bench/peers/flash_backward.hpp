#pragma once
#include "peers/backward_engine.hpp"

namespace heed_bench {

/// The backward schedule of ATen on the CPU on somebody else's sgemm: blocks of keys, and for each of them blocks of
/// queries, five products a pair of blocks. `Gemm` as in flash_schedule.hpp.
/// Source  Dao et al. 2022, algorithm 4; block sizes of ATen's flash_attention kernel: 256, 64 or 32 queries, 512 keys.
template <class Gemm>
class FlashBackward : public BackwardEngine {
 protected:
  void head(std::size_t set, Eigen::Index h, std::vector<float>& scratch) override {
    using Eigen::Index;
    using Row = Eigen::Map<Eigen::Array<float, 1, Eigen::Dynamic>>;
    const Index d = shape_.d, n_q = shape_.n_q, n_k = shape_.n_k;
    const Index rows = n_q >= 768 ? 256 : n_q >= 192 ? 64 : 32, columns = std::min<Index>(512, n_k);
    scratch.resize(static_cast<std::size_t>(2 * rows * columns));
    float *p = scratch.data(), *s = p + rows * columns;  // weights; gradients of weights, then of scores
    const Operands& in = sets_[set];
    const Index of_queries = h * n_q * d, of_keys = h * n_k * d;
    std::fill_n(d_q_ + of_queries, n_q * d, 0.0F);
    std::fill_n(d_k_ + of_keys, n_k * d, 0.0F);
    std::fill_n(d_v_ + of_keys, n_k * d, 0.0F);
    for (Index first_key = 0; first_key < n_k; first_key += columns) {
      const Index keys = std::min(columns, n_k - first_key), key = of_keys + first_key * d;
      const Index begin = shape_.causal ? first_key / rows * rows : 0;
      for (Index first = begin; first < n_q; first += rows) {
        const Index count = std::min(rows, n_q - first), query = of_queries + first * d;
        Gemm::run(false, true, count, keys, d, scale_, in.q + query, d, in.k + key, d, 0, p, columns);
        Gemm::run(false, true, count, keys, d, 1, in.d_out + query, d, in.v + key, d, 0, s, columns);
        for (Index i = 0; i < count; ++i) {
          Row weights(p + i * columns, keys), slopes(s + i * columns, keys);
          const Index seen = shape_.causal ? std::clamp<Index>(first + i + 1 - first_key, 0, keys) : keys;
          weights.head(seen) = (weights.head(seen) - lse_[set].lse(h, first + i)).exp();
          weights.tail(keys - seen).setZero();
          slopes = weights * (slopes - lse_[set].mean(h, first + i));
        }
        Gemm::run(true, false, keys, d, count, 1, p, columns, in.d_out + query, d, 1, d_v_ + key, d);
        Gemm::run(false, false, count, d, keys, scale_, s, columns, in.k + key, d, 1, d_q_ + query, d);
        Gemm::run(true, false, keys, d, count, scale_, s, columns, in.q + query, d, 1, d_k_ + key, d);
      }
    }
  }
};

}  // namespace heed_bench
