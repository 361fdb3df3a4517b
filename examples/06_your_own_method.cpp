// A method of your own, whole: a skeleton to copy into include/heed/approx/<name>_attention.hpp. Ask first what it is:
// a new choice of pairs is a pattern (04_your_own_pattern), a new way to make values is a value source
// (07_your_own_values), and what is neither, as here, is a method.
//
// This one is linear attention: a product of feature maps takes the place of the softmax, so that keys and values are
// summed up once.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <span>
#include <string>

#include <Eigen/Core>

#include <heed/heed.hpp>

using heed::Index;

/// out_i = phi(q_i) S_i / phi(q_i) . z_i with S_i = sum_j phi(k_j)^T v_j and z_i = sum_j phi(k_j) over the keys that
/// query i sees, phi(x) = x + 1 where x > 0, e^x elsewhere. There is no softmax: lse is empty, and the scale has no
/// effect.
///
/// Shapes  as attend.
/// Empty   a query that sees no key gets out = 0.
/// Errors  as attend; OptionError for any mask but padding and Causal, and for options that change scores.
/// Cost    2 d (d_v + 1) flops a real key and a query, d exponentials each; memory d (d_v + 1) numbers.
/// Threads const and re-entrant; runs on the caller's thread.
/// Source  Katharopoulos, Vyas, Pappas, Fleuret 2020, section 3.
class LinearAttention {
 public:
  static constexpr bool has_softmax = false;

  /// What it cannot mean it refuses, before anything is written; of several methods all are asked before the first
  /// runs.
  void check_heads(const heed::CallShape& heads, const heed::AttentionOptions& options) const {
    const Index n = heads.n_q + heads.n_k;
    const heed::Mask& mask = options.mask;
    const auto refuse = [](const std::string& name, const char* what) {
      throw heed::OptionError("heed: " + name + " must not be given to LinearAttention: " + what);
    };
    if (mask.allowed.given()) refuse("Mask::allowed", "it never sees a pair");
    if (mask.bias.given()) refuse("Mask::bias", "it never sees a pair");
    if (mask.alibi_slope.given()) refuse("Mask::alibi_slope", "it has no scores");
    if (mask.window_left < n || mask.window_right < n)
      refuse("Mask::window_left or window_right", "keys are summed and not taken back");
    if (!mask.sequence_offsets.empty()) refuse("Mask::sequence_offsets", "call it for each sequence");
    if (options.softcap || options.sinks.given()) refuse("AttentionOptions::softcap or sinks", "it has no scores");
  }

  /// The one function of every method. Shapes, masks and outputs have been checked, and each `heads_per_kv` calls in a
  /// row share their keys and values.
  template <class Call>
  void attend_heads(std::span<const Call> calls, Index /*heads_per_kv*/, const heed::AttentionOptions& options,
                    const heed::Context& context) const {
    if (calls.empty()) return;
    for (const Call& call : calls) attend_head(call, options.mask);
    if (context.flops == nullptr) return;
    const double heads = static_cast<double>(calls.size()), n_q = static_cast<double>(calls.front().q.rows),
                 n_k = static_cast<double>(calls.front().k.rows),
                 n_real = static_cast<double>(real_keys(calls.front(), options.mask)),
                 d = static_cast<double>(calls.front().k.cols), d_v = static_cast<double>(calls.front().v.cols);
    context.flops->add_products(heed::Phase::values, 2 * heads * (n_q + n_real) * d * d_v);
    context.flops->add_products(heed::Phase::scores, 2 * heads * (n_q + n_real) * d);  // z
    context.flops->add_exponentials(heads * (n_q + n_real) * d);
    context.flops->add_tokens(heads * n_real, heads * n_k);
  }

 private:
  template <class Call>
  static Index real_keys(const Call& call, const heed::Mask& mask) {
    return std::min(call.k.rows, mask.n_real_keys);
  }

  // phi of row i of a view.
  template <class View, class Vector>
  static void map_row(const View& rows, Index i, Vector& phi) {
    using T = typename Vector::Scalar;
    for (Index c = 0; c < rows.cols; ++c) {
      const T x = static_cast<T>(rows(i, c));
      phi(c) = x > 0 ? x + 1 : std::exp(x);
    }
  }

  template <class Call>
  static void attend_head(const Call& call, const heed::Mask& mask) {
    using T = typename Call::Sum;
    const Index n_q = call.q.rows, n_k = call.k.rows, d = call.k.cols, d_v = call.v.cols;
    const Index shift = mask.causal == heed::Causal::bottom_right ? n_k - n_q : 0, n_real = real_keys(call, mask);
    heed::Matrix<T> sums = heed::Matrix<T>::Zero(d, d_v + 1);  // S and z side by side
    heed::Vector<T> phi(d), value(d_v + 1), answer(d_v + 1);
    value(d_v) = 1;
    Index seen = 0;
    for (Index i = 0; i < n_q; ++i) {
      const Index end = mask.causal == heed::Causal::none ? n_real : std::min(n_real, i + shift + 1);
      for (; seen < end; ++seen) {
        map_row(call.k, seen, phi);
        for (Index c = 0; c < d_v; ++c) value(c) = static_cast<T>(call.v(seen, c));
        sums.noalias() += phi * value.transpose();
      }
      map_row(call.q, i, phi);
      answer.setZero();
      for (Index c = 0; c < d; ++c) answer += phi(c) * sums.row(c).transpose();
      for (Index c = 0; c < d_v; ++c)
        call.out(i, c) = static_cast<typename Call::Out>(seen > 0 ? answer(c) / answer(d_v) : T(0));
    }
  }
};

/// The formula in plain loops over pairs: what a test of the method compares it with.
Eigen::MatrixXf by_pairs(const Eigen::MatrixXf& q, const Eigen::MatrixXf& k, const Eigen::MatrixXf& v, Index n_real) {
  const auto phi = [](float x) { return x > 0 ? double(x) + 1 : std::exp(double(x)); };
  Eigen::MatrixXf out = Eigen::MatrixXf::Zero(q.rows(), v.cols());
  for (Index i = 0; i < q.rows(); ++i) {
    Eigen::VectorXd sum = Eigen::VectorXd::Zero(v.cols());
    double total = 0;
    for (Index j = 0; j <= i && j < n_real; ++j) {
      double weight = 0;
      for (Index c = 0; c < q.cols(); ++c) weight += phi(q(i, c)) * phi(k(j, c));
      sum += weight * v.row(j).transpose().cast<double>();
      total += weight;
    }
    out.row(i) = (sum / total).transpose().cast<float>();
  }
  return out;
}

int main() {
  const Index n = 300, d = 32, n_heads = 4, n_real = 280;
  const Eigen::MatrixXf q = Eigen::MatrixXf::Random(n, n_heads * d), k = Eigen::MatrixXf::Random(n, n_heads * d),
                        v = Eigen::MatrixXf::Random(n, n_heads * d);
  const heed::AttentionOptions options{.mask = {.causal = heed::Causal::square, .n_real_keys = n_real}};

  // It goes wherever a method goes.
  heed::FlopCounter flops, exact_flops;
  const auto all =
      heed::multi_head_attend(q, k, v, {.n_heads = n_heads}, options, LinearAttention{}, {.flops = &flops});
  heed::multi_head_attend(q, k, v, {.n_heads = n_heads}, options, heed::ExactAttention{}, {.flops = &exact_flops});
  float difference = 0;
  for (Index h = 0; h < n_heads; ++h) {
    const Eigen::MatrixXf want =
        by_pairs(q.middleCols(h * d, d), k.middleCols(h * d, d), v.middleCols(h * d, d), n_real);
    difference = std::max(difference, (all.out.middleCols(h * d, d) - want).cwiseAbs().maxCoeff());
  }
  std::printf("linear attention: difference from its formula %.1e, %.1f times fewer products than exact attention\n",
              static_cast<double>(difference), exact_flops.products() / flops.products());

  // It refuses what it cannot do, and says why.
  try {
    heed::attend(q, k, v, {.mask = {.window_left = 8}}, LinearAttention{});
    return 1;
  } catch (const heed::OptionError& error) {
    std::printf("%s\n", error.what());
  }
  return difference < 1e-4f ? 0 : 1;
}
