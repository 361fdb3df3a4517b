#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <vector>

#include <Eigen/Core>

#include "heed/approx/tc_attention.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/exact/reference.hpp"
#include "support/inputs.hpp"
#include "support/method_case.hpp"
#include "support/option_kinds.hpp"
#include "support/plain_tree.hpp"

namespace heed::test {

/// TC-attention and what it costs, from its definition in plain loops: for every query and level, the keys that the
/// mask keeps and whose leaf lies below the node of that level on the query's path.
class PlainTc {
 public:
  template <class S>
  PlainTc(const TcAttention<S>& tc, const Inputs<double>& in, const AttentionOptions& options)
      : in_(in),
        options_(options),
        by_query_(tc.options().by_query),
        logits_(tc.level_logits().template cast<double>()),
        seen_(keys_seen(options.mask, in.q.rows(), in.k.rows())),
        tree_(tc.tree(), in.k, seen_),
        of_query_(tree_.leaves(in.q, false)),
        of_key_(tree_.leaves(in.k, true)) {}

  /// Keys of the node of `level` that query i sees: level 0 holds all, the last one the leaf.
  std::vector<Index> keys(Index i, Index level) const {
    const Index leaves_below = Index(1) << (tree_.height() - level);
    std::vector<Index> some;
    for (Index j = 0; j < in_.k.rows(); ++j) {
      const bool together = of_key_(j) / leaves_below == of_query_(i) / leaves_below;
      if (together && kept(i, j)) some.push_back(j);
    }
    return some;
  }
  bool is_on(Index level) const { return !heed::detail::is_minus_infinity(logits_(level)); }

  Matrix<double> out() const {
    const Index d = in_.q.cols();
    const double scale = options_.scale.value_or(1.0 / std::sqrt(static_cast<double>(d)));
    Matrix<double> out = Matrix<double>::Zero(in_.q.rows(), in_.v.cols());
    for (Index i = 0; i < out.rows(); ++i) {
      std::vector<double> scores;
      std::vector<Eigen::RowVectorXd> means;
      for (Index t = 0; t <= tree_.height(); ++t) {
        const std::vector<Index> node = keys(i, t);
        if (node.empty() || !is_on(t)) continue;
        const double n = static_cast<double>(node.size());
        Eigen::RowVectorXd mean_k = Eigen::RowVectorXd::Zero(d), mean_v = Eigen::RowVectorXd::Zero(in_.v.cols());
        for (const Index j : node) {
          mean_k += in_.k.row(j) / n;
          mean_v += in_.v.row(j) / n;
        }
        scores.push_back(logits_(t) + (by_query_ ? std::log(n) + scale * in_.q.row(i).dot(mean_k) : 0.0));
        means.push_back(mean_v);
      }
      if (scores.empty()) continue;
      const double top = *std::max_element(scores.begin(), scores.end());
      double sum = 0;
      for (std::size_t t = 0; t < scores.size(); ++t) {
        sum += std::exp(scores[t] - top);
        out.row(i) += std::exp(scores[t] - top) * means[t];
      }
      out.row(i) /= sum;
    }
    return out;
  }

  /// Counts what the definition asks for, once each. Sums: a row added to a leaf for every key that some query sees,
  /// and two nodes added for each inner node of a sequence with queries; under a causal mask they run along, a row to
  /// every node of the key's path. Rows of out: a multiply-add a level and value, once for all queries of a leaf in a
  /// sequence, or for each query where sums run along or queries weigh the levels. Levels count where they are on and
  /// hold a key the query sees. By query, keys as well as values are summed, and a product a level taken.
  FlopCounter flops() const {
    const bool causal = options_.mask.causal != Causal::none;
    const auto& offsets = options_.mask.sequence_offsets;
    const Index n_q = in_.q.rows();
    double added = 0, read = 0;
    for (const bool seen : seen_) added += !seen ? 0 : causal ? static_cast<double>(tree_.height() + 1) : 1;
    for (Index first = 0, end = 0; first < n_q; first = end) {
      end = n_q;
      for (const Index offset : offsets) {
        if (offset > first) end = std::min(end, offset);
      }
      for (Index node = 1; node < tree_.n_leaves() && !causal; ++node) ++added;
      std::vector<bool> done(static_cast<std::size_t>(tree_.n_leaves()), false);
      for (Index i = first; i < end; ++i) {
        if (done[static_cast<std::size_t>(of_query_(i))] && !causal && !by_query_) continue;
        done[static_cast<std::size_t>(of_query_(i))] = true;
        for (Index t = 0; t <= tree_.height(); ++t) read += is_on(t) && !keys(i, t).empty();
      }
    }
    FlopCounter flops;
    for (Index i = 0; i < n_q; ++i) flops.add_products(Phase::route, tree_.route_flops(false));
    const Index n_real = real_keys_of(options_.mask, in_.k.rows());
    for (Index j = 0; j < present_keys_of(options_.mask, in_.k.rows()); ++j)
      flops.add_products(Phase::route, tree_.route_flops(true));
    flops.add_products(Phase::values, (added + 2.0 * read) * static_cast<double>(in_.v.cols()));
    if (by_query_) flops.add_products(Phase::scores, (added + 2.0 * read) * static_cast<double>(in_.k.cols()));
    flops.add_exponentials(read);
    flops.add_tokens(static_cast<double>(n_real), static_cast<double>(in_.k.rows()));
    return flops;
  }

  /// Of the gradient without that of routing. Sums as above, then sequence by sequence where its queries see keys: as
  /// above, `read` levels of paths, each a product with d_out and a row added to what its node hears; by query three
  /// more with keys or queries. What nodes hear goes down to the keys: a row for each of two children, then one a key;
  /// under a causal mask, every level's row to every key. A row of d_out is first added to that of its leaf, where that
  /// stands for all its queries. Causal sums of keys by query run twice.
  FlopCounter backward_flops() const {
    const bool causal = options_.mask.causal != Causal::none;
    const auto& offsets = options_.mask.sequence_offsets;
    const double levels = static_cast<double>(tree_.height() + 1), inner = static_cast<double>(tree_.n_leaves() - 1);
    double added = 0, keys_added = 0, read = 0;
    for (Index first = 0, end = 0; first < in_.q.rows(); first = end) {
      end = in_.q.rows();
      for (const Index offset : offsets) {
        if (offset > first) end = std::min(end, offset);
      }
      double n_keys = 0;
      for (Index j = 0; j < in_.k.rows(); ++j) {
        bool seen = false;
        for (Index i = first; i < end; ++i) seen = seen || kept(i, j);
        n_keys += seen;
      }
      if (n_keys == 0) continue;
      added += causal ? 2 * levels * n_keys : 2 * n_keys + 3 * inner;
      keys_added += causal ? 3 * levels * n_keys : 2 * n_keys + 3 * inner;
      if (!causal && !by_query_) added += static_cast<double>(end - first);
      std::vector<bool> done(static_cast<std::size_t>(tree_.n_leaves()), false);
      for (Index i = first; i < end; ++i) {
        if (done[static_cast<std::size_t>(of_query_(i))] && !causal && !by_query_) continue;
        done[static_cast<std::size_t>(of_query_(i))] = true;
        for (Index t = 0; t <= tree_.height(); ++t) read += is_on(t) && !keys(i, t).empty();
      }
    }
    FlopCounter flops;
    flops.add_products(Phase::backward_values, (added + 4.0 * read) * static_cast<double>(in_.v.cols()));
    if (by_query_)
      flops.add_products(Phase::backward_scores, (keys_added + 6.0 * read) * static_cast<double>(in_.k.cols()));
    flops.add_exponentials(read);
    return flops;
  }

 private:
  bool kept(Index i, Index j) const {
    return heed::detail::reference_pair(options_.mask, i, j, in_.q.rows(), in_.k.rows(), 0).kept;
  }

  const Inputs<double>& in_;
  const AttentionOptions& options_;
  bool by_query_;
  Vector<double> logits_;
  std::vector<bool> seen_;
  PlainTree tree_;
  Vector<Index> of_query_, of_key_;
};

template <class S>
AttentionResult<double> tc_formula(const TcAttention<S>& tc, const Inputs<S>& in, const AttentionOptions& options) {
  const Inputs<double> exact = in.template cast<double>();
  return {PlainTc(tc, exact, options).out(), Vector<double>::Zero(in.q.rows())};
}

/// Arithmetic of one head; `tc`: the method for sizes.in.
inline FlopCounter tc_flops(const FlopCase& sizes, const TcAttention<double>& tc) {
  return PlainTc(tc, sizes.in, sizes.options).flops();
}

inline FlopCounter tc_backward_flops(const FlopCase& sizes, const TcAttention<double>& tc) {
  return PlainTc(tc, sizes.in, sizes.options).backward_flops();
}

/// Options by name that TC-attention has.
inline bool tc_supports(std::string_view option) {
  for (const std::string_view refused : {"window", "window_left", "window_right", "allowed", "bias", "masking_bias",
                                         "allowed_row", "bias_row", "alibi", "softcap", "sink", "large_sink"}) {
    if (option == refused) return false;
  }
  return true;
}

}  // namespace heed::test
