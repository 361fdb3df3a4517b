// oneDNN twice: its matmul and softmax primitives on blocks of queries, and the flash schedule on its sgemm.
#include <omp.h>

#include <memory>
#include <unordered_map>
#include <oneapi/dnnl/dnnl.hpp>

#include "peers/flash_backward.hpp"
#include "peers/flash_schedule.hpp"

namespace heed_bench {
namespace {

struct OneDnnGemm {
  static void run(bool turn_a, bool turn_b, Eigen::Index m, Eigen::Index n, Eigen::Index k, float alpha, const float* a,
                  Eigen::Index lda, const float* b, Eigen::Index ldb, float beta, float* c, Eigen::Index ldc) {
    dnnl_sgemm(turn_a ? 'T' : 'N', turn_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb, beta, c, ldc);
  }
};

/// oneDNN would start as many threads as OpenMP does, but here a block is the work of one thread.
class OneDnnFlash final : public FlashSchedule<OneDnnGemm> {
 public:
  [[nodiscard]] std::string name() const override { return "onednn flash"; }
  void run(std::size_t set) override {
    omp_set_num_threads(1);
    FlashSchedule::run(set);
  }
};

class OneDnnBackward final : public FlashBackward<OneDnnGemm> {
 public:
  [[nodiscard]] std::string name() const override { return "onednn flash"; }
  void run(std::size_t set) override {
    omp_set_num_threads(1);
    FlashBackward::run(set);
  }
};

#if DNNL_VERSION_MAJOR < 3
using dnnl::memory;

/// The primitives of one block: `rows` queries against the first `keys` keys, with one set of memory objects a thread.
struct Block {
  struct Memories {
    memory q, k, v, scores, out, scratch_qk, scratch_softmax, scratch_pv;
  };
  dnnl::matmul qk, pv;
  dnnl::softmax_forward softmax;
  std::vector<Memories> per_thread;
};

/// scores = q k^T for 256 queries of a head, softmax in place, times v: three primitives, one thread a block.
class OneDnnPrimitives final : public Engine {
 public:
  [[nodiscard]] std::string name() const override { return "onednn primitives"; }

  void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) override {
    omp_set_num_threads(1);  // primitives are planned for the threads they will run on
    shape_ = shape;
    sets_ = sets;
    out_ = out;
    rows_ = std::min<std::ptrdiff_t>(256, shape.n_q);
    streams_.assign(static_cast<std::size_t>(shape.threads), dnnl::stream(engine_));
    scores_.resize(static_cast<std::size_t>(shape.threads));
    for (auto& scores : scores_) scores.resize(static_cast<std::size_t>(rows_ * shape.n_k));
    for (std::ptrdiff_t first = 0; first < shape.n_q; first += rows_) {
      const std::ptrdiff_t rows = std::min(rows_, shape.n_q - first);
      auto& block = blocks_[key_of(rows, keys_of(first, rows))];
      if (block == nullptr) block = make_block(rows, keys_of(first, rows));
    }
  }

  void release() override {
    blocks_.clear();
    scores_.clear();
  }

  void run(std::size_t set) override {
    omp_set_num_threads(1);
    const std::ptrdiff_t n_blocks = (shape_.n_q + rows_ - 1) / rows_;
#pragma omp parallel for collapse(2) schedule(dynamic) num_threads(shape_.threads)
    for (std::ptrdiff_t h = 0; h < shape_.n_heads; ++h)
      for (std::ptrdiff_t b = 0; b < n_blocks; ++b) run_block(set, h, (n_blocks - 1 - b) * rows_);
  }

 private:
  static std::ptrdiff_t key_of(std::ptrdiff_t rows, std::ptrdiff_t keys) {
    return rows * (std::ptrdiff_t{1} << 32) + keys;
  }
  [[nodiscard]] std::ptrdiff_t keys_of(std::ptrdiff_t first, std::ptrdiff_t rows) const {
    return shape_.causal ? first + rows : shape_.n_k;
  }

  std::unique_ptr<Block> make_block(std::ptrdiff_t rows, std::ptrdiff_t keys) {
    const auto f32 = memory::data_type::f32;
    const memory::dim d = shape_.d;
    const memory::desc q({rows, d}, f32, memory::dims{d, 1}), k({d, keys}, f32, memory::dims{1, d});
    const memory::desc v({keys, d}, f32, memory::dims{d, 1}), scores({rows, keys}, f32, memory::dims{keys, 1});
    const memory::desc out({rows, d}, f32, memory::dims{d, 1});
    dnnl::primitive_attr plain, scaled;
    plain.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    scaled.set_scratchpad_mode(dnnl::scratchpad_mode::user);
    scaled.set_output_scales(0, {1.0F / std::sqrt(static_cast<float>(d))});
    const dnnl::matmul::primitive_desc qk({q, k, scores}, scaled, engine_), pv({scores, v, out}, plain, engine_);
    const dnnl::softmax_forward::primitive_desc softmax({dnnl::prop_kind::forward_inference, scores, 1}, plain,
                                                        engine_);
    auto block = std::make_unique<Block>();
    block->qk = dnnl::matmul(qk);
    block->pv = dnnl::matmul(pv);
    block->softmax = dnnl::softmax_forward(softmax);
    for (int t = 0; t < shape_.threads; ++t)
      block->per_thread.push_back({memory(q, engine_, nullptr), memory(k, engine_, nullptr),
                                   memory(v, engine_, nullptr),
                                   memory(scores, engine_, scores_[static_cast<std::size_t>(t)].data()),
                                   memory(out, engine_, nullptr), memory(qk.scratchpad_desc(), engine_),
                                   memory(softmax.scratchpad_desc(), engine_), memory(pv.scratchpad_desc(), engine_)});
    return block;
  }

  void run_block(std::size_t set, std::ptrdiff_t h, std::ptrdiff_t first) {
    const auto thread = static_cast<std::size_t>(omp_get_thread_num());
    const std::ptrdiff_t rows = std::min(rows_, shape_.n_q - first), keys = keys_of(first, rows);
    Block& block = *blocks_.at(key_of(rows, keys));
    Block::Memories& at = block.per_thread[thread];
    const Operands& in = sets_[set];
    const std::ptrdiff_t head_of_keys = h * shape_.n_k * shape_.d, row = (h * shape_.n_q + first) * shape_.d;
    at.q.set_data_handle(const_cast<float*>(in.q) + row);
    at.k.set_data_handle(const_cast<float*>(in.k) + head_of_keys);
    at.v.set_data_handle(const_cast<float*>(in.v) + head_of_keys);
    at.out.set_data_handle(out_ + row);
    dnnl::stream& stream = streams_[thread];
    block.qk.execute(stream, {{DNNL_ARG_SRC, at.q},
                              {DNNL_ARG_WEIGHTS, at.k},
                              {DNNL_ARG_DST, at.scores},
                              {DNNL_ARG_SCRATCHPAD, at.scratch_qk}});
    if (shape_.causal)
      for (std::ptrdiff_t i = 0; i < rows; ++i)
        std::fill_n(scores_[thread].data() + i * keys + first + i + 1, rows - 1 - i,
                    -std::numeric_limits<float>::infinity());
    block.softmax.execute(
        stream, {{DNNL_ARG_SRC, at.scores}, {DNNL_ARG_DST, at.scores}, {DNNL_ARG_SCRATCHPAD, at.scratch_softmax}});
    block.pv.execute(stream, {{DNNL_ARG_SRC, at.scores},
                              {DNNL_ARG_WEIGHTS, at.v},
                              {DNNL_ARG_DST, at.out},
                              {DNNL_ARG_SCRATCHPAD, at.scratch_pv}});
  }

  dnnl::engine engine_{dnnl::engine::kind::cpu, 0};
  Shape shape_;
  std::vector<Operands> sets_;
  std::vector<dnnl::stream> streams_;
  std::vector<std::vector<float>> scores_;
  std::unordered_map<std::ptrdiff_t, std::unique_ptr<Block>> blocks_;
  std::ptrdiff_t rows_ = 0;
  float* out_ = nullptr;
};
#endif

}  // namespace
}  // namespace heed_bench

heed_bench::Engine* heed_bench_engine(int index) {
  if (index == 0) return new heed_bench::OneDnnFlash;
  if (index == 1) return new heed_bench::OneDnnBackward;
#if DNNL_VERSION_MAJOR < 3
  if (index == 2) return new heed_bench::OneDnnPrimitives;
#endif
  return nullptr;
}
