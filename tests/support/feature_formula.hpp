#pragma once
#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include <Eigen/Core>

#include "heed/core/flops.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/method_case.hpp"

namespace heed::test {

/// Kernel feature attention in plain loops over pairs and features, forward and backward: the weight of a pair is
/// sum_f phi(q_i)_f phi(k_j)_f, kept as logarithms of features so that tokens of any size can be judged.
class FeatureFormula {
 public:
  /// Performer: w holds a feature a row.
  FeatureFormula(const Inputs<double>& in, const AttentionOptions& options, const Matrix<double>& w)
      : in_(in), options_(options), w_(w) {
    const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(in.k.cols())));
    q_factor_ = std::sqrt(std::abs(scale));
    k_factor_ = scale < 0 ? -q_factor_ : q_factor_;
    log_q_ = logs(in.q, q_factor_);
    log_k_ = logs(in.k, k_factor_);
    make_weights();
  }
  /// Linear attention.
  FeatureFormula(const Inputs<double>& in, const AttentionOptions& options) : in_(in), options_(options) {
    const auto log_phi = [](double x) { return x > 0 ? std::log1p(x) : x; };
    log_q_ = in.q.unaryExpr(log_phi);
    log_k_ = in.k.unaryExpr(log_phi);
    make_weights();
  }

  bool kept(Index i, Index j) const {
    return heed::detail::reference_pair(options_.mask, i, j, in_.q.rows(), in_.k.rows(), 0).kept;
  }

  Matrix<double> out() const {
    Matrix<double> out = Matrix<double>::Zero(in_.q.rows(), in_.v.cols());
    for (Index i = 0; i < out.rows(); ++i) {
      for (Index j = 0; j < in_.k.rows(); ++j) {
        if (kept(i, j)) out.row(i) += weights_(i, j) * in_.v.row(j);
      }
    }
    return out;
  }

  struct Gradients {
    Matrix<double> d_q, d_k, d_v;
  };
  Gradients backward(const Matrix<double>& d_out) const {
    const Matrix<double> answers = out();
    const Index size = log_q_.cols();
    Matrix<double> d_log_q = Matrix<double>::Zero(in_.q.rows(), size),
                   d_log_k = Matrix<double>::Zero(in_.k.rows(), size);
    Gradients grads{Matrix<double>::Zero(in_.q.rows(), in_.q.cols()), Matrix<double>::Zero(in_.k.rows(), in_.k.cols()),
                    Matrix<double>::Zero(in_.v.rows(), in_.v.cols())};
    for (Index i = 0; i < in_.q.rows(); ++i) {
      for (Index j = 0; j < in_.k.rows(); ++j) {
        if (!kept(i, j)) continue;
        grads.d_v.row(j) += weights_(i, j) * d_out.row(i);
        const double by_weight = d_out.row(i).dot(in_.v.row(j) - answers.row(i));
        for (Index f = 0; f < size; ++f) {
          const double share =
              std::exp(log_q_(i, f) + log_k_(j, f) - log_total_[static_cast<std::size_t>(i)]) * by_weight;
          d_log_q(i, f) += share;
          d_log_k(j, f) += share;
        }
      }
    }
    pull_back(in_.q, q_factor_, d_log_q, grads.d_q);
    pull_back(in_.k, k_factor_, d_log_k, grads.d_k);
    return grads;
  }

 private:
  Matrix<double> logs(const Matrix<double>& tokens, double factor) const {
    Matrix<double> logs(tokens.rows(), w_.rows());
    for (Index i = 0; i < tokens.rows(); ++i) {
      for (Index f = 0; f < w_.rows(); ++f)
        logs(i, f) = factor * tokens.row(i).dot(w_.row(f)) - factor * factor * tokens.row(i).squaredNorm() / 2;
    }
    return logs;
  }

  void make_weights() {
    weights_ = Matrix<double>::Zero(in_.q.rows(), in_.k.rows());
    log_total_.assign(static_cast<std::size_t>(in_.q.rows()), 0.0);
    for (Index i = 0; i < in_.q.rows(); ++i) {
      double top = -HUGE_VAL, sum = 0;
      for (Index j = 0; j < in_.k.rows(); ++j) {
        if (kept(i, j)) top = std::max(top, (log_q_.row(i) + log_k_.row(j)).maxCoeff());
      }
      for (Index j = 0; j < in_.k.rows(); ++j) {
        if (kept(i, j)) sum += weights_(i, j) = (log_q_.row(i) + log_k_.row(j)).array().operator-(top).exp().sum();
      }
      if (sum > 0) weights_.row(i) /= sum;
      log_total_[static_cast<std::size_t>(i)] = top + std::log(sum);
    }
  }

  void pull_back(const Matrix<double>& tokens, double factor, const Matrix<double>& d_log, Matrix<double>& to) const {
    for (Index i = 0; i < tokens.rows(); ++i) {
      for (Index f = 0; f < d_log.cols(); ++f) {
        if (w_.rows() > 0) {
          to.row(i) += factor * d_log(i, f) * (w_.row(f) - factor * tokens.row(i));
        } else {
          to(i, f) = d_log(i, f) * (tokens(i, f) > 0 ? 1 / (1 + tokens(i, f)) : 1.0);
        }
      }
    }
  }

  Inputs<double> in_;
  AttentionOptions options_;
  Matrix<double> w_;
  double q_factor_ = 1, k_factor_ = 1;
  Matrix<double> log_q_, log_k_, weights_;
  std::vector<double> log_total_;
};

/// Keys that some query sees, and queries that see a key, by the masks.
struct SeenTokens {
  double keys = 0, queries = 0;
};
inline SeenTokens seen_tokens(const FlopCase& sizes) {
  const auto kept = [&](Index i, Index j) {
    return heed::detail::reference_pair(sizes.options.mask, i, j, sizes.n_q, sizes.n_k, 0).kept;
  };
  SeenTokens seen;
  for (Index i = 0; i < sizes.n_q; ++i) {
    bool sees = false;
    for (Index j = 0; j < sizes.n_k && !sees; ++j) sees = kept(i, j);
    seen.queries += sees ? 1 : 0;
  }
  for (Index j = 0; j < sizes.n_k; ++j) {
    bool is_seen = false;
    for (Index i = 0; i < sizes.n_q && !is_seen; ++i) is_seen = kept(i, j);
    seen.keys += is_seen ? 1 : 0;
  }
  return seen;
}

/// What running sums over `size` features cost: for each key that some query sees and each query that sees one.
inline FlopCounter feature_flops(const FlopCase& sizes, double size, double products_a_token) {
  const SeenTokens seen = seen_tokens(sizes);
  const double tokens = seen.queries + seen.keys;
  FlopCounter flops;
  flops.add_products(Phase::values, 2 * tokens * size * static_cast<double>(sizes.d_v));
  flops.add_products(Phase::scores, tokens * (2 * size + products_a_token));
  flops.add_exponentials(tokens * size);
  flops.add_tokens(sizes.real_keys, static_cast<double>(sizes.n_k));
  return flops;
}
/// Backwards: features, sums over keys and denominators again, and from features to tokens; then, with rows of d_v + 1,
/// the gradients of features, sums over queries, and d_v.
inline FlopCounter feature_backward_flops(const FlopCase& sizes, double size, double products_a_token) {
  const SeenTokens seen = seen_tokens(sizes);
  const double tokens = seen.queries + seen.keys, row = 2 * size * static_cast<double>(sizes.d_v + 1);
  FlopCounter flops;
  flops.add_products(Phase::backward_scores, 2 * products_a_token * tokens + row * seen.keys + 2 * size * seen.queries);
  flops.add_products(Phase::backward_values, 2 * row * tokens);
  flops.add_exponentials(tokens * size);
  return flops;
}

/// Options by name that methods have which sum keys up.
inline bool features_support(std::string_view option) {
  for (const std::string_view refused : {"window", "window_left", "window_right", "allowed", "bias", "masking_bias",
                                         "allowed_row", "bias_row", "alibi", "softcap", "sink", "large_sink"}) {
    if (option == refused) return false;
  }
  return true;
}

}  // namespace heed::test
