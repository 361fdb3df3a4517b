// A value source of your own, whole: a skeleton to copy into include/heed/approx/<name>_values.hpp. It takes the place
// of v and makes value rows during the call, over any method and under any mask; <heed/core/values.hpp> says what it
// must and may offer. This one keeps values in 8 bits, a quarter of the memory of float.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <span>

#include <Eigen/Core>

#include <heed/heed.hpp>

using heed::Index;

/// Values v_j = step_j codes_j: one step and a row of 8-bit codes for each key. An entry is off by at most half a step,
/// max |v_j| / 254.
///
/// Shapes  v: n_k x (n_kv_heads * d_v), finite; each key head owns d_v columns, in order.
/// Errors  those of attend.
/// Cost    n_k (cols(v) + 4) bytes kept; a call widens the rows of real keys into its workspace.
/// Threads const and re-entrant.
class EightBitValues {
 public:
  // What every value source says of itself: the scalar of its rows, that a call makes them, how many and how wide.
  using Scalar = float;
  static constexpr bool computes_rows = true;
  Index n_keys() const { return codes_.rows(); }
  Index width() const { return codes_.cols(); }  // of all key heads together

  explicit EightBitValues(const Eigen::MatrixXf& v) : codes_(v.rows(), v.cols()), steps_(v.rows()) {
    for (Index j = 0; j < v.rows(); ++j) {
      const float largest = v.cols() > 0 ? v.row(j).cwiseAbs().maxCoeff() : 0.0f;
      steps_(j) = largest > 0 ? largest / 127 : 1.0f;
      for (Index c = 0; c < v.cols(); ++c) codes_(j, c) = static_cast<std::int8_t>(std::lround(v(j, c) / steps_(j)));
    }
  }

  /// The one function of every value source. `calls` are query heads that lack their values: shapes, options and
  /// outputs have been checked, and each `heads_per_kv` calls in a row share a key head. Point each call's v at its
  /// rows, then let the method run.
  template <class Call, class Run>
  void attend_heads(std::span<Call> calls, Index heads_per_kv, const heed::AttentionOptions& options, const Run& run,
                    const heed::Context& context) const {
    const Index n_calls = static_cast<Index>(calls.size()), d_v = width() / (n_calls / heads_per_kv);
    heed::Workspace::Frame frame(*context.workspace);  // gives its memory back when this function returns
    float* rows = frame.take<float>(n_keys() * width());
    const Index n_real = std::min(n_keys(), options.mask.n_real_keys);  // rows of padding are never read
    for (Index j = 0; j < n_real; ++j) {
      for (Index c = 0; c < width(); ++c) rows[j * width() + c] = steps_(j) * static_cast<float>(codes_(j, c));
    }
    for (Index call = 0; call < n_calls; ++call) {
      const float* first = rows + call / heads_per_kv * d_v;
      calls[call].v = {first, n_keys(), d_v, width(), 1};  // data, rows, columns, stride of rows, stride of columns
    }
    // Products that making rows takes would be counted here: context.flops->add_products(heed::Phase::project, ...).
    run.run(std::span<const Call>(calls), heads_per_kv, options, context);
  }

 private:
  Eigen::Matrix<std::int8_t, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor> codes_;
  Eigen::VectorXf steps_;
};

static_assert(heed::ComputedValues<EightBitValues>);

/// The rows that EightBitValues stands for, by loops of its own: what a test of a value source needs.
Eigen::MatrixXf rounded(const Eigen::MatrixXf& v) {
  Eigen::MatrixXf rows(v.rows(), v.cols());
  for (Index j = 0; j < v.rows(); ++j) {
    float largest = 0;
    for (Index c = 0; c < v.cols(); ++c) largest = std::max(largest, std::abs(v(j, c)));
    const float step = largest / 127;
    for (Index c = 0; c < v.cols(); ++c) rows(j, c) = step * std::round(v(j, c) / step);
  }
  return rows;
}

int main() {
  const Index n = 300, n_heads = 6, n_kv_heads = 3, d = 32, n_real = 280;
  const Eigen::MatrixXf q = Eigen::MatrixXf::Random(n, n_heads * d), k = Eigen::MatrixXf::Random(n, n_kv_heads * d),
                        v = Eigen::MatrixXf::Random(n, n_kv_heads * d);
  const EightBitValues values(v);

  // It goes wherever v goes: over any method, under any mask, for one head or many.
  const heed::HeadOptions heads{.n_heads = n_heads, .n_kv_heads = n_kv_heads};
  const heed::AttentionOptions options{.mask = {.causal = heed::Causal::square, .n_real_keys = n_real}};
  const heed::WindowAttention window(64);
  const Eigen::MatrixXf out = heed::multi_head_attend(q, k, values, heads, options, window).out;
  const Eigen::MatrixXf want = heed::multi_head_attend(q, k, rounded(v), heads, options, window).out;
  const Eigen::MatrixXf unrounded = heed::multi_head_attend(q, k, v, heads, options, window).out;
  const float difference = (out - want).cwiseAbs().maxCoeff(), rounding = (out - unrounded).cwiseAbs().maxCoeff();
  std::printf("8-bit values: %.1e from the call with the rows they stand for, %.1e from the call with v\n",
              static_cast<double>(difference), static_cast<double>(rounding));

  // One head, with a workspace that the second call finds large enough.
  heed::Workspace workspace;
  const EightBitValues one_head(v.leftCols(d));
  const auto first = heed::attend(q.leftCols(d), k.leftCols(d), one_head, {}, {}, {.workspace = &workspace});
  const std::size_t bytes = workspace.bytes();
  const auto second = heed::attend(q.leftCols(d), k.leftCols(d), one_head, {}, {}, {.workspace = &workspace});
  const bool reused = workspace.bytes() == bytes && first.out == second.out;

  return difference < 1e-6f && rounding > 0 && rounding < 1.001f / 254 && reused ? 0 : 1;
}
