#pragma once
#include <cstddef>
#include <string>
#include <vector>

namespace heed_bench {

/// One setting of the comparison: n_heads heads of n_q queries against n_k keys of width d, float.
struct Shape {
  std::ptrdiff_t n_q = 0;
  std::ptrdiff_t n_k = 0;
  std::ptrdiff_t d = 0;
  std::ptrdiff_t n_heads = 0;
  bool causal = false;  ///< query i sees keys 0 .. i; only where n_q == n_k
  int threads = 1;
  bool backward = false;  ///< gradients of q, k and v instead of the output

  [[nodiscard]] std::ptrdiff_t kept_pairs() const { return causal ? n_q * (n_q + 1) / 2 : n_q * n_k; }
  /// 2 per multiply-add, kept pairs only, all heads: two products forward, five backward, scores again among them.
  [[nodiscard]] double flops() const {
    return (backward ? 10.0 : 4.0) * double(kept_pairs()) * double(d) * double(n_heads);
  }
  /// Numbers of q, and of k or v, of all heads.
  [[nodiscard]] std::ptrdiff_t query_numbers() const { return n_q * d * n_heads; }
  [[nodiscard]] std::ptrdiff_t key_numbers() const { return n_k * d * n_heads; }
  [[nodiscard]] double key_value_bytes() const {
    return 2.0 * double(n_k) * double(d) * double(n_heads) * sizeof(float);
  }
};

/// Where head h, token i, feature c lies: heads_first (h n + i) d + c, packed i (n_heads d) + h d + c. Each engine
/// names the one it likes; converting is never timed.
enum class Layout { heads_first, packed };

struct Operands {
  const float* q = nullptr;
  const float* k = nullptr;
  const float* v = nullptr;
  const float* d_out = nullptr;  ///< backward only
};

/// One way to compute attention. Each engine is a module that is loaded at run time. It is built with its own flags and
/// hides every symbol but the factory, so that no two engines share a template instance.
class Engine {
 public:
  virtual ~Engine() = default;
  Engine() = default;
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual Layout layout() const { return Layout::heads_first; }
  /// False where the engine would need more memory than is reasonable, or has no way to do the shape.
  [[nodiscard]] virtual bool supports(const Shape&) const { return true; }
  /// True for engines of gradients.
  [[nodiscard]] virtual bool goes_backward() const { return false; }
  /// Does what may be done once per shape: buffers, primitives, caches, and for gradients the forward pass. `sets` are
  /// operands of that shape, one or more. `out`: as q; backward d_q, d_k and d_v one after the other.
  virtual void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) = 0;
  /// Attention of one set, or its gradients, into `out`; this is what is timed.
  virtual void run(std::size_t set) = 0;
  /// Frees what prepare made.
  virtual void release() = 0;
  /// Bytes of K and V a call reads, where they are not floats.
  [[nodiscard]] virtual double key_value_bytes(const Shape& shape) const { return shape.key_value_bytes(); }
};

}  // namespace heed_bench

/// The one symbol a module exports: its engine number `index`, null after the last. The caller deletes it.
extern "C" __attribute__((visibility("default"))) heed_bench::Engine* heed_bench_engine(int index);
