#pragma once
#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <heed/heed.hpp>

#include "support/heads.hpp"
#include "support/timing.hpp"

namespace heed_bench {

/// The points at which a method is timed: every n with every d and every thread count.
struct Sweep {
  std::vector<heed::Index> n{1024, 4096, 16384};
  std::vector<heed::Index> d{64};
  std::vector<int> threads{1, 2};
  heed::Index n_heads = 4;
  heed::AttentionOptions options{};  ///< the method's and exact attention's alike
};

/// Relative error of each head, |got - want| / |want| (Frobenius), sorted.
inline std::vector<double> head_errors(const PackedHeads<float>& got, const PackedHeads<float>& want) {
  std::vector<double> errors;
  for (heed::Index h = 0; h < got.n_heads; ++h) {
    const auto wanted = want.out.middleCols(h * want.d, want.d).cast<double>();
    const double difference = (got.out.middleCols(h * got.d, got.d).cast<double>() - wanted).norm();
    errors.push_back(difference / std::max(wanted.norm(), 1e-300));
  }
  std::sort(errors.begin(), errors.end());
  return errors;
}

/// Times one point: time, flops, how many times fewer and faster than exact attention under the same options, and the
/// error against it. Exact attention runs before the loop, once or, below a second, three times.
template <class Make>
void time_method(benchmark::State& state, const Make& make, const Sweep& sweep, heed::Index n, heed::Index d,
                 int threads) {
  PackedHeads<float> heads(n, n, d, sweep.n_heads);
  PackedHeads<float> exact = heads;
  heed::Workspace workspace;
  const auto attend = [&](PackedHeads<float>& into, const auto& method, heed::FlopCounter* flops) {
    heed::multi_head_attend_into(into.out, into.lse, into.q, into.k, into.v, {.n_heads = into.n_heads}, sweep.options,
                                 method, {.flops = flops, .workspace = &workspace, .threads = threads});
  };
  const auto run_exact = [&] { attend(exact, heed::ExactAttention{}, nullptr); };
  heed::FlopCounter exact_flops, flops;
  attend(exact, heed::ExactAttention{}, &exact_flops);
  std::vector<double> exact_seconds{time_once(run_exact)};
  while (exact_seconds.front() < 1 && exact_seconds.size() < 3) exact_seconds.push_back(time_once(run_exact));

  const auto method = make(std::as_const(heads));
  attend(heads, method, &flops);
  const Timing timing = time_alone(state, [&] { attend(heads, method, nullptr); });
  const auto errors = head_errors(heads, exact);
  state.counters["flops"] = flops.products();
  state.counters["flops_fewer"] = exact_flops.products() / flops.products();
  state.counters["times_exact"] = median_of(exact_seconds) / timing.median;
  state.counters["kept_pairs"] = flops.exponentials();
  state.counters["real_tokens"] = flops.real_tokens();
  state.counters["padded_tokens"] = flops.padded_tokens();
  state.counters["error_p50"] = errors[errors.size() / 2];
  state.counters["error_max"] = errors.back();
  state.counters["GFLOP/s"] = flops.products() / timing.median * 1e-9;
  state.counters["allocs"] = timing.allocations;
}

/// Registers every point of the sweep. `make(heads)` returns the method, or one method per head, for those operands.
template <class Make>
bool register_method(const std::string& name, const Make& make, const Sweep& sweep = {}) {
  for (const int threads : sweep.threads)
    for (const heed::Index d : sweep.d)
      for (const heed::Index n : sweep.n) {
        const std::string full = "method/" + name + "/n:" + std::to_string(n) + "/d:" + std::to_string(d) +
                                 "/heads:" + std::to_string(sweep.n_heads) + "/threads:" + std::to_string(threads);
        benchmark::RegisterBenchmark(full.c_str(),
                                     [=](benchmark::State& state) { time_method(state, make, sweep, n, d, threads); })
            ->UseManualTime()
            ->Unit(benchmark::kMillisecond);
      }
  return true;
}

}  // namespace heed_bench

/// BENCH_METHOD(Tf, make_tf) or BENCH_METHOD(Tf, make_tf, {.n = {4096}}): one line a method.
#define BENCH_METHOD(Name, ...) \
  [[maybe_unused]] static const bool heed_bench_method_##Name = ::heed_bench::register_method(#Name, __VA_ARGS__)
