#pragma once
#include <algorithm>

#include "heed/core/types.hpp"
#include "heed/sampling/monte_carlo_options.hpp"

namespace heed::detail {

/// Sampling work of one key head.
struct SamplingWork {
  Index d_in = 0;
  Index d_v = 0;
  Index n_heads = 1;    ///< key heads of the call
  Index n_tokens = 0;   ///< real tokens: what a dense product multiplies
  Index n_exact = 0;    ///< tokens of the head that the exact product still multiplies
  Index n_sampled = 0;  ///< tokens with some samples
  double samples = 0;   ///< sum of their r_j
  double weighing = 0;  ///< multiply-adds that finding the importance takes, where they are known beforehand
};

/// Time of sampling, in multiply-adds of the dense product.
struct SamplingCost {
  double head, head_feature;    ///< a head: times d_in d_v, times d_in
  double call, call_feature;    ///< a token of the call, shared by its heads: each, and times d_in
  double token, token_feature;  ///< a sampled token of a head: each, and times d_in
  double sample;                ///< a sample: times d_v
};

/// Measured by bench/mca_bench and variations of it. Where every token takes the same r, tokens that share draws stay
/// together to the end, and heads share their choice of the largest products.
inline SamplingCost sampling_cost(Estimator estimator, Budget budget) {
  const bool alike = budget == Budget::constant;
  switch (estimator) {
    case Estimator::with_replacement:
      return alike ? SamplingCost{25, 750, 1000, 8, 400, 12, 1.3} : SamplingCost{25, 700, 1900, 6, 1700, 21, 3};
    case Estimator::largest:
      return alike ? SamplingCost{9, 0, 2200, 22, 800, 21, 2.3} : SamplingCost{5, 30, 0, 0, 3700, 100, 1.7};
    case Estimator::without_replacement: return {5, 0, 0, 0, 5000, 250, 1.75};
    default: return {5, 0, 0, 0, 5000, 130, 1600};  // product_weighted: a search for every draw
  }
}

/// True where sampling a head is estimated not to be clearly faster than multiplying it exactly, at one thread. It asks
/// a table and not a clock, so that every run takes the same path.
inline bool sampling_is_slower(const MonteCarloOptions& options, const SamplingWork& work) {
  constexpr double doubt = 1.3;  // estimates were off by up to this factor
  const SamplingCost cost = sampling_cost(options.estimator, options.budget);
  const double d_in = static_cast<double>(work.d_in), d_v = static_cast<double>(work.d_v);
  const double n_tokens = static_cast<double>(work.n_tokens), n_sampled = static_cast<double>(work.n_sampled);
  const double sampled = d_in * (cost.head * d_v + cost.head_feature) +
                         n_tokens * (cost.call + cost.call_feature * d_in) / static_cast<double>(work.n_heads) +
                         n_sampled * (cost.token + cost.token_feature * d_in) + work.samples * cost.sample * d_v +
                         static_cast<double>(work.n_exact) * d_in * d_v + work.weighing;
  return sampled * doubt > n_tokens * d_in * d_v;
}

/// True where that is known before there is a plan, so that no importance need be found: the budget is spent on samples
/// or, at most, on whole rows, and column_max gives every token at least one sample unless it may round down to none.
inline bool sampling_never_pays(const MonteCarloOptions& options, SamplingWork work) {
  const bool may_skip = options.budget != Budget::constant && options.skip_below > 0;
  double tokens = 1, spent = options.fraction;  // least shares of tokens that are sampled, and of products
  if (options.budget == Budget::column_max) {
    tokens = may_skip || options.rounding == Rounding::published ? 0 : 1;
    spent = tokens / static_cast<double>(work.d_in);
  } else if (options.budget == Budget::column_norm) {
    tokens = may_skip ? 0 : 1 - options.fraction;
    spent = may_skip ? 0 : options.fraction / std::max(1.0, sampling_cost(options.estimator, options.budget).sample);
  }
  const double n_tokens = static_cast<double>(work.n_tokens);
  work.n_sampled = static_cast<Index>(tokens * n_tokens);
  work.samples = n_tokens * spent * static_cast<double>(work.d_in);
  return sampling_is_slower(options, work);
}

}  // namespace heed::detail
