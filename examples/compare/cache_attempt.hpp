#pragma once
#include <algorithm>
#include <cmath>
#include <optional>
#include <type_traits>

#include <heed/heed.hpp>

#include "method.hpp"

namespace compare {

/// Queries one by one against a cache of storage S, which holds all tokens: where the mask is causal, each sees those
/// up to its own. With a tolerance, heed::attend_within.
template <class S>
class CacheAttempt : public Attempt {
 public:
  CacheAttempt(const Head& head, const Settings& settings, std::optional<double> tolerance = std::nullopt)
      : head_(head),
        options_(settings.options),
        threads_(settings.threads),
        tolerance_(tolerance),
        cache_(head.k->cols(), head.v->cols(), 1, head.k->rows()),
        out_(head.q->rows(), head.v->cols()) {
    cache_.append(*head.k, *head.v);
  }

  void run(heed::FlopCounter* flops) override {
    bytes_ = reported_ = 0;
    double size = 0;
    const Index n_q = head_.q->rows();
    for (Index i = 0; i < n_q; ++i) {
      const heed::AttentionOptions own = options_of(i);
      const heed::Context context{.flops = flops, .workspace = &workspace_, .threads = threads_};
      if constexpr (std::is_same_v<S, heed::Int8>) {
        if (tolerance_) {
          const auto got = heed::attend_within(*tolerance_, head_.q->row(i), cache_, own, context);
          out_.row(i) = got.out;
          const double square = out_.row(i).template cast<double>().squaredNorm();
          reported_ += std::pow(got.reported(0, 0), 2) * square;
          size += square;
          bytes_ += bytes_of_scan(got.path(0, 0)) + got.visited * bytes_of_all();
          continue;
        }
      }
      heed::attend_into(out_.row(i), nullptr, head_.q->row(i), cache_, own, heed::ExactAttention{}, context);
      bytes_ += bytes_of_all();
    }
    bytes_ /= static_cast<double>(n_q);
    reported_ = size > 0 ? std::sqrt(reported_ / size) : 0;
  }
  [[nodiscard]] heed::Matrix<float> out() const override { return out_; }
  [[nodiscard]] Decoding decoding() const override { return {bytes_, reported_}; }

 private:
  heed::AttentionOptions options_of(Index i) const {
    heed::AttentionOptions own = options_;
    if (options_.mask.causal == heed::Causal::none) return own;
    const bool to_the_right = options_.mask.causal == heed::Causal::bottom_right;
    own.mask.causal = heed::Causal::top_left;
    own.mask.shift = i + (to_the_right ? head_.k->rows() - head_.q->rows() : 0);
    return own;
  }
  // Of one query that sees every key.
  double bytes_of_all() const {
    if constexpr (std::is_same_v<S, heed::Int8>) {
      const heed::detail::Int8Rows rows = cache_.tokens(0);
      const heed::Index in_pages = rows.n_pages * heed::detail::Int8Layout::keys;
      return static_cast<double>(rows.n_pages * (rows.layout.near_bytes + rows.layout.far_bytes + 2 * cache_.d()) +
                                 (cache_.size() - in_pages) * (cache_.d() + cache_.d_v()) * Index(sizeof(float)));
    } else {
      return static_cast<double>(cache_.size() * (cache_.d() + cache_.d_v())) * sizeof(S);
    }
  }
  // The upper planes, and what is kept of a page.
  double bytes_of_scan(heed::TolerancePath path) const {
    if (path != heed::TolerancePath::scan && path != heed::TolerancePath::probe) return 0;
    return static_cast<double>(cache_.size()) * (static_cast<double>(cache_.d()) / 2 + 2) +
           static_cast<double>(cache_.size()) / 32 * static_cast<double>(2 * cache_.d() + 2 * cache_.d_v() + 16);
  }

  const Head head_;
  heed::AttentionOptions options_;
  int threads_;
  std::optional<double> tolerance_;
  heed::KeyValueCache<S> cache_;
  heed::Workspace workspace_;
  heed::Matrix<float> out_;
  double bytes_ = 0, reported_ = 0;
};

}  // namespace compare
