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
// as they do kernels (kernels/select.hpp); the CMake target that brings the kernels defines it with HEED_ENGINES() and
// HEED_GRADIENT_ENGINES().

#define HEED_ENGINE(run, ...)                                                                                 \
  template void heed::detail::run(const heed::detail::PairsPart&, std::span<const heed::detail::__VA_ARGS__>, \
                                  heed::Index, const heed::AttentionOptions&, const heed::NoScoreMod&,        \
                                  const heed::Context&)

#define HEED_ENGINES(before)                                                                  \
  before HEED_ENGINE(run_part, HeadCall<float, float, float>);                                \
  before HEED_ENGINE(run_part, HeadCall<double, double, double>);                             \
  before HEED_ENGINE(run_part, HeadCall<Eigen::half, Eigen::half, Eigen::half>);              \
  before HEED_ENGINE(run_part, HeadCall<Eigen::half, Eigen::half, float>);                    \
  before HEED_ENGINE(run_part, HeadCall<Eigen::bfloat16, Eigen::bfloat16, Eigen::bfloat16>);  \
  before HEED_ENGINE(run_part, HeadCall<Eigen::bfloat16, Eigen::bfloat16, float>);            \
  before HEED_ENGINE(run_part, HeadCall<float, Eigen::half, float>); /* a cache in storage */ \
  before HEED_ENGINE(run_part, HeadCall<float, Eigen::bfloat16, float>)

#define HEED_GRADIENT_ENGINES(before)                                            \
  before HEED_ENGINE(run_part_backward, GradientCall<float, float>);             \
  before HEED_ENGINE(run_part_backward, GradientCall<double, double>);           \
  before HEED_ENGINE(run_part_backward, GradientCall<Eigen::half, Eigen::half>); \
  before HEED_ENGINE(run_part_backward, GradientCall<Eigen::bfloat16, Eigen::bfloat16>)

HEED_ENGINES(extern);
HEED_GRADIENT_ENGINES(extern);
