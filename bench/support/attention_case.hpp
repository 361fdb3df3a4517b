#pragma once
#include <string>
#include <type_traits>

#include <Eigen/Core>
#include <benchmark/benchmark.h>

#include "heed/core/types.hpp"
#include "support/fma_peak.hpp"
#include "support/masks.hpp"

namespace heed_bench {

/// One timed call of exact attention: n_heads heads of n tokens.
struct Case {
  heed::Index n = 0;
  heed::Index d = 64;
  heed::Index n_heads = 12;
  int threads = 1;
  MaskKind mask = MaskKind::none;
};

template <class S>
const char* scalar_name() {
  if constexpr (std::is_same_v<S, double>) return "double";
  if constexpr (std::is_same_v<S, Eigen::half>) return "half";
  if constexpr (std::is_same_v<S, Eigen::bfloat16>) return "bfloat16";
  return "float";
}

/// The arithmetic that products of storage S run on, whose peak they are held to.
template <class S>
constexpr Arithmetic arithmetic_of() {
  return std::is_same_v<S, double> ? Arithmetic::f64 : Arithmetic::f32;
}

/// Registers body(state, one) under the name of the case.
template <class Body>
void add(const std::string& group, const Case& one, const Body& body) {
  const std::string name = group + "/" + name_of(one.mask) + "/n:" + std::to_string(one.n) +
                           "/d:" + std::to_string(one.d) + "/heads:" + std::to_string(one.n_heads) +
                           "/threads:" + std::to_string(one.threads);
  benchmark::RegisterBenchmark(name.c_str(), [=](benchmark::State& state) { body(state, one); })
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace heed_bench
