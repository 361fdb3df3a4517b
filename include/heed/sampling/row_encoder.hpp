#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "heed/core/random.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/kernels/select_project.hpp"
#include "heed/sampling/head_weights.hpp"
#include "heed/sampling/inclusion.hpp"
#include "heed/sampling/monte_carlo_options.hpp"
#include "heed/sampling/select_largest.hpp"

namespace heed::detail {

/// Tokens whose rows are made together. Those of one block that are `block_groups` apart share a sequence of draws: 16 at most, far
/// enough from each other that few queries look at two of them. Which tokens share depends on their positions alone.
inline constexpr Index block_tokens = 240;
inline constexpr Index block_groups = 15;
inline constexpr Index group_tokens = block_tokens / block_groups;

/// Names the draws of a head for a token, or for the group it shares them with.
inline std::uint64_t draw_stream(Index head, Index token) {
  return static_cast<std::uint64_t>(head) << 40 | static_cast<std::uint64_t>(token);
}

/// A token to encode: its row x (or x less the mean row) in whole vectors, how many samples, and where its value row goes.
template <class T>
struct EncodeToken {
  Index token = 0;
  Index samples = 0;
  const T* y = nullptr;
  T* to = nullptr;  ///< d_v entries
};

/// Makes value rows base + (estimate of y W) for tokens of one head. What one thread owns.
template <class T>
class RowEncoder {
 public:
  RowEncoder(Scratch& scratch, Index d_in, Index d_v, Isa isa)
      : kernels_(project_kernels<T>(isa)), selector_(kernels_), d_in_(d_in) {
    const Index lanes = kernels_.lanes;
    row_ = static_cast<std::size_t>((d_in + lanes - 1) / lanes * lanes);
    padded_ = (d_v + lanes - 1) / lanes * lanes;
    sums_ = scratch.take<T>(static_cast<std::size_t>(group_tokens * padded_));
    y_ = scratch.take<T>(row_);
    size_ = scratch.take<T>(row_);
    pi_ = scratch.take<T>(row_);
    cumulated_ = scratch.take<double>(row_);
    list_ = scratch.take<std::int32_t>(row_ + static_cast<std::size_t>(lanes));
  }

  /// Tokens that share one sequence, at most group_tokens; reorders them. Each has 0 < samples < d_in, and starts from the row
  /// base_of(token).
  template <class BaseOf>
  void with_replacement(const HeadWeights<T>& weights, std::span<EncodeToken<T>> group, std::uint64_t seed,
                        std::uint64_t stream, const BaseOf& base_of) {
    const auto n = static_cast<Index>(group.size());
    if (n == 0) return;
    for (Index t = 1; t < n; ++t) {  // most samples first: those still drawing are the first ones
      for (Index u = t; u > 0 && at(group, u).samples > at(group, u - 1).samples; --u)
        std::swap(at(group, u), at(group, u - 1));
    }
    CounterRng random(seed, stream);
    for (Index s = 0; s < at(group, 0).samples; ++s)
      list_[s] = static_cast<std::int32_t>(draw_cell(weights.cells, static_cast<std::size_t>(d_in_), random));
    std::fill(sums_, sums_ + n * padded_, T(0));
    for (Index first = 0; first < n; first += kernels_.max_tokens) {
      const Index count = std::min(kernels_.max_tokens, n - first);
      const T* y[group_tokens];
      T* out[group_tokens];
      for (Index t = 0; t < count; ++t) {
        y[t] = at(group, first + t).y;
        out[t] = sums_ + (first + t) * padded_;
      }
      Index done = 0;
      for (Index active = count; active > 0; --active) {  // a step of the staircase
        const Index until = at(group, first + active - 1).samples;
        if (until == done) continue;
        kernels_.encode(weights.rows, padded_, list_ + done, until - done, y, active, padded_, out);
        done = until;
      }
    }
    for (Index t = 0; t < n; ++t) {
      const EncodeToken<T>& token = at(group, t);
      kernels_.finish_row(weights.d_v, sums_ + t * padded_, T(1) / static_cast<T>(token.samples), base_of(token.token),
                          token.to);
    }
  }

  /// One token with its own choice of rows; 0 < samples < d_in.
  void own_choice(Estimator estimator, const HeadWeights<T>& weights, const EncodeToken<T>& token, std::uint64_t seed,
                  std::uint64_t stream, const T* base) {
    const Index r = token.samples;
    const T sum = kernels_.products(d_in_, token.y, weights.norms, y_, size_);
    const T* y = token.y;
    Index n = r;
    T factor = 1;
    if (estimator == Estimator::largest) {
      n = selector_.select(d_in_, size_, sum, r, list_);
    } else if (estimator == Estimator::without_replacement) {
      CounterRng random(seed, stream);
      n = choose_different(r, random.uniform());
      y = y_;
    } else {
      CounterRng random(seed, stream);
      n = draw_by_product(r, random);
      factor = sum / static_cast<T>(r);
      y = y_;
    }
    std::fill(sums_, sums_ + padded_, T(0));
    T* out[1] = {sums_};
    kernels_.encode(weights.rows, padded_, list_, n, &y, 1, padded_, out);
    kernels_.finish_row(weights.d_v, sums_, factor, base, token.to);
  }

 private:
  static EncodeToken<T>& at(std::span<EncodeToken<T>> group, Index t) { return group[static_cast<std::size_t>(t)]; }

  // Horvitz-Thompson: entries over their inclusion probabilities.
  Index choose_different(Index r, double u) {
    const auto n = static_cast<std::size_t>(d_in_);
    inclusion_probabilities<T>({size_, n}, r, {pi_, n});
    const Index taken = systematic_sample<T>({pi_, n}, u, list_);
    for (Index s = 0; s < taken; ++s) y_[list_[s]] /= pi_[list_[s]];
    return taken;
  }

  // p_k = size_k / sum: x_k W_k / p_k = sum * (x_k / size_k) W_k. An index drawn several times is listed as often.
  Index draw_by_product(Index r, CounterRng& random) {
    double total = 0;
    for (Index k = 0; k < d_in_; ++k) cumulated_[k] = total += static_cast<double>(size_[k]);
    if (!(total > 0)) return 0;  // every product is 0
    for (Index s = 0; s < r; ++s) {
      const double place = random.uniform() * total;
      const Index k = std::upper_bound(cumulated_, cumulated_ + d_in_, place) - cumulated_;
      list_[s] = static_cast<std::int32_t>(std::min(k, d_in_ - 1));
    }
    for (Index k = 0; k < d_in_; ++k) y_[k] = size_[k] > 0 ? y_[k] / size_[k] : T(0);
    return r;
  }

  const ProjectKernels<T>& kernels_;
  LargestSelector<T> selector_;
  Index d_in_, padded_;
  std::size_t row_;
  T *sums_, *y_, *size_, *pi_;
  double* cumulated_;
  std::int32_t* list_;
};

}  // namespace heed::detail
