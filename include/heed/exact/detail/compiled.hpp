#pragma once
#include <span>

#include <Eigen/Core>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"

// What stands behind the doors of exact attention, for the operands in use: checks, pairs, and the run over them. Views
// cross, and no Eigen type does, so that a file may set Eigen up in its own way. Where HEED_COMPILED is defined, files
// only declare it (engine/detail/compiled.hpp); the CMake target heed::compiled defines it with HEED_ATTENDS().

namespace heed::detail {

// Of attend.hpp, which includes this page.
template <class Call>
void check_head(const Call& call, const ValueShape& values, const AttentionOptions& options, const Context& context);

}  // namespace heed::detail

#define HEED_CHECK(T)                                                                                \
  template void heed::detail::check_attention<T>(heed::Index, heed::Index, heed::Index, heed::Index, \
                                                 const heed::CallShape&, const heed::AttentionOptions&, const char*)

#define HEED_CHECK_HEAD(...)                                                                                \
  template void heed::detail::check_head(const heed::detail::__VA_ARGS__&, const heed::detail::ValueShape&, \
                                         const heed::AttentionOptions&, const heed::Context&)

#define HEED_ATTEND_HEADS(...)                                                                          \
  template void heed::detail::attend_all_heads(const heed::ExactAttention<>&,                           \
                                               std::span<const heed::detail::__VA_ARGS__>, heed::Index, \
                                               const heed::AttentionOptions&, const heed::Context&)

#define HEED_ATTEND(before, ...)       \
  before HEED_CHECK_HEAD(__VA_ARGS__); \
  before HEED_ATTEND_HEADS(__VA_ARGS__)

#define HEED_ATTENDS(before)                                                        \
  before HEED_CHECK(float);                                                         \
  before HEED_CHECK(double);                                                        \
  HEED_ATTEND(before, HeadCall<float, float, float>);                               \
  HEED_ATTEND(before, HeadCall<double, double, double>);                            \
  HEED_ATTEND(before, HeadCall<Eigen::half, Eigen::half, Eigen::half>);             \
  HEED_ATTEND(before, HeadCall<Eigen::half, Eigen::half, float>);                   \
  HEED_ATTEND(before, HeadCall<Eigen::bfloat16, Eigen::bfloat16, Eigen::bfloat16>); \
  HEED_ATTEND(before, HeadCall<Eigen::bfloat16, Eigen::bfloat16, float>)

HEED_ATTENDS(extern);
