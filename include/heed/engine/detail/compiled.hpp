#pragma once
#include <span>

#include <Eigen/Core>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/detail/softmax_engine.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/pairs.hpp"

// The engine for the operands in use, without a score functor. Where HEED_COMPILED is defined, files only declare it, as
// they do kernels (kernels/select.hpp); the CMake target that brings the kernels defines it with HEED_ENGINES().

#define HEED_ENGINE(...)                                                                                  \
  template void heed::detail::run_part(const heed::detail::PairsPart&,                                    \
                                       std::span<const heed::detail::HeadCall<__VA_ARGS__>>, heed::Index, \
                                       const heed::AttentionOptions&, const heed::NoScoreMod&, const heed::Context&)

#define HEED_ENGINES(before)                                              \
  before HEED_ENGINE(float, float, float);                                \
  before HEED_ENGINE(double, double, double);                             \
  before HEED_ENGINE(Eigen::half, Eigen::half, Eigen::half);              \
  before HEED_ENGINE(Eigen::half, Eigen::half, float);                    \
  before HEED_ENGINE(Eigen::bfloat16, Eigen::bfloat16, Eigen::bfloat16);  \
  before HEED_ENGINE(Eigen::bfloat16, Eigen::bfloat16, float);            \
  before HEED_ENGINE(float, Eigen::half, float); /* a cache in storage */ \
  before HEED_ENGINE(float, Eigen::bfloat16, float)

HEED_ENGINES(extern);
