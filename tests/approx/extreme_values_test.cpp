// The largest sizes and the largest numbers, behind every method.
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <string>

#include <Eigen/Core>
#include <gtest/gtest.h>

#include "heed/heed.hpp"
#include "support/allocations.hpp"
#include "support/inputs.hpp"
#include "support/matrices.hpp"
#include "support/rounding.hpp"
#include "support/trees.hpp"

namespace heed::test {
namespace {

/// Calls run() and expects an error of this class that says so, before anything but its message is allocated.
template <class Error, class Run>
void expect_refused(const char* said, const Run& run) {
  const std::uint64_t before = allocations();
  std::string answer = "nothing";
  try {
    run();
  } catch (const Error& error) {
    answer = error.what();
  } catch (const std::exception& error) {
    answer = std::string("another error: ") + error.what();
  }
  EXPECT_LT(allocations() - before, 40u) << answer;
  EXPECT_NE(answer.find(said), std::string::npos) << "'" << said << "' is not in: " << answer;
}

TEST(ExtremeSizes, WhoseProductsOverflowAreRefusedBeforeAnythingIsAllocated) {
  constexpr Index huge = std::numeric_limits<Index>::max(), half = Index(1) << 62, root = Index(1) << 32;
  const Matrix<float> q(6, 0), k(9, 0), v(9, 0);  // no columns: any number of heads divides them
  const AttentionOptions scaled{.scale = 1.0};
  for (const Index n_heads : {huge, half, Index(1) << 41}) {
    expect_refused<OptionError>("HeadOptions::n_heads = ",
                                [&] { multi_head_attend(q, k, v, {.n_heads = n_heads}, scaled); });
    expect_refused<OptionError>("n_heads = ", [&] { split_heads(q, n_heads); });
  }
  expect_refused<OptionError>("HeadOptions::n_kv_heads",
                              [&] { multi_head_attend(q, k, v, {.n_heads = 2, .n_kv_heads = huge}, scaled); });
  // Without columns a matrix of any number of rows takes no memory.
  const Matrix<float> many(half, 0), more(root, 0), wide(0, root), tall(Index(1) << 41, 0);
  expect_refused<ShapeError>("rows(q) = 4611686018427387904", [&] { attend(many, k, v, scaled); });
  expect_refused<ShapeError>("rows(k) = 4611686018427387904", [&] { attend(q, many, many, scaled); });
  expect_refused<ShapeError>("rows(q) = 2199023255552", [&] { attend(tall, k, v, scaled); });
  expect_refused<ShapeError>("n_heads * (rows(q) + rows(k))",
                             [&] { multi_head_attend(more, k, v, {.n_heads = root}, scaled); });
  expect_refused<ShapeError>("rows(q) = 4611686018427387904", [&] { key_importance(many, k, scaled); });
  expect_refused<ShapeError>("rows(q) = 4611686018427387904", [&] {
    attend_over(DensePattern{half, 9}, many, k, v, scaled);
  });
  expect_refused<ShapeError>("rows(q) = 4611686018427387904", [&] { reference_attention(many, k, v, scaled); });
  expect_refused<ShapeError>("rows(x) * cols(w_v)", [&] { ProjectedValues<float>(more, wide); });
  expect_refused<ShapeError>("rows(x) * cols(w_v)", [&] { MonteCarloValues<float>(more, wide); });
  const Matrix<float> endless(0, half);
  expect_refused<ShapeError>("cols(x) = 4611686018427387904", [&] { ProjectedValues<float>(endless, many); });
  const DecisionTree<float> tall_tree(Matrix<float>::Zero((Index(1) << 20) - 1, 1),
                                      Vector<float>::Zero((Index(1) << 20) - 1));
  const TcAttention<float> coarse(tall_tree, Eigen::VectorXf::Zero(21));
  expect_refused<ShapeError>("2^(height + 1) * (d_v + d)", [&] { TcState<float>(coarse, Index(1) << 40); });
  for (const Index size : {huge, half, (Index(1) << 40) + 1}) {
    expect_refused<OptionError>("BigBirdOptions::block = ", [&] { BigBirdAttention({.block = size}); });
    expect_refused<OptionError>("BigBirdOptions::n_near = ", [&] { BigBirdAttention({.n_near = size}); });
    expect_refused<OptionError>("BigBirdOptions::n_global = ", [&] { BigBirdAttention({.n_global = size}); });
    expect_refused<OptionError>("BigBirdOptions::n_random = ", [&] { BigBirdAttention({.n_random = size}); });
  }
  expect_refused<OptionError>("head = ", [&] { reference_attention(q, k, v, scaled, NoScoreMod{}, huge); });
  expect_refused<OptionError>("head = -1", [&] { reference_attention(q, k, v, scaled, NoScoreMod{}, -1); });
  expect_refused<OptionError>(
      "head = -1", [&] { reference_attention_backward(q, q, k, v, scaled, NoScoreMod{}, BackwardOptions{}, -1); });
}

TEST(ExtremeSizes, MeanAllThereIs) {
  const Index all = Index(1) << 40, unlimited = Mask::unlimited;
  const auto in = random_inputs<float>({.n_q = 50, .n_k = 70, .d = 4, .d_v = 3});
  const auto want = attend(in.q, in.k, in.v);
  const auto expect_all = [&](const char* name, const auto& method) {
    EXPECT_MATRIX_NEAR(attend(in.q, in.k, in.v, {}, method).out, want.out, 1e-6) << name;
  };
  expect_all("block", BigBirdAttention({.block = all}));
  expect_all("n_near", BigBirdAttention({.block = 3, .n_near = all}));
  expect_all("n_global", BigBirdAttention({.block = 1, .n_global = all}));
  expect_all("n_random", BigBirdAttention({.block = 5, .n_random = all}));
  expect_all("all four", BigBirdAttention({.block = 7, .n_near = all, .n_global = all, .n_random = all}));
  expect_all("window", WindowAttention(unlimited, unlimited));
  const DecisionTree<float> tree = random_tree<float>(2, 4, 5);
  expect_all("sinks", TfAttention<float>(tree, {.n_sinks = unlimited}));
  const auto leaf = attend(in.q, in.k, in.v, {}, TfAttention<float>(tree));
  EXPECT_SAME_BITS(attend(in.q, in.k, in.v, {}, TfAttention<float>(tree, {.leaf_cap = unlimited})).out, leaf.out);
  const AttentionOptions causal{.mask = {.causal = Causal::bottom_right}};
  EXPECT_MATRIX_NEAR(attend(in.q, in.k, in.v, causal, TfAttention<float>(tree, {.window_left = unlimited})).out,
                     attend(in.q, in.k, in.v, causal).out, 1e-6);
}

TEST(ExtremeBiases, PastTheLargestFloatCountAsThatBehindEveryMethod) {
  const Index n = 40;
  const auto in = random_inputs<float>({.n_q = n, .n_k = n, .d = 4, .d_v = 3});
  Matrix<double> bias = random_matrix<double>(n, n, 7);
  Matrix<float> saturated = bias.cast<float>();
  for (Index i = 0; i < n; ++i) {
    for (Index j = 0; j < n; ++j) {
      if ((i + 3 * j) % 5 > 1) continue;
      const bool above = i % 9 == 1 && j % 7 == 2;
      bias(i, j) = above ? 1e39 : -1e300;
      saturated(i, j) = above ? std::numeric_limits<float>::max() : std::numeric_limits<float>::lowest();
    }
  }
  const DecisionTree<float> tree = random_tree<float>(2, 4, 5);
  const auto expect_same = [&](const char* name, const auto& run) {
    const auto want = run(AttentionOptions{.mask = {.bias = saturated}}),
               got = run(AttentionOptions{.mask = {.bias = bias}});
    EXPECT_TRUE(got.out.allFinite()) << name;
    EXPECT_TRUE(got.lse.allFinite()) << name;
    EXPECT_MATRIX_NEAR(got.out, want.out, 1e-6) << name;  // means of a bias are taken in double
    EXPECT_MATRIX_NEAR(got.lse, want.lse, 1e-6 * largest_finite(want.lse)) << name;
  };
  const auto by_method = [&](const auto& method) {
    return [&](const AttentionOptions& options) { return attend(in.q, in.k, in.v, options, method); };
  };
  expect_same("exact", by_method(ExactAttention{}));
  expect_same("tf", by_method(TfAttention<float>(tree)));
  expect_same("tf, united", by_method(TfAttention<float>(tree, {.window_left = 3, .n_sinks = 2})));
  expect_same("tf, capped", by_method(TfAttention<float>(tree, {.leaf_cap = 2})));
  expect_same("bigbird", by_method(BigBirdAttention({.block = 4})));
  expect_same("union", [&](const AttentionOptions& options) {
    const DensePattern dense{n, n};
    return attend_over(PatternUnion{dense, dense}, in.q, in.k, in.v, options);
  });
  KeyValueCache<float> cache(4, 3);
  cache.append(in.k, in.v);
  expect_same("cache", [&](const AttentionOptions& options) { return attend(in.q, cache, options); });
}

}  // namespace
}  // namespace heed::test
