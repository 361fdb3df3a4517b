#include <cmath>
#include <exception>
#include <functional>
#include <string>
#include <vector>

#include <pthread.h>
#include <gtest/gtest.h>

#include "heed/heed.hpp"
#include "support/inputs.hpp"

namespace heed::test::composition_small_stack {
namespace {

// What a call may need: its own frames (at most 32 KiB), those of this test, and what the C library keeps on a stack.
constexpr std::size_t stack_bytes = 64 << 10;

/// Runs `call` on a thread of 64 KiB stack. A stack that is too small ends the process: its test is known by name.
void on_small_stack(const std::function<void()>& call) {
  struct Job {
    const std::function<void()>& call;
    std::string error{};
  } job{call};
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, stack_bytes), 0);
  pthread_t thread;
  const auto run = [](void* data) -> void* {
    Job& mine = *static_cast<Job*>(data);
    try {
      mine.call();
    } catch (const std::exception& error) {
      mine.error = error.what();
    }
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, run, &job), 0);
  pthread_join(thread, nullptr);
  pthread_attr_destroy(&attributes);
  EXPECT_EQ(job.error, "");
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool sanitized = true;
#elif defined(__has_feature)
constexpr bool sanitized = __has_feature(address_sanitizer) || __has_feature(thread_sanitizer);
#else
constexpr bool sanitized = false;
#endif

constexpr Context one_thread{.threads = 1};

class SmallStack : public testing::Test {
 protected:
  static constexpr Index n = 300, d = 24, n_heads = 4;

  void SetUp() override {
    if (sanitized) GTEST_SKIP() << "sanitizers make frames several times as large";
    bias = random_matrix<double>(n, n, 4);
    allowed = (random_matrix<float>(n, n, 5).array() > 0.0f).matrix();
    slopes = {0.1f, 0.2f, 0.3f, 0.4f};
    offsets = {0, 100, 130, n};
    every_option = {.mask = {.causal = Causal::square,
                             .window_left = 200,
                             .n_real_keys = n - 7,
                             .allowed = allowed,
                             .bias = bias,
                             .alibi_slope = slopes},
                    .softcap = 20.0,
                    .sinks = slopes};
  }
  template <class S>
  void exact_calls() {
    const Matrix<S> q = random_matrix<S>(n, n_heads * d, 1), k = random_matrix<S>(n, n_heads * d, 2),
                    v = random_matrix<S>(n, n_heads * d, 3);
    on_small_stack([&] { attend(q, k, v, {}, ExactAttention<>{}, one_thread); });
    for (const Index n_q : {n, Index(1)}) {
      const auto rows = q.topRows(n_q);
      AttentionOptions options = every_option;
      const auto some_bias = bias.topRows(n_q);
      const auto some_allowed = allowed.topRows(n_q);
      options.mask.bias = some_bias;
      options.mask.allowed = some_allowed;
      options.mask.causal = Causal::bottom_right;
      on_small_stack(
          [&] { multi_head_attend(rows, k, v, {.n_heads = n_heads}, options, ExactAttention<>{}, one_thread); });
      const ExactAttention functor{[](Accumulator<S> s, Index, Index) { return s + 1; }};
      on_small_stack([&] { multi_head_attend(rows, k, v, {.n_heads = n_heads}, options, functor, one_thread); });
      on_small_stack([&] { attend(rows, k, v, {.mask = {.bias = some_bias}}, functor, one_thread); });
    }
    on_small_stack([&] {
      KeyValueCache<S> cache(d, d, n_heads);
      cache.append(k, v);
      attend(q.topRows(1), cache, {}, ExactAttention<>{}, one_thread);
      attend(q, cache, {}, ExactAttention<>{}, one_thread);
    });
    on_small_stack([&] { key_importance(q, k, {}, ExactAttention<>{}, one_thread); });
    on_small_stack([&] { reference_attention(q, k, v); });
    on_small_stack([&] { EXPECT_THROW(attend(q, k.topRows(3), v, {}, ExactAttention<>{}, one_thread), ShapeError); });
  }

  Matrix<double> bias;
  Eigen::Matrix<bool, Eigen::Dynamic, Eigen::Dynamic> allowed;
  std::vector<float> slopes;
  std::vector<Index> offsets;
  AttentionOptions every_option;
};

TEST_F(SmallStack, ExactAttentionOfFloat) { exact_calls<float>(); }
TEST_F(SmallStack, ExactAttentionOfDouble) { exact_calls<double>(); }
TEST_F(SmallStack, ExactAttentionOfHalf) { exact_calls<Eigen::half>(); }
TEST_F(SmallStack, ExactAttentionOfBfloat16) { exact_calls<Eigen::bfloat16>(); }

TEST_F(SmallStack, PatternsAndTrees) {
  const auto in = random_inputs<float>({.n_q = n, .n_k = n, .d = d, .d_v = d});
  on_small_stack(
      [&] { fit_tree(in.k, in.q, {.height = 4, .points = FitPoints::keys_and_queries, .inner_product_lift = true}); });
  on_small_stack([&] { fit_tree(in.k, in.q, {.height = 4, .split = Split::two_means}); });
  const DecisionTree<float> tree = fit_tree(in.k, in.q, {.height = 4});
  const auto call = [&](const auto& method, const AttentionOptions& options = {}) {
    on_small_stack([&] { attend(in.q, in.k, in.v, options, method, one_thread); });
  };
  const AttentionOptions causal{.mask = {.causal = Causal::square}}, packed{.mask = {.sequence_offsets = offsets}};
  for (const AttentionOptions& options : {AttentionOptions{}, causal, packed}) {
    call(WindowAttention{20}, options);
    call(BigBirdAttention{{.block = 16}}, options);
    call(TfAttention<float>{tree}, options);
    call(TfAttention<float>{tree, {.window_left = 9, .n_sinks = 3}}, options);
    call(TfAttention<float>{tree, {.leaf_cap = 5}}, options);
    call(TcAttention<float>{tree, Vector<float>::Zero(5)}, options);
    call(TcAttention<float>{tree, Vector<float>::Zero(5), {.by_query = true}}, options);
  }
  const DecisionTree<float> medians(tree.planes(), tree.biases(), {.biases = TreeBiases::key_medians});
  call(TfAttention<float>{medians});
  on_small_stack([&] { medians.with_biases_of(in.k); });
  on_small_stack([&] { tree_balance(tree, in.q, in.k); });
  on_small_stack([&] { key_importance(in.q, in.k, {}, TfAttention<float>{tree}, one_thread); });
  on_small_stack([&] { key_importance(in.q, in.k, {}, TcAttention<float>{tree, Vector<float>::Zero(5)}, one_thread); });
  on_small_stack([&] {
    const LeafPattern leaves(tree, in.q, in.k);
    attend_over(PatternUnion{DensePattern{n, 10}, LeafPattern(tree, in.q, in.k)}, in.q, in.k, in.v, {}, one_thread);
    attend_over(leaves, in.q, in.k, in.v, {}, one_thread);
  });
  on_small_stack([&] {
    TcState<float> state(TcAttention<float>{tree, Vector<float>::Zero(5)}, d);
    state.append(in.k, in.v);
    state.attend(in.q);
  });
}

TEST_F(SmallStack, ValuesMadeInTheCall) {
  const auto in = random_inputs<float>({.n_q = n, .n_k = n, .d = d, .d_v = d});
  const Matrix<float> x = random_matrix<float>(n, 96, 6), w = random_matrix<float>(96, d, 7);
  on_small_stack([&] { attend(in.q, in.k, ProjectedValues<float>(x, w), {}, ExactAttention<>{}, one_thread); });
  for (const Estimator estimator :
       {Estimator::with_replacement, Estimator::product_weighted, Estimator::without_replacement, Estimator::largest}) {
    for (const Budget budget : {Budget::column_max, Budget::column_norm, Budget::constant}) {
      const MonteCarloValues<float> sampled(
          x, w, {.estimator = estimator, .budget = budget, .centred = true, .path = ValuePath::sampled});
      on_small_stack([&] { attend(in.q, in.k, sampled, {}, ExactAttention<>{}, one_thread); });
    }
  }
}

}  // namespace
}  // namespace heed::test::composition_small_stack
