#pragma once
#include <span>

#include <Eigen/Core>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/detail/gradient_part.hpp"
#include "heed/engine/detail/softmax_engine.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"

// The engine for the operands in use, without a score functor. Where HEED_COMPILED is defined, files only declare it,
// as they do kernels (kernels/select.hpp); the CMake target heed::compiled defines it with HEED_ENGINES() and
// HEED_GRADIENT_ENGINES().

namespace heed::detail {

// Of run_pairs.hpp and run_backward.hpp, which include this page.
template <class Call, class ScoreMod>
void run_pairs(const Pairs& pairs, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
               const ScoreMod& mod, const Context& context);
template <class Call, class ScoreMod>
void run_backward(const Pairs& pairs, std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                  const ScoreMod& mod, const Context& context);

}  // namespace heed::detail

#define HEED_RUN(run, what, ...)                                                                                      \
  template void heed::detail::run(const heed::detail::what&, std::span<const heed::detail::__VA_ARGS__>, heed::Index, \
                                  const heed::AttentionOptions&, const heed::NoScoreMod&, const heed::Context&)

#define HEED_ENGINE(before, ...)                     \
  before HEED_RUN(run_part, PairsPart, __VA_ARGS__); \
  before HEED_RUN(run_pairs, Pairs, __VA_ARGS__)

#define HEED_ENGINES(before)                                                         \
  HEED_ENGINE(before, HeadCall<float, float, float>);                                \
  HEED_ENGINE(before, HeadCall<double, double, double>);                             \
  HEED_ENGINE(before, HeadCall<Eigen::half, Eigen::half, Eigen::half>);              \
  HEED_ENGINE(before, HeadCall<Eigen::half, Eigen::half, float>);                    \
  HEED_ENGINE(before, HeadCall<Eigen::bfloat16, Eigen::bfloat16, Eigen::bfloat16>);  \
  HEED_ENGINE(before, HeadCall<Eigen::bfloat16, Eigen::bfloat16, float>);            \
  HEED_ENGINE(before, HeadCall<float, Eigen::half, float>); /* a cache in storage */ \
  HEED_ENGINE(before, HeadCall<float, Eigen::bfloat16, float>);                      \
  HEED_ENGINE(before, HeadCall<float, Int8, float>)

#define HEED_GRADIENT_ENGINE(before, ...)                     \
  before HEED_RUN(run_part_backward, PairsPart, __VA_ARGS__); \
  before HEED_RUN(run_backward, Pairs, __VA_ARGS__)

#define HEED_GRADIENT_ENGINES(before)                                   \
  HEED_GRADIENT_ENGINE(before, GradientCall<float, float>);             \
  HEED_GRADIENT_ENGINE(before, GradientCall<double, double>);           \
  HEED_GRADIENT_ENGINE(before, GradientCall<Eigen::half, Eigen::half>); \
  HEED_GRADIENT_ENGINE(before, GradientCall<Eigen::bfloat16, Eigen::bfloat16>)

HEED_ENGINES(extern);
HEED_GRADIENT_ENGINES(extern);
