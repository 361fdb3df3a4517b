#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "heed/core/random.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/kernels/select.hpp"
#include "heed/sampling/head_weights.hpp"
#include "heed/sampling/inclusion.hpp"
#include "heed/sampling/monte_carlo_options.hpp"
#include "heed/sampling/select_largest.hpp"

namespace heed::detail {

/// Rows are made for a block of tokens at a time, and the tokens of a group share a sequence of draws. They stand so
/// far apart that few queries look at two of them. Which tokens share depends on their positions alone.
inline constexpr Index group_tokens = 16;
inline constexpr Index block_groups = 16;
inline constexpr Index block_tokens = group_tokens * block_groups;

/// Where member `lane` of a group stands in its block: 15 or 31 tokens after the one before. At 16 apart the rows of a
/// group would compete for the same cache lines.
inline constexpr Index group_member(Index group, Index lane) {
  return lane * block_groups + (group + block_groups - lane) % block_groups;
}

/// The random stream of a head and a token, or of a head and the group that shares draws.
inline std::uint64_t draw_stream(Index head, Index token) {
  return static_cast<std::uint64_t>(head) << 40 | static_cast<std::uint64_t>(token);
}

/// A token whose value row is sampled. Entry k of its row is y[k * stride]: the rows of tokens that share draws are
/// interleaved, so that a draw finds its entry of each of them on one cache line.
template <class T>
struct EncodeToken {
  Index token = 0;
  Index samples = 0;
  const T* y = nullptr;  ///< row of x, less the mean row where centred
  T* to = nullptr;       ///< the value row, d_v entries
  T floor = 0;           ///< the least size that is taken, where a plan knows it; 0: unknown
};

/// Makes value rows base + (estimate of y W) for tokens of one head. Each thread owns one.
template <class T>
class RowEncoder {
 public:
  RowEncoder(Scratch& scratch, Index d_in, Index d_v, Isa isa)
      : kernels_(project_kernels<T>(isa)), selector_(kernels_), d_in_(d_in) {
    const Index lanes = kernels_.lanes;
    row_ = (d_in + lanes - 1) / lanes * lanes;
    padded_ = (d_v + lanes - 1) / lanes * lanes;
    sums_ = scratch.take<T>(batch * padded_);
    y_ = scratch.take<T>(block_tokens * row_);
    chosen_y_ = scratch.take<const T*>(block_tokens);
    factor_ = scratch.take<T>(block_tokens);
    size_ = scratch.take<T>(row_);
    pi_ = scratch.take<T>(row_);
    cumulated_ = scratch.take<double>(row_);
    ends_ = scratch.take<Index>(block_tokens * n_bands());
    lists_ = scratch.take<std::int32_t>(block_tokens * (row_ + lanes));
  }

  /// Makes the rows of a group of at most group_tokens that shares one sequence of draws, and reorders the group. Each
  /// token has 0 < samples < d_in, and its row starts from base_of(token).
  template <class BaseOf>
  void with_replacement(const HeadWeights<T>& weights, std::span<EncodeToken<T>> group, Index stride,
                        std::uint64_t seed, std::uint64_t stream, const BaseOf& base_of) {
    const auto n = static_cast<Index>(group.size());
    if (n == 0) return;
    for (Index t = 1; t < n; ++t) {  // most samples first, so that those still drawing are the first ones
      for (Index u = t; u > 0 && at(group, u).samples > at(group, u - 1).samples; --u)
        std::swap(at(group, u), at(group, u - 1));
    }
    const Index most = at(group, 0).samples;
    for (const EncodeToken<T>& token : group) {  // these lines are written long after they are asked for here
      for (Index c = 0; c < weights.d_v; c += kernels_.lanes) __builtin_prefetch(token.to + c, 1);
    }
    draws(weights, most, seed, stream);
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
        kernels_.encode(weights.rows, padded_, lists_ + done, until - done, y, stride, active, padded_, out);
        done = until;
      }
    }
    for (Index t = 0; t < n; ++t) {
      const EncodeToken<T>& token = at(group, t);
      kernels_.finish_row(weights.d_v, sums_ + t * padded_, T(1) / static_cast<T>(token.samples), base_of(token.token),
                          token.to);
    }
  }

  /// Chooses rows of W for at most block_tokens tokens, 0 < samples < d_in, by |y_k| norms_k; contiguous rows y.
  void choose(Estimator estimator, const T* norms, std::span<const EncodeToken<T>> tokens, std::uint64_t seed,
              std::uint64_t stream) {
    for (std::size_t s = 0; s < tokens.size(); ++s) {
      const EncodeToken<T>& token = tokens[s];
      const auto t = static_cast<Index>(s);
      Index* ends = ends_ + t * n_bands();
      chosen_y_[t] = token.y;
      factor_[t] = 1;
      const T sum = kernels_.products(d_in_, token.y, norms, size_);
      if (estimator == Estimator::largest) {
        selector_.select(d_in_, size_, sum, token.samples, token.floor, band_rows(), list_of(t), ends);
        continue;
      }
      CounterRng random(seed, stream + static_cast<std::uint64_t>(token.token));
      T* own = y_ + t * row_;
      std::copy(token.y, token.y + d_in_, own);
      chosen_y_[t] = own;
      Index taken = 0;
      if (estimator == Estimator::without_replacement) {
        taken = choose_different(token.samples, random.uniform(), own, list_of(t));
      } else {
        factor_[t] = sum / static_cast<T>(token.samples);
        taken = draw_by_product(token.samples, random, own, list_of(t));
      }
      LargestSelector<T>::mark_ends(list_of(t), taken, d_in_, band_rows(), ends);
    }
  }

  /// Makes the rows of the tokens that `choose` was given, in the same order: a few tokens at a time, and a band of
  /// rows of W after the other, so that a band stays in the nearest cache.
  template <class BaseOf>
  void encode_chosen(const HeadWeights<T>& weights, std::span<const EncodeToken<T>> tokens, const BaseOf& base_of) {
    const auto n = static_cast<Index>(tokens.size());
    for (Index first = 0; first < n; first += batch) {
      const Index last = std::min(n, first + batch);
      std::fill(sums_, sums_ + (last - first) * padded_, T(0));
      for (Index b = 0; b < n_bands(); ++b) {
        for (Index t = first; t < last; ++t) {
          const Index* ends = ends_ + t * n_bands() + b;
          const Index from = b == 0 ? 0 : ends[-1];
          if (*ends == from) continue;
          T* out[1] = {sums_ + (t - first) * padded_};
          kernels_.encode(weights.rows, padded_, list_of(t) + from, *ends - from, chosen_y_ + t, 1, 1, padded_, out);
        }
      }
      for (Index t = first; t < last; ++t) {
        const EncodeToken<T>& token = tokens[static_cast<std::size_t>(t)];
        kernels_.finish_row(weights.d_v, sums_ + (t - first) * padded_, factor_[t], base_of(token.token), token.to);
      }
    }
  }

  /// Calls visit(k, share) for each product that a token takes, chosen as `choose` does: its row is its base and the
  /// sum of share y_k W_k. Overwrites what `choose` chose.
  template <class Visit>
  void visit_chosen(Estimator estimator, const T* norms, const EncodeToken<T>& token, std::uint64_t seed,
                    std::uint64_t stream, const Visit& visit) {
    choose(estimator, norms, std::span<const EncodeToken<T>>(&token, 1), seed, stream);
    const std::int32_t* list = list_of(0);
    const Index taken = ends_[n_bands() - 1];
    for (Index s = 0; s < taken; ++s) {
      const Index k = list[s];
      T share = 1;
      if (estimator == Estimator::without_replacement) share = 1 / pi_[k];
      if (estimator == Estimator::product_weighted) share = size_[k] > 0 ? factor_[0] / size_[k] : T(0);
      visit(k, share);
    }
  }

  /// The first `count` draws of a sequence of with_replacement. Draws of another replace them.
  const std::int32_t* draws(const HeadWeights<T>& weights, Index count, std::uint64_t seed, std::uint64_t stream) {
    kernels_.draw(seed, stream, weights.cells, d_in_, count, lists_);  // lists_ has room for many tokens
    return lists_;
  }

 private:
  static constexpr Index batch = 24;

  static EncodeToken<T>& at(std::span<EncodeToken<T>> group, Index t) { return group[static_cast<std::size_t>(t)]; }
  std::int32_t* list_of(Index t) const { return lists_ + t * (row_ + kernels_.lanes); }

  // Horvitz-Thompson: entries are divided by their inclusion probabilities.
  Index choose_different(Index r, double u, T* y, std::int32_t* list) {
    const auto n = static_cast<std::size_t>(d_in_);
    inclusion_probabilities<T>({size_, n}, r, {pi_, n});
    const Index taken = systematic_sample<T>({pi_, n}, u, list);
    for (Index s = 0; s < taken; ++s) y[list[s]] /= pi_[list[s]];
    return taken;
  }

  // p_k = size_k / sum, so x_k W_k / p_k = sum * (x_k / size_k) W_k. The list ascends, and has an index as often as it
  // was drawn.
  Index draw_by_product(Index r, CounterRng& random, T* y, std::int32_t* list) {
    double total = 0;
    for (Index k = 0; k < d_in_; ++k) cumulated_[k] = total += static_cast<double>(size_[k]);
    if (!(total > 0)) return 0;  // every product is 0
    for (Index s = 0; s < r; ++s) {
      const double place = random.uniform() * total;
      const Index k = std::upper_bound(cumulated_, cumulated_ + d_in_, place) - cumulated_;
      list[s] = static_cast<std::int32_t>(std::min(k, d_in_ - 1));
    }
    std::sort(list, list + r);
    for (Index k = 0; k < d_in_; ++k) y[k] = size_[k] > 0 ? y[k] / size_[k] : T(0);
    return r;
  }

  // Rows of W that fill two thirds of the nearest cache, a multiple of 16. Rows of no columns count as one.
  Index band_rows() const {
    const Index row_bytes = std::max<Index>(1, padded_) * static_cast<Index>(sizeof(T));
    return std::max<Index>(16, 32768 / row_bytes / 16 * 16);
  }
  Index n_bands() const { return (d_in_ + band_rows() - 1) / band_rows(); }

  const ProjectKernels<T>& kernels_;
  LargestSelector<T> selector_;
  Index d_in_, padded_, row_;
  T *sums_, *y_, *size_, *pi_, *factor_;
  const T** chosen_y_;
  double* cumulated_;
  Index* ends_;
  std::int32_t* lists_;
};

}  // namespace heed::detail
