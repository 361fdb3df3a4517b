// libtorch: baddbmm, softmax, bmm over all heads at once, as its own math attention does.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>

#include <cmath>
#include <limits>
#include <vector>

#include "peers/engine.hpp"

namespace heed_bench {
namespace {

class TorchMath final : public Engine {
 public:
  [[nodiscard]] std::string name() const override { return "libtorch " HEED_PEER_VERSION; }
  [[nodiscard]] bool supports(const Shape& shape) const override {
    return shape.n_heads * shape.n_q * shape.n_k <= (std::ptrdiff_t{1} << 28);  // scores and weights: 2 GiB
  }

  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    const c10::InferenceMode no_graph;
    shape_ = shape;
    const auto view = [&](const float* data, std::ptrdiff_t n) {
      return at::from_blob(const_cast<float*>(data), {shape.n_heads, n, shape.d}, at::kFloat);
    };
    for (const Operands& set : sets)
      sets_.push_back({view(set.q, shape.n_q), view(set.k, shape.n_k), view(set.v, shape.n_k)});
    out_ = view(out, shape.n_q);
    bias_ = at::zeros({1, 1, 1}, at::kFloat);
    if (shape.causal)
      bias_ = at::full({1, shape.n_q, shape.n_k}, -std::numeric_limits<float>::infinity(), at::kFloat).triu(1);
  }

  void release() override {
    sets_.clear();
    out_ = at::Tensor();
    bias_ = at::Tensor();
  }

  void run(std::size_t set) override {
    const c10::InferenceMode no_graph;
    at::set_num_threads(shape_.threads);
    const auto& in = sets_[set];
    const at::Tensor scores =
        at::baddbmm(bias_, in.q, in.k.transpose(1, 2), 1, 1 / std::sqrt(double(shape_.d)));  // heads x n_q x n_k
    at::bmm_out(out_, at::softmax(scores, -1), in.v);
  }

 private:
  struct Tensors {
    at::Tensor q, k, v;
  };
  Shape shape_;
  std::vector<Tensors> sets_;
  at::Tensor out_, bias_;
};

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) { return index == 0 ? new heed_bench::TorchMath : nullptr; }
