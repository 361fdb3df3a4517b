// Gradients of biases whose rows queries, heads or entries share.
#include <array>
#include <cstddef>
#include <vector>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/approx/tf_attention.hpp"
#include "heed/core/tensor_view.hpp"
#include "heed/exact/attend_backward.hpp"
#include "heed/exact/batch_backward.hpp"
#include "heed/exact/reference_backward.hpp"
#include "heed/trees/fit_tree.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/option_kinds.hpp"

namespace heed::test::bias_gradient {
namespace {

using Mat = Matrix<double>;

/// Where one head is split over threads, and over pairs that come as lists: the sums of what a row for each query gets.
TEST(BiasGradient, OneRowForAllQueriesGetsTheSumOfTheirsOnAnyThreads) {
  const auto in = random_inputs<double>({.n_q = 1100, .n_k = 1030, .d = 4, .d_v = 3});
  const Mat d_out = random_matrix<double>(1100, 3, 77), row = random_matrix<double>(1, 1030, 78),
            rows = row.replicate(1100, 1);
  const BackwardOptions backward{.routing = RoutingGradient::none, .bias = true};
  const auto check = [&](const auto& method) {
    const AttentionOptions options{.mask = {.causal = Causal::top_left, .bias = row}};
    const auto r = attend(in.q, in.k, in.v, options, method);
    const auto got = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {.threads = 4}, backward);
    const auto one = attend_backward(d_out, in.q, in.k, in.v, r, options, method, {.threads = 1}, backward);
    EXPECT_SAME_BITS(got.d_bias, one.d_bias);
    const auto all = attend_backward(d_out, in.q, in.k, in.v, r, {.mask = {.causal = Causal::top_left, .bias = rows}},
                                     method, {}, backward);
    EXPECT_MATRIX_NEAR(got.d_bias, all.d_bias.colwise().sum().eval(), 1e-12);
    EXPECT_GT(got.d_bias.norm(), 0.1);
  };
  check(ExactAttention<>{});
  check(TfAttention<double>(fit_tree(in.k, in.q, {.height = 3})));
}

/// A tensor whose sizes of 1 stand for all: its gradient has a row for each row it holds, those of entries and heads
/// stacked, each the sum over what shares it. Absent keys and queries that are padding hold anything and give nothing.
TEST(BiasGradient, OfATensorIsSummedOverWhatSharesEachRow) {
  constexpr Index n_entries = 3, n_heads = 4, n_q = 37, n_k = 53, d = 8, d_v = 6;
  Mat q = random_matrix<double>(n_entries * n_q, n_heads * d, 1), k = random_matrix<double>(n_entries * n_k, 2 * d, 2),
      v = random_matrix<double>(n_entries * n_k, 2 * d_v, 3);
  const Mat d_out = random_matrix<double>(n_entries * n_q, n_heads * d_v, 4);
  OptionStore::BoolMatrix keys(n_entries, n_k);
  for (Index b = 0; b < n_entries; ++b) {
    keys.row(b) = OptionStore(n_q, n_k, 1, 5 + static_cast<std::uint64_t>(b)).keys;
    for (Index j = 0; j < n_k; ++j) {
      if (!keys(b, j)) fill(k.row(b * n_k + j), nan_of<double>());
      if (!keys(b, j)) fill(v.row(b * n_k + j), infinity_of<double>());
    }
  }
  const std::vector<Index> query_lengths{37, 11, 0};
  const auto q_heads = tokens_first(q.data(), n_entries, n_q, n_heads, d),
             k_heads = tokens_first(k.data(), n_entries, n_k, Index(2), d),
             v_heads = tokens_first(v.data(), n_entries, n_k, Index(2), d_v);
  const Matrix<float> numbers = random_matrix<float>(n_entries * n_heads * n_q, n_k, 6);
  AttentionOptions options{.mask = {.causal = Causal::top_left, .shift = 9, .keys = keys}, .softcap = 3.0};
  options.mask.query_lengths = query_lengths;
  const BackwardOptions backward{.bias = true};
  for (const auto& [b_bias, h_bias, n_rows] : {std::array<Index, 3>{1, 1, 1},
                                               {3, 1, 1},
                                               {1, 4, 1},
                                               {1, 1, 37},
                                               {3, 4, 1},
                                               {3, 1, 37},
                                               {1, 4, 37},
                                               {3, 4, 37}}) {
    SCOPED_TRACE(testing::Message() << b_bias << " x " << h_bias << " x " << n_rows);
    options.mask.bias = heads_first<const float>(numbers.data(), b_bias, h_bias, n_rows, n_k);
    const auto r = batch_attend(q_heads, k_heads, v_heads, options);
    const auto got =
        batch_attend_backward(d_out, q_heads, k_heads, v_heads, r, options, ExactAttention<>{}, {}, backward);
    Mat want = Mat::Zero(b_bias * h_bias * n_rows, n_k);
    for (Index b = 0; b < n_entries; ++b) {
      const Index n_real = query_lengths[static_cast<std::size_t>(b)];
      const OptionStore::BoolMatrix own_keys = keys.row(b);
      for (Index h = 0; h < n_heads; ++h) {
        const Index first = ((b_bias > 1 ? b : 0) * h_bias + (h_bias > 1 ? h : 0)) * n_rows;
        Mat rows(n_real, n_k);
        for (Index i = 0; i < n_real; ++i) rows.row(i) = numbers.row(first + (n_rows > 1 ? i : 0)).cast<double>();
        AttentionOptions own = options;
        own.mask.query_lengths = SequenceOffsets();
        own.mask.keys = own_keys;
        own.mask.bias = rows;
        const auto one = reference_attention_backward(
            d_out.block(b * n_q, h * d_v, n_real, d_v).eval(), q.block(b * n_q, h * d, n_real, d).eval(),
            k.block(b * n_k, h / 2 * d, n_k, d).eval(), v.block(b * n_k, h / 2 * d_v, n_k, d_v).eval(), own,
            NoScoreMod{}, backward);
        for (Index i = 0; i < n_real; ++i) want.row(first + (n_rows > 1 ? i : 0)) += one.d_bias.row(i);
      }
    }
    EXPECT_MATRIX_NEAR(got.d_bias, want, 1e-13);
    const auto threads = batch_attend_backward(d_out, q_heads, k_heads, v_heads, r, options, ExactAttention<>{},
                                               {.threads = 3}, backward);
    EXPECT_SAME_BITS(threads.d_bias, got.d_bias);
  }
}

}  // namespace
}  // namespace heed::test::bias_gradient
