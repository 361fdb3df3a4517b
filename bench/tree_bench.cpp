// TF- and TC-attention in turn with exact attention, and routing against the limits of the machine. See
// bench/README.md.
#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/driver.hpp"
#include "support/heads.hpp"
#include "support/limits.hpp"
#include "support/oracle.hpp"
#include "support/timing.hpp"
#include "support/tree_case.hpp"

namespace heed_bench {
namespace {

using heed::Index;
using Case = TreeCase;

/// Exact attention of one head over its last queries only, so few that a call stays short. `seconds` scales the time of
/// a call to all queries, by kept pairs.
class ExactSlice {
 public:
  ExactSlice(PackedHeads<float>& head, const Case& one)
      : head_(head), one_(one), n_q_(std::min<Index>(one.n, std::max<Index>(1024, (Index(1) << 27) / one.n))) {
    if (one.causal) options_.mask.causal = heed::Causal::bottom_right;
    out_.resize(n_q_, one.d);
  }
  void operator()() const {
    heed::attend_into(out_, nullptr, head_.q.bottomRows(n_q_), head_.k, head_.v, options_, heed::ExactAttention{},
                      {.workspace = &workspace_, .threads = one_.threads});
  }
  [[nodiscard]] double seconds(double call) const {
    const double hidden = one_.causal ? double(n_q_) * double(n_q_ - 1) / 2 : 0;
    return call * one_.pairs() / (double(n_q_) * double(one_.n) - hidden);
  }

 private:
  PackedHeads<float>& head_;
  const Case& one_;
  Index n_q_;
  heed::AttentionOptions options_;
  mutable heed::Matrix<float> out_;
  mutable heed::Workspace workspace_;
};

/// One call after another on the same operands and workspace.
template <class Method>
class Call {
 public:
  Call(PackedHeads<float>& head, const Case& one, const Method& method) : head_(head), one_(one), method_(method) {}
  void operator()() const { run(nullptr); }
  void run(heed::FlopCounter* flops) const {
    heed::AttentionOptions options;
    if (one_.causal) options.mask.causal = heed::Causal::square;
    heed::attend_into(head_.out, heed::LseSpan<float>(lse_), head_.q, head_.k, head_.v, options, method_,
                      {.flops = flops, .workspace = &workspace_, .threads = one_.threads});
  }

 private:
  PackedHeads<float>& head_;
  const Case& one_;
  const Method& method_;
  mutable heed::Vector<float> lse_{head_.n_q};
  mutable heed::Workspace workspace_;
};

/// Relative distance of sampled rows from exact attention in double: |got - want| / |want| over all of them.
double distance_from_exact(const PackedHeads<float>& head, bool causal) {
  const HeadRows<float> q{head.q.data(), head.d}, k{head.k.data(), head.d}, v{head.v.data(), head.d};
  double difference = 0, size = 0;
  for (const std::ptrdiff_t i : sample_rows(head.n_q, 24)) {
    const auto want = oracle_row(q, k, v, i, head.n_k, head.d, head.d, [&](auto row, auto key, double s) {
      return causal && key > row ? -std::numeric_limits<double>::infinity() : s;
    });
    for (Index c = 0; c < head.d; ++c) {
      const double x = want[static_cast<std::size_t>(c)];
      difference += std::pow(double(head.out(i, c)) - x, 2);
      size += x * x;
    }
  }
  return std::sqrt(difference / size);
}

template <class Method>
void report(benchmark::State& state, const Case& one, PackedHeads<float>& head, const Method& method,
            const heed::DecisionTree<float>& tree) {
  const Call<Method> call(head, one, method);
  const ExactSlice exact(head, one);
  heed::FlopCounter flops;
  call.run(&flops);
  const Timing timing = time_against(state, call, exact);
  const double exact_flops = 4 * one.pairs() * double(one.d);
  const double times_exact = exact.seconds(timing.baseline_median) / timing.median;
  heed::Workspace workspace;
  std::vector<double> routing;
  for (int turn = 0; turn < 9; ++turn) {
    routing.push_back(time_once([&] {
      const heed::Context context{.workspace = &workspace, .threads = one.threads};
      benchmark::DoNotOptimize(tree.leaf_of(head.q, context).data());
      benchmark::DoNotOptimize(tree.leaf_of_keys(head.k, context).data());
    }));
  }
  state.counters["height"] = double(tree.height());
  state.counters["flops"] = flops.products();
  state.counters["GFLOP/s"] = flops.products() / timing.median * 1e-9;
  state.counters["flops_fewer"] = exact_flops / flops.products();
  state.counters["times_exact"] = times_exact;
  state.counters["kept_share"] = times_exact / (exact_flops / flops.products());
  state.counters["routing"] = median_of(routing) / timing.median;
  state.counters["ns_a_token"] = timing.median / double(one.n) * 1e9;
  state.counters["allocs"] = timing.allocations;
  state.counters["from_exact"] = distance_from_exact(head, one.causal);
}

void tf(benchmark::State& state, const Case& one) {
  PackedHeads<float> head(one.n, one.n, one.d, 1);
  const auto tree = balanced_tree(head, one.height());
  report(state, one, head, heed::TfAttention<float>{tree}, tree);
}

void tc(benchmark::State& state, const Case& one) {
  PackedHeads<float> head(one.n, one.n, one.d, 1);
  const auto tree = balanced_tree(head, one.height());
  report(state, one, head, heed::TcAttention<float>{tree, heed::Vector<float>::Zero(tree.height() + 1).eval()}, tree);
}

/// The published layer united with a window of 128 keys and the first 4.
void tf_near(benchmark::State& state, const Case& one) {
  PackedHeads<float> head(one.n, one.n, one.d, 1);
  const auto tree = balanced_tree(head, one.height());
  report(state, one, head, heed::TfAttention<float>{tree, {.window_left = 128, .n_sinks = 4}}, tree);
}

/// Routing alone. `of_bound` compares its time with the slower of two bounds: reading every token once from memory, and
/// the products of the path at the peak.
void routing(benchmark::State& state, const Case& one, Index height) {
  PackedHeads<float> head(one.n, one.n, one.d, 1);
  const auto tree = balanced_tree(head, height);
  const PeakAround peak(Arithmetic::f32, one.threads);
  const BandwidthAround bandwidth(one.threads);
  heed::Workspace workspace;
  const Timing timing = time_alone(state, [&] {
    benchmark::DoNotOptimize(tree.leaf_of(head.q, {.workspace = &workspace, .threads = one.threads}).data());
  });
  const double bytes = double(one.n * one.d) * sizeof(float), flops = 2.0 * double(one.n * one.d * height);
  const double by_bytes = bytes / bandwidth.finish(), by_flops = flops / peak.finish();
  state.counters["GB/s"] = bytes / timing.median * 1e-9;
  state.counters["GFLOP/s"] = flops / timing.median * 1e-9;
  state.counters["of_dram"] = by_bytes / timing.median;
  state.counters["of_peak"] = by_flops / timing.median;
  state.counters["of_bound"] = std::max(by_bytes, by_flops) / timing.median;
  state.counters["ns_a_token"] = timing.median / double(one.n) * 1e9;
}

/// Finds the first n = 64, 96, 128, 192, ... from which on TF is faster than exact attention, and the worst ratio of
/// times below it.
void crossover(benchmark::State& state, Case one) {
  double overtakes_at = 0, worst_below = 0;
  for ([[maybe_unused]] auto _ : state) {
    overtakes_at = worst_below = 0;
    double total = 0;
    for (Index n = 64; n <= 4096; n = n % 3 == 0 ? n / 3 * 4 : n / 2 * 3) {
      one.n = n;
      PackedHeads<float> head(n, n, one.d, 1);
      const auto tree = balanced_tree(head, std::max<Index>(1, one.height()));
      const heed::TfAttention<float> method{tree};
      const Call<heed::TfAttention<float>> call(head, one, method);
      const ExactSlice exact(head, one);
      call();
      exact();
      std::vector<double> own, other;
      for (int turn = 0; turn < 41; ++turn) {
        other.push_back(time_once(exact));
        own.push_back(time_once(call));
        total += own.back();
      }
      const double ratio = median_of(own) / exact.seconds(median_of(other));
      if (ratio >= 1) {
        overtakes_at = 0;
        worst_below = std::max(worst_below, ratio);
      } else if (overtakes_at == 0) {
        overtakes_at = double(n);
      }
    }
    state.SetIterationTime(total);
  }
  state.counters["overtakes_at"] = overtakes_at;
  state.counters["worst_below"] = worst_below;
}

const bool registered = [] {
  for (const int threads : {1, 2}) {
    for (const bool causal : {false, true}) {
      for (const Index n : {1024, 4096, 16384, 32768, 65536, 131072}) {
        for (const Index leaf : {32, 64, 128, 256, 512}) {
          const Case one{n, leaf, causal, threads};
          add("tf" + text(one), [=](benchmark::State& state) { tf(state, one); });
        }
        const Case one{n, 256, causal, threads};
        add("tc" + text(one), [=](benchmark::State& state) { tc(state, one); });
        if (n <= 16384) add("tf_near" + text(one), [=](benchmark::State& state) { tf_near(state, one); });
      }
      for (const Index leaf : {32, 64, 128, 256}) {
        const Case one{0, leaf, causal, threads};
        add("tf_crossover" + text(one), [=](benchmark::State& state) { crossover(state, one); });
      }
    }
    for (const Index n : {4096, 16384, 131072}) {
      for (const Index height : {3, 6, 9}) {
        const Case one{n, 256, false, threads};
        add("routing/n:" + std::to_string(n) + "/height:" + std::to_string(height) +
                "/threads:" + std::to_string(threads),
            [=](benchmark::State& state) { routing(state, one, height); });
      }
    }
  }
  return true;
}();

}  // namespace
}  // namespace heed_bench

BENCH_METHOD(BigBird, [](const auto&) { return heed::BigBirdAttention(); }, {.n = {1024, 4096}});
BENCH_METHOD(Window, [](const auto&) { return heed::WindowAttention(128, 128); }, {.n = {1024, 4096}});

// Baselines: trained layers of their own, so that their errors against exact attention are those of random parameters.
BENCH_METHOD(Linear, [](const auto&) { return heed::LinearAttention(); }, {.n = {1024, 4096}});
BENCH_METHOD(Linformer,
             [](const auto& heads) {
               heed::Matrix<float> projection(128, heads.n_k);
               heed_bench::fill_random({projection.data(), static_cast<std::size_t>(projection.size())}, 99);
               projection /= std::sqrt(float(heads.n_k));
               return heed::LinformerAttention<float>(projection, projection);
             },
             {.n = {1024, 4096}});
BENCH_METHOD(Performer,
             [](const auto& heads) {
               return heed::PerformerAttention<float>({.n_features = 128, .seed = 7}).for_width(heads.d);
             },
             {.n = {1024, 4096}});
