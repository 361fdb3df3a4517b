// A step of training a transformer on bytes, with exact attention and with trees in turn. See bench/README.md.
#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <heed/layers/transformer.hpp>
#include <heed/train/batch.hpp>
#include <heed/train/training_run.hpp>

#include "support/allocations.hpp"
#include "support/limits.hpp"
#include "support/timing.hpp"

namespace heed_bench {
namespace {

using heed::Index;

/// 4 layers, d_model 256, 4 heads, feed-forward layers of 1024; 16 classes of byte sequences.
heed::TransformerOptions model_of(Index n, const heed::AttentionChoice& choice) {
  heed::TransformerOptions options;
  options.n_out = 16;
  options.d_model = 256;
  options.d_hidden = 1024;
  options.n_layers = 4;
  options.length = n;
  options.pooling = heed::Pooling::mean;
  options.attention.n_heads = 4;
  options.attention.cosine = true;
  options.attention.tied = true;
  options.attention.choice = choice;
  return options;
}

heed::AttentionChoice trees_of_leaves(Index n, Index leaf, heed::RoutingGradient routing) {
  return {.kind = heed::AttentionKind::tf,
          .height = static_cast<Index>(std::lround(std::log2(double(n) / double(leaf)))),
          .routing = routing};
}

/// A model and as many steps as are asked for, a sequence of random bytes each.
class Steps {
 public:
  explicit Steps(const heed::TransformerOptions& options) : model_(store_, options), n_(options.length) {}

  /// Seconds of a step: the median of three, after one that makes room.
  double run(int threads) {
    std::vector<double> seconds;
    heed::TrainingHooks hooks;
    hooks.make_batch = [&](heed::Batch& batch, std::uint64_t, Index number) {
      batch.n = n_;
      batch.tokens.assign(1, std::vector<std::int32_t>(static_cast<std::size_t>(n_)));
      std::uint64_t state = 77 + static_cast<std::uint64_t>(number);
      for (std::int32_t& byte : batch.tokens.front())
        byte = static_cast<std::int32_t>((state = state * 6364136223846793005u + 1442695040888963407u) >> 56);
      batch.targets.assign(1, static_cast<std::int32_t>(number % 16));
    };
    hooks.report = [&](const heed::StepReport& report) { seconds.push_back(report.seconds); };
    heed::train(model_, store_, hooks, {.n_steps = 4, .schedule = {.n_steps = 4}}, 0, {.threads = threads});
    seconds.erase(seconds.begin());
    return median_of(seconds);
  }

 private:
  heed::ParameterStore<float> store_;
  heed::Transformer<float> model_;
  Index n_;
};

/// Products of a step where attention is exact, 2 flops per multiply-add: 6 for each weight and token (W_k being W_q,
/// 3 d^2 + 2 d d_hidden of them a layer), 4 n^2 d forward and 10 n^2 d backward a layer.
double flops_of_step(const heed::TransformerOptions& options) {
  const double n = double(options.length), d = double(options.d_model);
  const double weights = 3 * d * d + 2 * d * double(options.d_hidden);
  return double(options.n_layers) * (6 * n * weights + 14 * n * n * d);
}

/// `of_peak` of the step with exact attention, and how many times faster steps with trees are.
void step(benchmark::State& state, Index n, Index leaf, int threads) {
  const heed::TransformerOptions exact_model = model_of(n, {});
  Steps exact(exact_model), leaves(model_of(n, trees_of_leaves(n, leaf, heed::RoutingGradient::none))),
      flip(model_of(n, trees_of_leaves(n, leaf, heed::RoutingGradient::flip)));
  const PeakAround around(Arithmetic::f32, threads);
  std::vector<double> of_exact, of_leaves, of_flip;
  for ([[maybe_unused]] auto _ : state) {
    of_exact.push_back(exact.run(threads));
    of_leaves.push_back(leaves.run(threads));
    of_flip.push_back(flip.run(threads));
    state.SetIterationTime(of_exact.back());
  }
  const double peak = around.finish(), seconds = median_of(of_exact);
  state.counters["of_peak"] = flops_of_step(exact_model) / seconds / peak;
  state.counters["exact_ms"] = seconds * 1e3;
  state.counters["tf_ms"] = median_of(of_leaves) * 1e3;
  state.counters["tf_flip_ms"] = median_of(of_flip) * 1e3;
  state.counters["tf_faster"] = seconds / median_of(of_leaves);
  state.counters["tf_flip_faster"] = seconds / median_of(of_flip);
}

/// Heap beyond parameters, gradients and moments while steps are made: high-water mark of malloc.
void memory(benchmark::State& state, Index n, const heed::AttentionChoice& choice) {
  Steps steps(model_of(n, choice));
  double heap = 0;
  for ([[maybe_unused]] auto _ : state) {
    reset_peak();
    const std::size_t live = allocations().live_bytes;
    state.SetIterationTime(steps.run(1));
    heap = double(allocations().peak_bytes - live);
  }
  state.counters["heap_MiB"] = heap / (1024.0 * 1024.0);
  state.counters["KiB_a_token"] = heap / 1024.0 / double(n);
}

template <class Body>
void add(const std::string& name, const Body& body) {
  benchmark::RegisterBenchmark(name.c_str(), body)->UseManualTime()->Iterations(1)->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  for (const Index n : {1024, 2048, 4096, 8192, 16384, 32768}) {
    const std::string tokens = "/n:" + std::to_string(n);
    const heed::AttentionChoice trees = trees_of_leaves(n, 64, heed::RoutingGradient::flip);
    if (n <= 4096) add("training_memory/exact" + tokens, [=](benchmark::State& state) { memory(state, n, {}); });
    add("training_memory/tf" + tokens, [=](benchmark::State& state) { memory(state, n, trees); });
  }
  for (const int threads : {1, 2}) {
    for (const Index n : {1024, 2048, 4096}) {
      add("training_step/n:" + std::to_string(n) + "/leaf:64/threads:" + std::to_string(threads),
          [=](benchmark::State& state) { step(state, n, 64, threads); });
    }
  }
  return true;
}();

}  // namespace
}  // namespace heed_bench
