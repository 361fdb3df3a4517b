// Exact attention, backward: n, d, heads, threads, masks and storage scalars; beside forward, whose time alternates
// with it. See bench/README.md.
#include <string>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/attention_case.hpp"
#include "support/gradient_oracle.hpp"
#include "support/heads.hpp"
#include "support/limits.hpp"
#include "support/masks.hpp"
#include "support/timing.hpp"

namespace heed_bench {
namespace {

using heed::Index;

/// Operands, what forward made of them, and gradients.
template <class S>
class Calls {
 public:
  Calls(const Case& one, const heed::AttentionOptions& options)
      : heads_(one.n, one.n, one.d, one.n_heads), d_out_(one.n, one.n, one.d, one.n_heads, 9), options_(options) {
    grads_.d_q.resizeLike(heads_.q);
    grads_.d_k.resizeLike(heads_.k);
    grads_.d_v.resizeLike(heads_.v);
    forward(one.threads);
  }

  void forward(int threads) {
    heed::multi_head_attend_into(heads_.out, heads_.lse, heads_.q, heads_.k, heads_.v, {.n_heads = heads_.n_heads},
                                 options_, heed::ExactAttention{}, {.workspace = &workspace_, .threads = threads});
  }
  void backward(int threads) {
    heed::multi_head_attend_backward_into(grads_, d_out_.q, heads_.q, heads_.k, heads_.v, heads_.out, heads_.lse,
                                          {.n_heads = heads_.n_heads}, options_, heed::ExactAttention{},
                                          {.workspace = &workspace_, .threads = threads});
  }

  /// Of the first head.
  [[nodiscard]] double error(const MaskCase& mask) const {
    const std::ptrdiff_t stride = heads_.d * heads_.n_heads;
    const auto rows = [&](const auto& m) { return HeadRows<S>{m.data(), stride}; };
    return gradient_error(rows(d_out_.q), rows(heads_.q), rows(heads_.k), rows(heads_.v), rows(grads_.d_q),
                          rows(grads_.d_k), rows(grads_.d_v), heads_.n_q, heads_.n_k, heads_.d,
                          [&](auto i, auto j, double s) { return mask.score(i, j, 0, s); });
  }

 private:
  struct Gradients {
    heed::Matrix<S> d_q, d_k, d_v;
  };
  PackedHeads<S> heads_, d_out_;
  const heed::AttentionOptions& options_;
  Gradients grads_;
  heed::Workspace workspace_;
};

/// Products of backward are 10 n_q n_k d a head, scores computed again among them; of forward 4. `of_forward`: the
/// share of the peak that backward reaches over the share that forward reaches.
template <class S>
void backward(benchmark::State& state, const Case& one) {
  const MaskCase mask(one.mask, one.n, one.n_heads);
  Calls<S> calls(one, mask.options);
  const PeakAround around(arithmetic_of<S>(), one.threads);
  const Timing timing = time_against(
      state, [&] { calls.backward(one.threads); }, [&] { calls.forward(one.threads); });
  const double products = mask.kept_pairs() * double(one.d) * double(one.n_heads), peak = around.finish();
  state.counters["GFLOP/s"] = 10 * products / timing.median * 1e-9;
  state.counters["of_peak"] = 10 * products / timing.median / peak;
  state.counters["forward_of_peak"] = 4 * products / timing.baseline_median / peak;
  state.counters["of_forward"] = 10 * timing.baseline_median / (4 * timing.median);
  state.counters["both_ms"] = (timing.median + timing.baseline_median) * 1e3;
  state.counters["allocs"] = timing.allocations;
  state.counters["error"] = calls.error(mask);
}

/// Another storage scalar in turn with float.
template <class S>
void against_float(benchmark::State& state, const Case& one) {
  const MaskCase mask(one.mask, one.n, one.n_heads);
  Calls<S> calls(one, mask.options);
  Calls<float> plain(one, mask.options);
  const Timing timing = time_against(
      state, [&] { calls.backward(one.threads); }, [&] { plain.backward(one.threads); });
  state.counters["times_float"] = timing.baseline_median / timing.median;
  state.counters["allocs"] = timing.allocations;
  state.counters["error"] = calls.error(mask);
}

/// Two threads in turn with one: also one head alone.
void against_one_thread(benchmark::State& state, const Case& one) {
  const MaskCase mask(one.mask, one.n, one.n_heads);
  Calls<float> calls(one, mask.options);
  const Timing timing = time_against(
      state, [&] { calls.backward(one.threads); }, [&] { calls.backward(1); });
  state.counters["times_one"] = timing.baseline_median / timing.median;
  state.counters["error"] = calls.error(mask);
}

const bool registered = [] {
  for (const int threads : {1, 2}) {
    for (const MaskKind mask : {MaskKind::none, MaskKind::causal}) {
      for (const Index d : {64, 128})
        for (const Index n : {512, 2048, 4096})
          add("backward/float", {.n = n, .d = d, .threads = threads, .mask = mask}, backward<float>);
    }
    for (const MaskKind mask : {MaskKind::window, MaskKind::padding, MaskKind::boolean, MaskKind::bias, MaskKind::alibi,
                                MaskKind::softcap, MaskKind::packed})
      add("backward/float", {.n = 2048, .threads = threads, .mask = mask}, backward<float>);
    add("backward/double", {.n = 2048, .threads = threads}, backward<double>);
    for (const Index d : {64, 128}) {
      add("backward/bfloat16", {.n = 2048, .d = d, .threads = threads}, against_float<Eigen::bfloat16>);
      add("backward/half", {.n = 2048, .d = d, .threads = threads}, against_float<Eigen::half>);
    }
  }
  for (const Index heads : {1, 12})
    add("backward/threads", {.n = 4096, .n_heads = heads, .threads = 2}, against_one_thread);
  return true;
}();

}  // namespace
}  // namespace heed_bench
