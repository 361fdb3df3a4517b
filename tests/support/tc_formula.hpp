#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include <Eigen/Core>

#include "heed/approx/tc_attention.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"

namespace heed::test {

/// The formula in plain loops, a query and a level at a time.
template <class S>
AttentionResult<double> tc_formula(const TcAttention<S>& tc, const Inputs<S>& in, const AttentionOptions& options) {
  const Index n_q = in.q.rows(), n_k = in.k.rows(), d = in.q.cols();
  const Vector<Index> of_query = tc.tree().leaf_of(in.q), of_key = tc.tree().leaf_of_keys(in.k);
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d)));
  AttentionResult<double> result{Matrix<double>::Zero(n_q, in.v.cols()), Vector<double>::Zero(n_q)};
  for (Index i = 0; i < n_q; ++i) {
    std::vector<double> logits;
    std::vector<Eigen::RowVectorXd> means;
    for (Index t = 0; t <= tc.tree().height(); ++t) {
      const Index above = tc.tree().height() - t;
      double n = 0;
      Eigen::RowVectorXd k = Eigen::RowVectorXd::Zero(d), v = Eigen::RowVectorXd::Zero(in.v.cols());
      for (Index j = 0; j < n_k; ++j) {
        if (of_key(j) >> above != of_query(i) >> above) continue;
        if (!heed::detail::reference_pair(options.mask, i, j, n_q, n_k, 0).kept) continue;
        n += 1;
        k += in.k.row(j).template cast<double>();
        v += in.v.row(j).template cast<double>();
      }
      if (n == 0) continue;
      const double product = in.q.row(i).template cast<double>().dot(k) / n;
      logits.push_back(static_cast<double>(tc.level_logits()(t)) +
                       (tc.options().by_query ? std::log(n) + scale * product : 0.0));
      means.push_back(v / n);
    }
    if (means.empty()) continue;
    const double top = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (std::size_t t = 0; t < means.size(); ++t) {
      sum += std::exp(logits[t] - top);
      result.out.row(i) += std::exp(logits[t] - top) * means[t];
    }
    result.out.row(i) /= sum;
  }
  return result;
}
}  // namespace heed::test
