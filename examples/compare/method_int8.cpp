// Softmax attention with products of 8-bit whole numbers, on CPUs that have them; on others it is exact attention.
#include "attend_attempt.hpp"

namespace compare {
namespace {

std::unique_ptr<Attempt> int8_products(const Head& head, const Settings& settings) {
  return attend_attempt<float>(head, settings.options, settings.threads, heed::Int8Attention{});
}

const Registration in_int8{{.name = "int8",
                            .description = "q, k, v and weights rounded to 8 bits for each product, sums in float",
                            .by_default = true,
                            .bind = int8_products}};

}  // namespace
}  // namespace compare
