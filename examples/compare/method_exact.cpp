// Softmax attention over every pair the mask keeps, in three storage types.
#include "attend_attempt.hpp"

namespace compare {
namespace {

template <class S>
std::unique_ptr<Attempt> exact(const Head& head, const Settings& settings) {
  return attend_attempt<S>(head, settings.options, settings.threads, heed::ExactAttention{});
}

const Registration in_float{
    {.name = "exact", .description = "softmax attention in float", .by_default = true, .bind = exact<float>}};
const Registration in_half{{.name = "exact-half",
                            .description = "q, k, v and out stored as IEEE half, sums in float",
                            .bind = exact<Eigen::half>}};
const Registration in_bfloat16{{.name = "exact-bfloat16",
                                .description = "q, k, v and out stored as bfloat16, sums in float",
                                .by_default = true,
                                .bind = exact<Eigen::bfloat16>}};

}  // namespace
}  // namespace compare
