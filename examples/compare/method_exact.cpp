// Softmax attention over every pair the mask keeps, in three storage types.
#include "attend_attempt.hpp"
#include "cache_attempt.hpp"

namespace compare {
namespace {

template <class S>
std::unique_ptr<Attempt> exact(const Head& head, const Settings& settings) {
  if (settings.decodes) return std::make_unique<CacheAttempt<S>>(head, settings);
  return attend_attempt<S>(head, settings.options, settings.threads, heed::ExactAttention{});
}

const Registration in_float{{.name = "exact",
                             .description = "softmax attention in float",
                             .by_default = true,
                             .runs = Runs::both,
                             .bind = exact<float>}};
const Registration in_half{{.name = "exact-half",
                            .description = "q, k, v and out stored as IEEE half, sums in float",
                            .runs = Runs::both,
                            .bind = exact<Eigen::half>}};
const Registration in_bfloat16{{.name = "exact-bfloat16",
                                .description = "q, k, v and out stored as bfloat16, sums in float",
                                .by_default = true,
                                .runs = Runs::both,
                                .bind = exact<Eigen::bfloat16>}};

}  // namespace
}  // namespace compare
