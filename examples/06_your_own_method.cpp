// A method of your own, whole: a skeleton to copy into include/heed/approx/<name>_attention.hpp. Ask first what it is:
// a new choice of pairs is a pattern (04_your_own_pattern), a new way to make values is a value source
// (07_your_own_values), and what is neither, as here, is a method.
//
// This one weighs pairs by the square of positive scores, where softmax attention takes their exponential.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <string>

#include <Eigen/Core>

#include <heed/heed.hpp>

using heed::Index;

/// out_i = sum_j w_ij v_j / sum_j w_ij, w_ij = max(0, scale q_i . k_j)^2, over the keys that query i sees. There is no
/// softmax: lse is empty.
///
/// Shapes  as attend.
/// Empty   a query that sees no key with a positive score gets out = 0.
/// Errors  as attend; OptionError for any mask but padding and Causal, and for softcap and sinks.
/// Cost    2 (d + d_v) flops a pair that is seen, backward 2 (3 d + 2 d_v); memory a row of weights.
/// Threads const and re-entrant; runs on the caller's thread.
/// Source  the weights of Hua, Dai, Liu, Le 2022, "Transformer quality in linear time", section 2.2, made to add up to
///         1.
class SquaredReluAttention {
 public:
  static constexpr bool has_softmax = false;

  /// What it cannot mean it refuses, before anything is written; of several methods all are asked before the first
  /// runs.
  void check_heads(const heed::CallShape& heads, const heed::AttentionOptions& options) const {
    const Index n = heads.n_q + heads.n_k;
    const heed::Mask& mask = options.mask;
    const auto refuse = [](bool given, const std::string& name) {
      if (given) throw heed::OptionError("heed: " + name + " must not be given to SquaredReluAttention");
    };
    refuse(mask.allowed.given(), "Mask::allowed");
    refuse(mask.bias.given(), "Mask::bias");
    refuse(mask.alibi_slope.given(), "Mask::alibi_slope");
    refuse(mask.window_left < n || mask.window_right < n, "Mask::window_left or window_right");
    refuse(!mask.sequence_offsets.empty(), "Mask::sequence_offsets");
    refuse(options.softcap.has_value() || options.sinks.given(), "AttentionOptions::softcap or sinks");
  }

  /// The one function of every method. Shapes, masks and outputs have been checked, and each `heads_per_kv` calls in a
  /// row share their keys and values.
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index /*heads_per_kv*/, const heed::AttentionOptions& options,
                    const heed::Context& context) const {
    using T = typename Call::Sum;
    heed::Vector<T> sum;
    for (const Call& call : calls) {
      for_each_query(call, options, [&](Index i, const heed::Vector<T>& s, T total) {
        sum.setZero(call.v.cols);
        for (Index j = 0; j < s.size(); ++j)
          for (Index c = 0; c < sum.size(); ++c) sum(c) += s(j) * s(j) * static_cast<T>(call.v(j, c));
        for (Index c = 0; c < sum.size(); ++c)
          call.out(i, c) = static_cast<typename Call::Out>(total > 0 ? sum(c) / total : T(0));
      });
    }
    count(calls, options, context, heed::Phase::scores, 2, heed::Phase::values, 2);
  }

  /// Its gradient, which makes it one to train with: d_w_ij = (d_out_i . v_j - d_out_i . out_i) / sum_j w_ij, through
  /// the square and the scale to d_q and d_k. It adds to sums that heads with the same keys share.
  template <class Call, class Gradients>
  void attend_heads_backward(std::span<const Call> calls, Index /*heads_per_kv*/, const heed::AttentionOptions& options,
                             const heed::BackwardOptions&, Gradients&, const heed::Context& context) const {
    using T = typename Call::Sum;
    for (const Call& call : calls) {
      for_each_query(call, options, [&](Index i, const heed::Vector<T>& s, T total) {
        for (Index j = 0; total > 0 && j < s.size(); ++j) {
          T d_weight = -call.mean[i];  // d_out_i . out_i
          for (Index c = 0; c < call.v.cols; ++c) {
            d_weight += static_cast<T>(call.d_out(i, c)) * static_cast<T>(call.v(j, c));
            call.d_v(j, c) += s(j) * s(j) / total * static_cast<T>(call.d_out(i, c));
          }
          const T d_product = d_weight / total * 2 * s(j) * scale_of(call, options);
          for (Index c = 0; c < call.k.cols; ++c) {
            call.d_q(i, c) += d_product * static_cast<T>(call.k(j, c));
            call.d_k(j, c) += d_product * static_cast<T>(call.q(i, c));
          }
        }
      });
    }
    count(calls, options, context, heed::Phase::backward_scores, 6, heed::Phase::backward_values, 4);
  }

 private:
  template <class Call>
  static Index keys_seen(const Call& call, const heed::Mask& mask, Index i) {
    const Index n_real = std::min(call.k.rows, mask.n_real_keys);
    const Index shift = mask.causal == heed::Causal::bottom_right ? call.k.rows - call.q.rows : 0;
    return mask.causal == heed::Causal::none ? n_real : std::clamp<Index>(i + shift + 1, 0, n_real);
  }
  template <class Call>
  static auto scale_of(const Call& call, const heed::AttentionOptions& options) {
    return static_cast<typename Call::Sum>(options.scale.value_or(1 / std::sqrt(static_cast<double>(call.k.cols))));
  }

  // Calls visit(i, positive part of the scores of the keys it sees, sum of their squares).
  template <class Call, class Visit>
  static void for_each_query(const Call& call, const heed::AttentionOptions& options, const Visit& visit) {
    using T = typename Call::Sum;
    heed::Vector<T> s;
    for (Index i = 0; i < call.q.rows; ++i) {
      s.setZero(keys_seen(call, options.mask, i));
      for (Index j = 0; j < s.size(); ++j) {
        for (Index c = 0; c < call.k.cols; ++c) s(j) += static_cast<T>(call.q(i, c)) * static_cast<T>(call.k(j, c));
        s(j) = std::max(s(j) * scale_of(call, options), T(0));
      }
      visit(i, s, s.squaredNorm());
    }
  }

  // `a` flops an entry of a key and `b` an entry of a value, for each pair that is seen.
  template <class Call>
  static void count(std::span<const Call> calls, const heed::AttentionOptions& options, const heed::Context& context,
                    heed::Phase of_keys, double a, heed::Phase of_values, double b) {
    for (const Call& call : calls) {
      if (context.flops == nullptr) return;
      double pairs = 0;
      for (Index i = 0; i < call.q.rows; ++i) pairs += static_cast<double>(keys_seen(call, options.mask, i));
      context.flops->add_products(of_keys, a * pairs * static_cast<double>(call.k.cols));
      context.flops->add_products(of_values, b * pairs * static_cast<double>(call.v.cols));
      context.flops->add_tokens(static_cast<double>(std::min(call.k.rows, options.mask.n_real_keys)),
                                static_cast<double>(call.k.rows));
    }
  }
};

int main() {
  const Index n = 100, d = 16, n_heads = 4, n_kv_heads = 2;
  Eigen::MatrixXd q = Eigen::MatrixXd::Random(n, n_heads * d), k = Eigen::MatrixXd::Random(n, n_kv_heads * d),
                  v = Eigen::MatrixXd::Random(n, n_kv_heads * d);
  const heed::HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv_heads};
  const heed::AttentionOptions options{.mask = {.causal = heed::Causal::square, .n_real_keys = 90}};
  const SquaredReluAttention method;

  // It goes wherever a method goes, forward and backward.
  const auto r = heed::multi_head_attend(q, k, v, heads, options, method);
  const Eigen::MatrixXd d_out = Eigen::MatrixXd::Random(n, n_heads * d);
  const auto grads = heed::multi_head_attend_backward(d_out, q, k, v, r, heads, options, method);

  // Each gradient is what a small step of its entry does to the loss.
  const auto loss = [&] {
    return heed::multi_head_attend(q, k, v, heads, options, method).out.cwiseProduct(d_out).sum();
  };
  double worst = 0;
  const auto compare = [&](Eigen::MatrixXd& x, const heed::Matrix<double>& gradient) {
    for (Index t = 0; t < 20; ++t) {
      double& entry = x(t * 7 % n, t * 5 % x.cols());
      const double before = entry, step = 1e-6;
      entry = before + step;
      const double up = loss();
      entry = before - step;
      const double down = loss();
      entry = before;
      worst = std::max(worst, std::abs((up - down) / (2 * step) - gradient(t * 7 % n, t * 5 % x.cols())));
    }
  };
  compare(q, grads.d_q);
  compare(k, grads.d_k);
  compare(v, grads.d_v);
  std::printf("squared ReLU attention: gradients are off by %.1e from finite differences\n", worst);

  // It refuses what it cannot do, and says why.
  try {
    heed::multi_head_attend(q, k, v, heads, {.mask = {.window_left = 8}}, method);
    return 1;
  } catch (const heed::OptionError& error) {
    std::printf("%s\n", error.what());
  }
  return worst < 1e-6 ? 0 : 1;
}
