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

  [[nodiscard]] std::ptrdiff_t kept_pairs() const { return causal ? n_q * (n_q + 1) / 2 : n_q * n_k; }
  /// 2 per multiply-add in both products, kept pairs only, all heads.
  [[nodiscard]] double flops() const { return 4.0 * double(kept_pairs()) * double(d) * double(n_heads); }
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
  /// Does what may be done once per shape: buffers, primitives, caches. `sets` are operands of that shape, one or more.
  virtual void prepare(const Shape& shape, const std::vector<Operands>& sets, float* out) = 0;
  /// Attention of one set into `out`; this is what is timed.
  virtual void run(std::size_t set) = 0;
  /// Frees what prepare made.
  virtual void release() = 0;
  /// Bytes of K and V a call reads, where they are not floats.
  [[nodiscard]] virtual double key_value_bytes(const Shape& shape) const { return shape.key_value_bytes(); }
};

}  // namespace heed_bench

/// The one symbol a module exports: its engine number `index`, null after the last. The caller deletes it.
extern "C" __attribute__((visibility("default"))) heed_bench::Engine* heed_bench_engine(int index);
