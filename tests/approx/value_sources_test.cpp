// Every rule of attention where values are made during the call.
#include <concepts>

#include "heed/approx/monte_carlo_values.hpp"
#include "heed/approx/projected_values.hpp"
#include "heed/approx/tc_attention.hpp"
#include "heed/approx/tf_attention.hpp"
#include "heed/approx/window_attention.hpp"
#include "support/computed_case.hpp"
#include "support/conformance.hpp"
#include "support/places.hpp"
#include "support/tc_formula.hpp"
#include "support/trees.hpp"

namespace heed::test::value_sources {
namespace {

constexpr Index height = 3;
constexpr TcOptions by_query{.by_query = true};

template <ProjectionOrder order>
constexpr auto project = [](const auto& x, const auto& w) { return ProjectedValues(x, w, {.order = order}); };
/// Half of the products, the largest: those that are not 0.
constexpr auto sample = [](const auto& x, const auto& w) {
  return MonteCarloValues(
      x, w, {.estimator = Estimator::largest, .budget = Budget::constant, .fraction = 0.5, .path = ValuePath::sampled});
};

template <class S>
TfAttention<S> tf_for(const Inputs<S>& in) {
  return TfAttention<S>(random_tree<S>(height, in.q.cols()));
}
template <class S>
TcAttention<S> tc_for(const Inputs<S>& in) {
  Vector<Accumulator<S>> logits(height + 1);
  logits << Accumulator<S>(-0.7), Accumulator<S>(0.1), Accumulator<S>(0.4), Accumulator<S>(-0.2);
  return TcAttention<S>(random_tree<S>(height, in.q.cols()), logits, by_query);
}

constexpr auto projected_first = []<class S>(const Inputs<S>&) {
  return over_computed<S>(ExactAttention{}, project<ProjectionOrder::project_first>);
};
constexpr auto sampled = []<class S>(const Inputs<S>&) { return over_computed<S>(ExactAttention{}, sample); };
// In the other order and over other methods two scalars do.
template <class S>
concept float_or_double = std::same_as<S, float> || std::same_as<S, double>;
constexpr auto attended_first = []<float_or_double S>(const Inputs<S>&) {
  return over_computed<S>(ExactAttention{}, project<ProjectionOrder::attend_first>);
};
constexpr auto window_projected = []<float_or_double S>(const Inputs<S>&) {
  return over_computed<S>(WindowAttention(12, 4), project<ProjectionOrder::automatic>);
};
constexpr auto window_sampled = []<float_or_double S>(const Inputs<S>&) {
  return over_computed<S>(WindowAttention(12, 4), sample);
};
constexpr auto tf_sampled = []<float_or_double S>(const Inputs<S>& in) { return over_computed<S>(tf_for(in), sample); };
constexpr auto tc_sampled = []<float_or_double S>(const Inputs<S>& in) { return over_computed<S>(tc_for(in), sample); };

constexpr auto in_window = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_where(in.q.rows(), in.k.rows(), options.mask,
                     [](const Place& p) { return p.key >= p.diagonal - 12 && p.key <= p.diagonal + 4; });
};
constexpr auto same_leaf = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return pairs_of_tree(tf_for(in).tree(), in, options);
};
constexpr auto formula = []<class S>(const Inputs<S>& in, const AttentionOptions& options) {
  return tc_formula(tc_for(in), in, options);
};

FlopCounter project_first_flops(const FlopCase& sizes) {
  FlopCounter flops = exact_flops(sizes);
  const double d_v = static_cast<double>(sizes.d_v);
  flops.add_products(Phase::project, 2.0 * sizes.real_keys * 2 * d_v * d_v);
  return flops;
}
/// The method sees rows of x, twice as wide as v.
FlopCounter attend_first_flops(FlopCase sizes) {
  const double d_v = static_cast<double>(sizes.d_v), n_q = static_cast<double>(sizes.n_q);
  sizes.d_v *= 2;
  FlopCounter flops = exact_flops(sizes);
  flops.add_products(Phase::project, 2.0 * n_q * 2 * d_v * d_v);
  return flops;
}
/// d_v of 2 d_v products a row, and as many sizes |x_k| |W_k| to choose them by.
FlopCounter with_samples(FlopCounter flops, const FlopCase& sizes) {
  const double d_v = static_cast<double>(sizes.d_v);
  flops.add_products(Phase::sample, 2.0 * sizes.seen_keys * d_v * d_v);
  flops.add_products(Phase::route, 2.0 * sizes.seen_keys * 2 * d_v);
  return flops;
}
FlopCounter sampled_flops(const FlopCase& sizes) { return with_samples(exact_flops(sizes), sizes); }
FlopCounter tf_flops(const FlopCase& sizes) {
  FlopCounter flops = sampled_flops(sizes);
  flops.add_products(Phase::route, tree_flops(tf_for(sizes.in).tree(), sizes));
  return flops;
}
FlopCounter tc_sampled_flops(const FlopCase& sizes) { return with_samples(tc_flops(sizes, tc_for(sizes.in)), sizes); }

INSTANTIATE_METHOD_SUITE(ProjectedValues, {.make = projected_first,
                                           .exact_when = projected_first,
                                           .flops = project_first_flops,
                                           .mixes_columns = true,
                                           .same_work_by_head = false,
                                           .value_rows = "x",
                                           .value_columns = "w_v"});
INSTANTIATE_METHOD_SUITE(ProjectedValuesAfterAttention, {.make = attended_first,
                                                         .exact_when = attended_first,
                                                         .flops = attend_first_flops,
                                                         .mixes_columns = true,
                                                         .same_work_by_head = false,
                                                         .value_rows = "x",
                                                         .value_columns = "w_v"});
INSTANTIATE_METHOD_SUITE(MonteCarloValues, {.make = sampled,
                                            .exact_when = sampled,
                                            .flops = sampled_flops,
                                            .mixes_columns = true,
                                            .same_work_by_head = false,
                                            .value_rows = "x",
                                            .value_columns = "w_v"});
INSTANTIATE_METHOD_SUITE(ProjectedValuesOverWindows, {.make = window_projected,
                                                      .keeps = in_window,
                                                      .flops = project_first_flops,
                                                      .positional = true,
                                                      .mixes_columns = true,
                                                      .same_work_by_head = false,
                                                      .value_rows = "x",
                                                      .value_columns = "w_v"});
INSTANTIATE_METHOD_SUITE(MonteCarloValuesOverWindows, {.make = window_sampled,
                                                       .keeps = in_window,
                                                       .flops = sampled_flops,
                                                       .positional = true,
                                                       .mixes_columns = true,
                                                       .same_work_by_head = false,
                                                       .value_rows = "x",
                                                       .value_columns = "w_v"});
INSTANTIATE_METHOD_SUITE(MonteCarloValuesOverTf, {.make = tf_sampled,
                                                  .keeps = same_leaf,
                                                  .flops = tf_flops,
                                                  .reads_keys_to_choose = true,
                                                  .falls_back = true,
                                                  .mixes_columns = true,
                                                  .same_work_by_head = false,
                                                  .value_rows = "x",
                                                  .value_columns = "w_v"});
INSTANTIATE_METHOD_SUITE(MonteCarloValuesOverTc, {.make = tc_sampled,
                                                  .expected = formula,
                                                  .flops = tc_sampled_flops,
                                                  .supports = tc_supports,
                                                  .has_softmax = false,
                                                  .reads_keys_to_choose = true,
                                                  .mixes_columns = true,
                                                  .same_work_by_head = false,
                                                  .value_rows = "x",
                                                  .value_columns = "w_v"});

}  // namespace
}  // namespace heed::test::value_sources
