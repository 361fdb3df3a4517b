#pragma once
#include "heed/core/types.hpp"
#include "heed/sampling/monte_carlo_options.hpp"

namespace heed::detail {

/// What one key head would sample.
struct SamplingWork {
  Index d_in = 0;
  Index d_v = 0;
  Index n_heads = 1;    ///< key heads of the call
  Index n_tokens = 0;   ///< kept tokens
  Index n_exact = 0;    ///< of these, multiplied exactly
  Index n_sampled = 0;  ///< of these, with some samples
  double samples = 0;   ///< sum of r_j over the sampled ones
};

/// True where sampling a head is estimated to take longer than multiplying it exactly. Times are in multiply-adds of the dense product
/// and come from bench/mca_bench: a sampled multiply-add costs more than a dense one, a token something to begin, and a choice of
/// products so much per input feature, which the heads share where all of them take the same r. A table and not a clock, so that every
/// run takes the same path. The passes that find the importance are not in it: they are the price of a budget that needs weights.
inline bool sampling_is_slower(const MonteCarloOptions& options, const SamplingWork& work) {
  const double d_in = static_cast<double>(work.d_in), d_v = static_cast<double>(work.d_v);
  const double dense = static_cast<double>(work.n_tokens) * d_in * d_v, heads = static_cast<double>(work.n_heads);
  // Layers of a few tens of microseconds, and one head by itself (which is how estimators are looked at) up to half a millisecond.
  if (dense * heads < (work.n_heads == 1 ? 4e7 : 2e6)) return false;
  double per_sample = 1.75 * d_v, per_token = 5000, per_head = 10 * d_in * d_v;
  switch (options.estimator) {
    case Estimator::with_replacement:
      per_token = 2500 + 10 * d_in;
      per_head = 50 * d_in * d_v;  // the table that draws
      break;
    case Estimator::largest: per_token += (options.budget == Budget::constant ? 25 : 60) * d_in; break;
    case Estimator::without_replacement: per_token += 250 * d_in; break;
    case Estimator::product_weighted:
      per_token += 130 * d_in;
      per_sample += 1600;
      break;
  }
  const double sampled = per_head + static_cast<double>(work.n_sampled) * per_token + work.samples * per_sample +
                         static_cast<double>(work.n_exact) * d_in * d_v * 1.2;
  return sampled > dense;
}

}  // namespace heed::detail
