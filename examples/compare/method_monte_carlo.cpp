// Value rows made from a part of their products (heed::MonteCarloValues): every estimator at --fraction of the products
// of real tokens, always sampled, so that the table shows the estimator. `mca` keeps the default alpha.
#include <string>

#include "values_attempt.hpp"

namespace compare {
namespace {

using heed::Budget;
using heed::Estimator;
using heed::MonteCarloOptions;
using Sampled = heed::MonteCarloValues<float>;

// The alpha at which the published budget spends `fraction` of the products of kept tokens.
double alpha_for(const Head& head, const Settings& settings, const MonteCarloOptions& options) {
  const Sampled values(*head.x, *head.w_v, options);
  const auto plan = values.plan(*head.q, *head.k, settings.options);
  double kept = 0, below = 1e-6, above = 1e6;
  for (Index j = 0; j < plan.kept.rows(); ++j) kept += plan.kept(j, 0);
  const double n = options.rounding == heed::Rounding::up ? kept : static_cast<double>(plan.kept.rows());
  for (int step = 0; step < 60; ++step) {
    const double alpha = std::sqrt(below * above);
    double spent = 0;
    for (Index j = 0; j < plan.kept.rows(); ++j) {
      spent +=
          static_cast<double>(heed::published_count(plan.importance(j, 0), n, alpha, head.x->cols(), options.rounding));
    }
    (spent > settings.fraction * kept * static_cast<double>(head.x->cols()) ? below : above) = alpha;
  }
  return above;
}

enum class Alpha { of_the_options, to_spend_the_fraction };

void add_sampled(const std::string& name, const std::string& description, const MonteCarloOptions& chosen,
                 Alpha alpha = Alpha::of_the_options) {
  const auto bind = [chosen, alpha](const Head& head, const Settings& settings) {
    MonteCarloOptions options = chosen;
    options.seed = settings.seed;
    options.fraction = settings.fraction;
    if (alpha == Alpha::to_spend_the_fraction) options.alpha = alpha_for(head, settings, options);
    return values_attempt<Sampled>(head, settings, [&](const auto& x, const auto& w_v, auto bias) {
      options.bias = bias;
      return Sampled(x, w_v, options);
    });
  };
  const bool by_default = name == "mca-published" || name == "mca-largest-c";
  Registration({.name = name,
                .description = description,
                .family = Family::values,
                .by_default = by_default,
                .needs = Needs::projection,
                .bind = bind});
}

const bool sampled_registered = [] {
  constexpr auto sampled = heed::ValuePath::sampled;
  add_sampled("mca", "Monte-Carlo values with the default alpha, 0.4", {.path = sampled});
  add_sampled("mca-published", "the paper's: draws by |W_k|^2, column maxima, n padded, rounded down",
              {.rounding = heed::Rounding::published, .path = sampled}, Alpha::to_spend_the_fraction);
  add_sampled("mca-corrected", "draws by |W_k|^2, column maxima, n real, rounded up", {.path = sampled},
              Alpha::to_spend_the_fraction);
  const struct {
    const char *name, *text;
    Estimator estimator;
  } estimators[] = {{"draws", "draws by |W_k|^2", Estimator::with_replacement},
                    {"product", "draws by |x_k| |W_k|", Estimator::product_weighted},
                    {"without", "no repeats, by |x_k| |W_k|", Estimator::without_replacement},
                    {"largest", "largest |x_k| |W_k|", Estimator::largest}};
  for (const auto& one : estimators) {
    for (const bool centred : {false, true}) {
      const std::string tail = centred ? "-c" : "", text = std::string(one.text) + (centred ? ", centred" : "");
      add_sampled(std::string("mca-") + one.name + tail, text + ", budget |A_j| |x_j|",
                  {.estimator = one.estimator, .budget = Budget::column_norm, .centred = centred, .path = sampled});
      add_sampled(std::string("mca-") + one.name + "-r" + tail, text + ", same r for all tokens",
                  {.estimator = one.estimator, .budget = Budget::constant, .centred = centred, .path = sampled});
    }
  }
  return true;
}();

}  // namespace
}  // namespace compare
