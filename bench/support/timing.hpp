#pragma once
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>

#include "support/allocations.hpp"

namespace heed_bench {

inline double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

template <class Call>
double time_once(const Call& call) {
  const auto begin = std::chrono::steady_clock::now();
  call();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

/// What the timed loop of one case measured.
struct Timing {
  double median = 0;           ///< seconds a call
  double baseline_median = 0;  ///< the same of the baseline; 0 without one
  double allocations = 0;      ///< heap allocations a call, after the first
};

/// Runs the loop of `state`, which must use manual time. Each turn times `baseline` and then `call`, so that the
/// machine's drift reaches both medians alike. Both have run once before the loop.
template <class Call, class Baseline>
Timing time_against(benchmark::State& state, const Call& call, const Baseline& baseline) {
  baseline();
  call();
  std::vector<double> own, other;
  own.reserve(1U << 16U);
  other.reserve(1U << 16U);
  std::uint64_t allocated = 0, calls = 0;
  for ([[maybe_unused]] auto _ : state) {
    other.push_back(time_once(baseline));
    const std::uint64_t before = allocations().calls;
    own.push_back(time_once(call));
    allocated += allocations().calls - before;
    ++calls;
    state.SetIterationTime(own.back());
  }
  return {median_of(std::move(own)), median_of(std::move(other)),
          double(allocated) / double(std::max<std::uint64_t>(calls, 1))};
}

template <class Call>
Timing time_alone(benchmark::State& state, const Call& call) {
  Timing timing = time_against(state, call, [] {});
  timing.baseline_median = 0;
  return timing;
}

}  // namespace heed_bench
