// Peak memory beyond inputs and outputs, at lengths that no n x n buffer would allow. See bench/README.md.
#include <limits>
#include <string>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/allocations.hpp"
#include "support/heads.hpp"
#include "support/timing.hpp"

namespace heed_bench {
namespace {

constexpr double mebi = 1024.0 * 1024.0;

double kept_pairs(heed::Index n, heed::Causal causal) {
  return causal == heed::Causal::none ? double(n) * double(n) : double(n) * double(n + 1) / 2;
}

/// One call without a workspace, so that all the memory it needs is allocated in it. `heap_MiB` is the high-water mark
/// of malloc above the operands, `resident_MiB` the growth of the resident set's peak where the kernel lets it be
/// reset. `products`: flops of the call.
template <class Call>
void measure(benchmark::State& state, double products, const Call& call) {
  double heap = 0, resident = 0, seconds = 0;
  for ([[maybe_unused]] auto _ : state) {
    reset_peak();
    const bool can_reset = reset_resident_peak();
    const std::size_t live = allocations().live_bytes, set = resident_bytes();
    seconds = time_once(call);
    state.SetIterationTime(seconds);
    heap = double(allocations().peak_bytes - live) / mebi;
    if (can_reset) resident = double(resident_peak_bytes() - set) / mebi;
  }
  state.counters["heap_MiB"] = heap;
  state.counters["resident_MiB"] = resident;
  state.counters["GFLOP/s"] = products / seconds * 1e-9;
}

void forward(benchmark::State& state, heed::Index n, heed::Causal causal, int threads) {
  PackedHeads<float> heads(n, n, 64, 1);
  heads.lse.setZero();  // touched: an output, not extra memory
  heed::AttentionOptions options;
  options.mask.causal = causal;
  measure(state, 4 * kept_pairs(n, causal) * 64, [&] {
    heed::attend_into(heads.out, heads.lse.col(0), heads.q, heads.k, heads.v, options, heed::ExactAttention{},
                      {.threads = threads});
  });
  const auto kept = [&](auto i, auto j, auto, double scaled) {
    return causal != heed::Causal::none && j > i ? -std::numeric_limits<double>::infinity() : scaled;
  };
  state.counters["error"] = heads.error(kept, 6);
}

/// Backward from what forward wrote; its gradients are outputs.
void backward(benchmark::State& state, heed::Index n, heed::Causal causal, int threads) {
  PackedHeads<float> heads(n, n, 64, 1);
  const PackedHeads<float> d_out(n, 1, 64, 1, 9);
  struct {
    heed::Matrix<float> d_q, d_k, d_v;
  } grads{heads.q, heads.k, heads.v};
  heed::AttentionOptions options;
  options.mask.causal = causal;
  heed::attend_into(heads.out, heads.lse.col(0), heads.q, heads.k, heads.v, options, heed::ExactAttention{},
                    {.threads = threads});
  measure(state, 10 * kept_pairs(n, causal) * 64, [&] {
    heed::attend_backward_into(grads, d_out.q, heads.q, heads.k, heads.v, heads.out, heads.lse, options,
                               heed::ExactAttention{}, {.threads = threads});
  });
}

template <class Body>
void add(const char* name, const Body& body, heed::Index n, heed::Causal causal, int threads) {
  const std::string full =
      std::string(name) + "/n:" + std::to_string(n) + "/d:64/heads:1/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& state) { body(state, n, causal, threads); })
      ->UseManualTime()
      ->Iterations(1)
      ->Unit(benchmark::kSecond);
}

const bool registered = [] {
  for (const int threads : {1, 2}) {
    add("memory/none", forward, 4096, heed::Causal::none, threads);
    add("memory/none", forward, 65536, heed::Causal::none, threads);
    add("memory/causal", forward, 65536, heed::Causal::square, threads);
    add("memory/backward/none", backward, 65536, heed::Causal::none, threads);
    add("memory/backward/causal", backward, 65536, heed::Causal::square, threads);
  }
  add("long/none", forward, 262144, heed::Causal::none, 2);
  return true;
}();

}  // namespace
}  // namespace heed_bench
