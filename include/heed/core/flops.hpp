#pragma once
#include <array>
#include <cstddef>

#include "heed/core/types.hpp"

namespace heed {

/// What a product was spent on.
enum class Phase { route, project, sample, scores, values, far_field, backward_scores, backward_values };

/// Counts the arithmetic of calls: products at 2 per multiply-add, kept pairs only, by phase; exponentials apart (one
/// per kept pair). Real and padded key positions are both counted, so that no ratio hides padding.
/// Counts add up over calls until reset(). Threads: one counter per concurrent call.
class FlopCounter {
 public:
  double products() const {
    double sum = 0.0;
    for (const double part : products_) sum += part;
    return sum;
  }
  double products(Phase phase) const { return products_[static_cast<std::size_t>(phase)]; }
  double exponentials() const { return exponentials_; }
  /// Key positions that are tokens, and all key positions with padding, summed over heads.
  double real_tokens() const { return real_tokens_; }
  double padded_tokens() const { return padded_tokens_; }
  /// Value rows made during calls, summed over key heads: from samples, and by the exact product (asked for, or because
  /// sampling would not have been faster).
  double sampled_rows() const { return sampled_rows_; }
  double projected_rows() const { return projected_rows_; }

  void add_products(Phase phase, double count) { products_[static_cast<std::size_t>(phase)] += count; }
  void add_exponentials(double count) { exponentials_ += count; }
  void add_tokens(double real, double padded) {
    real_tokens_ += real;
    padded_tokens_ += padded;
  }
  void add_value_rows(double sampled, double projected) {
    sampled_rows_ += sampled;
    projected_rows_ += projected;
  }
  /// Adds what another has counted.
  FlopCounter& operator+=(const FlopCounter& other) {
    for (std::size_t phase = 0; phase < products_.size(); ++phase) products_[phase] += other.products_[phase];
    exponentials_ += other.exponentials_;
    add_tokens(other.real_tokens_, other.padded_tokens_);
    add_value_rows(other.sampled_rows_, other.projected_rows_);
    return *this;
  }
  void reset() { *this = FlopCounter(); }

 private:
  std::array<double, 8> products_{};
  double exponentials_ = 0.0;
  double real_tokens_ = 0.0;
  double padded_tokens_ = 0.0;
  double sampled_rows_ = 0.0;
  double projected_rows_ = 0.0;
};

}  // namespace heed
