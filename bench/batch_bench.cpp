// Batches of other people's tensors: one call against the loop over entries, two threads against one, keys that are not
// there against all keys. See bench/README.md.
#include <cstddef>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/inputs.hpp"
#include "support/timing.hpp"

namespace heed_bench {
namespace {

using heed::Index;
using BoolMatrix = Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

struct Sizes {
  Index n_entries, n, n_heads, d;
};

/// q, k, v and out of a batch, contiguous batch x tokens x heads x width.
struct Batch {
  explicit Batch(const Sizes& of) : sizes(of) {
    const auto count = static_cast<std::size_t>(of.n_entries * of.n * of.n_heads * of.d);
    for (std::size_t t = 0; t < 3; ++t) numbers[t] = random_values(count, t + 1);
    numbers[3].resize(count);
  }
  heed::TensorView<float> tensor(std::size_t t) {
    return heed::tokens_first(numbers[t].data(), sizes.n_entries, sizes.n, sizes.n_heads, sizes.d);
  }
  Eigen::Map<heed::Matrix<float>> entry(std::size_t t, Index b) {
    const Index width = sizes.n_heads * sizes.d;
    return {numbers[t].data() + b * sizes.n * width, sizes.n, width};
  }

  Sizes sizes;
  std::vector<float> numbers[4];
};

/// The whole batch in one call.
class OneCall {
 public:
  OneCall(Batch& batch, const heed::AttentionOptions& options, int threads)
      : batch_(batch), options_(options), threads_(threads) {}
  void operator()() const {
    heed::batch_attend_into(batch_.tensor(3), nullptr, batch_.tensor(0), batch_.tensor(1), batch_.tensor(2), options_,
                            heed::ExactAttention{}, {.workspace = &workspace_, .threads = threads_});
  }

 private:
  Batch& batch_;
  const heed::AttentionOptions& options_;
  int threads_;
  mutable heed::Workspace workspace_;
};

/// Entry by entry, as it is done without batch_attend.
class Loop {
 public:
  Loop(Batch& batch, int threads) : batch_(batch), threads_(threads) {}
  void operator()() const {
    for (Index b = 0; b < batch_.sizes.n_entries; ++b) {
      heed::multi_head_attend_into(batch_.entry(3, b), nullptr, batch_.entry(0, b), batch_.entry(1, b),
                                   batch_.entry(2, b), {.n_heads = batch_.sizes.n_heads}, {}, heed::ExactAttention{},
                                   {.workspace = &workspace_, .threads = threads_});
    }
  }

 private:
  Batch& batch_;
  int threads_;
  mutable heed::Workspace workspace_;
};

void report(benchmark::State& state, const Sizes& of, const Timing& timing, const char* ratio) {
  const double pairs = double(of.n_entries * of.n_heads) * double(of.n) * double(of.n);
  state.counters["us"] = timing.median * 1e6;
  state.counters["GFLOP/s"] = 4 * pairs * double(of.d) / timing.median * 1e-9;  // of all keys
  state.counters["allocs"] = timing.allocations;
  state.counters[ratio] = timing.baseline_median / timing.median;
}

template <class Run>
void add(const std::string& name, const Sizes& of, int threads, const Run& run) {
  const std::string full = "batch/" + name + "/batch:" + std::to_string(of.n_entries) + "/n:" + std::to_string(of.n) +
                           "/heads:" + std::to_string(of.n_heads) + "/d:" + std::to_string(of.d) +
                           "/threads:" + std::to_string(threads);
  benchmark::RegisterBenchmark(full.c_str(), [=](benchmark::State& state) { run(state, of, threads); })
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

/// `times_loop`: how many times faster one call is than the loop; must not fall below 1.
void against_loop(benchmark::State& state, const Sizes& of, int threads) {
  Batch batch(of), other(of);
  const heed::AttentionOptions options;
  report(state, of, time_against(state, OneCall(batch, options, threads), Loop(other, threads)), "times_loop");
}

/// `times_one`: how many times faster several threads are than one.
void against_one_thread(benchmark::State& state, const Sizes& of, int threads) {
  Batch batch(of), other(of);
  const heed::AttentionOptions options;
  report(state, of, time_against(state, OneCall(batch, options, threads), OneCall(other, options, 1)), "times_one");
}

/// Some keys at scattered places against all of them: `times_all`, how many times faster.
void with_keys(benchmark::State& state, const Sizes& of, int threads, Index n_there) {
  Batch batch(of), other(of);
  BoolMatrix keys = BoolMatrix::Constant(1, of.n, false);
  for (Index t = 0; t < n_there; ++t) keys(0, (t * 1237 + 11) % of.n) = true;
  heed::AttentionOptions some;
  some.mask.keys = keys;
  const heed::AttentionOptions all;
  report(state, of, time_against(state, OneCall(batch, some, threads), OneCall(other, all, threads)), "times_all");
}

/// A bias of n x n for all entries and heads against none: `over_plain`, the ratio of times.
void with_bias(benchmark::State& state, const Sizes& of, int threads) {
  Batch batch(of), other(of);
  const std::vector<float> numbers = random_values(static_cast<std::size_t>(of.n_heads * of.n * of.n), 9);
  heed::AttentionOptions biased;
  biased.mask.bias = heed::heads_first(numbers.data(), 1, of.n_heads, of.n, of.n);
  const heed::AttentionOptions plain;
  const Timing timing = time_against(state, OneCall(batch, biased, threads), OneCall(other, plain, threads));
  report(state, of, timing, "times_plain");
  state.counters["over_plain"] = timing.median / timing.baseline_median;
}

const bool registered = [] {
  // Boards of Go, short texts, windows of an image: entries x tokens.
  for (const Sizes& of : {Sizes{8, 361, 8, 32}, Sizes{32, 50, 8, 32}, Sizes{64, 64, 8, 32}, Sizes{64, 49, 3, 32}}) {
    for (const int threads : {1, 2}) {
      add("loop", of, threads, against_loop);
      add("bias", of, threads, with_bias);
    }
    add("threads", of, 2, against_one_thread);
  }
  for (const int threads : {1, 2}) {
    for (const Index there : {81, 180, 361}) {
      add("keys:" + std::to_string(there), {1, 361, 12, 32}, threads,
          [=](benchmark::State& state, const Sizes& of, int n) { with_keys(state, of, n, there); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace heed_bench
