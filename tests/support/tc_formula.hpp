#pragma once
#include <algorithm>
#include <cmath>
#include <string_view>
#include <vector>

#include <Eigen/Core>

#include "heed/approx/tc_attention.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/method_case.hpp"

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
/// Arithmetic of one head over a tree of this height.
inline FlopCounter tc_flops(const FlopCase& sizes, Index height, bool query) {
  FlopCounter flops;
  const bool causal = sizes.options.mask.causal != Causal::none;
  const auto& offsets = sizes.options.mask.sequence_offsets;
  const double levels = static_cast<double>(height + 1), leaves = static_cast<double>(Index(1) << height),
               n_q = static_cast<double>(sizes.n_q);
  const double d = static_cast<double>(sizes.d), d_v = static_cast<double>(sizes.d_v);
  const double sequences = offsets.empty() ? 1.0 : static_cast<double>(offsets.size() - 1);
  const double added = causal ? levels * sizes.real_keys : sizes.real_keys + sequences * (leaves - 1);
  const double read = levels * (causal || query ? n_q : sequences * leaves);
  flops.add_products(Phase::route, 2.0 * static_cast<double>(height) * d * (n_q + sizes.real_keys));
  flops.add_products(Phase::values, added * d_v + 2.0 * read * d_v);
  if (query) flops.add_products(Phase::scores, added * d + 2.0 * levels * n_q * d);
  flops.add_exponentials(read);
  flops.add_tokens(sizes.real_keys, static_cast<double>(sizes.n_k));
  return flops;
}
/// Options by name that TC-attention has.
inline bool tc_supports(std::string_view option) {
  for (const std::string_view refused :
       {"window", "window_left", "window_right", "allowed", "bias", "masking_bias", "alibi", "softcap", "sink"}) {
    if (option == refused) return false;
  }
  return true;
}

}  // namespace heed::test
