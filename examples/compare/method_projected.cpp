// Exact attention that makes its value rows x w_v + b_v during the call. Every cheaper way of making them is measured
// against it.
#include "values_attempt.hpp"

namespace compare {
namespace {

std::unique_ptr<Attempt> projected(const Head& head, const Settings& settings) {
  return values_attempt<heed::ProjectedValues<float>>(head, settings, [](const auto& x, const auto& w_v, auto bias) {
    return heed::ProjectedValues<float>(x, w_v, {.bias = bias, .order = heed::ProjectionOrder::project_first});
  });
}

const Registration projected_registration{{.name = "projected",
                                           .description = "exact, with v = x w_v + b_v made in the call",
                                           .family = Family::values,
                                           .by_default = true,
                                           .needs = Needs::projection,
                                           .bind = projected}};

}  // namespace
}  // namespace compare
