// libtorch: baddbmm, softmax, bmm over all heads at once, as its own math attention does; and autograd through them.
#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
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

/// Autograd through the same operations; the graph is made once and kept.
class TorchAutograd final : public Engine {
 public:
  [[nodiscard]] std::string name() const override { return "libtorch " HEED_PEER_VERSION " autograd"; }
  [[nodiscard]] bool goes_backward() const override { return true; }
  [[nodiscard]] bool supports(const Shape& shape) const override {
    return shape.n_heads * shape.n_q * shape.n_k <= (std::ptrdiff_t{1} << 27);  // scores, weights, their gradients
  }

  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    shape_ = shape;
    at::set_num_threads(shape.threads);
    const auto view = [&](const float* data, std::ptrdiff_t n, bool learns) {
      at::Tensor tensor = at::from_blob(const_cast<float*>(data), {shape.n_heads, n, shape.d}, at::kFloat);
      return learns ? tensor.set_requires_grad(true) : tensor;
    };
    at::Tensor bias = at::zeros({1, 1, 1}, at::kFloat);
    if (shape.causal)
      bias = at::full({1, shape.n_q, shape.n_k}, -std::numeric_limits<float>::infinity(), at::kFloat).triu(1);
    for (const Operands& set : sets) {
      Tensors in{{view(set.q, shape.n_q, true), view(set.k, shape.n_k, true), view(set.v, shape.n_k, true)},
                 view(set.d_out, shape.n_q, false),
                 {}};
      const at::Tensor scores =
          at::baddbmm(bias, in.learns[0], in.learns[1].transpose(1, 2), 1, 1 / std::sqrt(double(shape.d)));
      in.out = at::bmm(at::softmax(scores, -1), in.learns[2]);
      sets_.push_back(std::move(in));
    }
    run(0);
    std::copy_n(grads_[0].contiguous().data_ptr<float>(), shape.query_numbers(), out);
    std::copy_n(grads_[1].contiguous().data_ptr<float>(), shape.key_numbers(), out + shape.query_numbers());
    std::copy_n(grads_[2].contiguous().data_ptr<float>(), shape.key_numbers(),
                out + shape.query_numbers() + shape.key_numbers());
  }

  void release() override {
    sets_.clear();
    grads_.clear();
  }

  void run(std::size_t set) override {
    at::set_num_threads(shape_.threads);
    Tensors& in = sets_[set];
    grads_ = torch::autograd::grad({in.out}, in.learns, {in.d_out}, /*retain_graph=*/true);
  }

 private:
  struct Tensors {
    std::vector<at::Tensor> learns;  // q, k, v
    at::Tensor d_out, out;
  };
  Shape shape_;
  std::vector<Tensors> sets_;
  std::vector<at::Tensor> grads_;
};

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) {
  if (index == 0) return new heed_bench::TorchMath;
  if (index == 1) return new heed_bench::TorchAutograd;
  return nullptr;
}
