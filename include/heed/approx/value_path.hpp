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

/// True where sampling a head is estimated to take longer than multiplying it exactly. Times are in multiply-adds of the dense product,
/// measured (bench/mca_bench): a sampled multiply-add costs more than a dense one, a token something to begin, and a choice of products
/// so much per input feature. A table and not a clock, so that every run takes the same path.
inline bool sampling_is_slower(const MonteCarloOptions& options, const SamplingWork& work) {
  const double d_in = static_cast<double>(work.d_in), d_v = static_cast<double>(work.d_v);
  const double dense = static_cast<double>(work.n_tokens) * d_in * d_v;
  // Calls of a few tens of microseconds: no clock tells the two apart.
  if (dense * static_cast<double>(work.n_heads) < 5e6) return false;
  double per_sample = 0, per_feature = 0, per_token = 2000;  // multiply-adds
  switch (options.estimator) {
    case Estimator::with_replacement: per_sample = 1.4 * d_v + 25; break;
    case Estimator::largest: per_sample = 1.6 * d_v, per_feature = 20; break;
    case Estimator::without_replacement: per_sample = 1.6 * d_v, per_feature = 200; break;
    case Estimator::product_weighted: per_sample = 1.6 * d_v + 1400, per_feature = 100; break;
  }
  const double sampled = static_cast<double>(work.n_sampled) * (per_token + per_feature * d_in) +
                         work.samples * per_sample + static_cast<double>(work.n_exact) * d_in * d_v * 1.2;
  return sampled > dense;
}

}  // namespace heed::detail
