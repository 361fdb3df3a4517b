#include "heed/train/balance_loss.hpp"

#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "heed/core/random.hpp"
#include "heed/train/choose_attention.hpp"
#include "heed/train/training_run.hpp"
#include "support/layer_check.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

TEST(BalanceLoss, HasTheGradientOfItsFormula) {
  ParameterStore<double> store;
  const AttentionChoice choice{.kind = AttentionKind::tf, .height = 3, .n_trees = 2, .biases = TreeBiases::stored};
  const detail::LayerMethod<double> method(store, "trees", choice, 3, 5, 1, 7);
  store.fill_normal(method.biases(), 0.5, 2);
  const Matrix<double> k = random_matrix<double>(37, 15, 4);
  const auto formula = [&] {
    double sum = 0;
    for (Index tree = 0; tree < 6; ++tree) {
      std::vector<std::vector<double>> sides(7);
      for (Index j = 0; j < 37; ++j) {
        for (Index v = 0; v < 7;) {
          double z = store.values(method.biases())(tree, v);
          for (Index c = 0; c < 5; ++c) z += store.values(method.planes())(tree * 7 + v, c) * k(j, tree / 2 * 5 + c);
          sides[static_cast<std::size_t>(v)].push_back(std::tanh(z));
          v = z >= 0 ? 2 * v + 2 : 2 * v + 1;
        }
      }
      for (const auto& side : sides) {
        double mean = 0;
        for (const double s : side) mean += s / static_cast<double>(side.size());
        sum += static_cast<double>(side.size()) / 37 * mean * mean / 3 / 6;
      }
    }
    return sum;
  };
  EXPECT_NEAR(add_balance_loss(method, store, view_of(k), 0.0), formula(), 1e-14);
  for (const double gradient : store.all_gradients()) ASSERT_EQ(gradient, 0.0);
  EXPECT_NEAR(add_balance_loss(method, store, view_of(k), 0.3), formula(), 1e-14);
  // A step this small takes no key of these across a plane.
  expect_parameter_derivatives(
      store, [&] { return 0.3 * formula(); }, 1e-9);

  store.fill(method.biases(), 1e3);  // all keys to one side
  EXPECT_NEAR(add_balance_loss(method, store, view_of(k), 0.0), 1.0, 1e-12);
  EXPECT_EQ(add_balance_loss(method, store, ConstView<double>{nullptr, 0, 15, 15, 1}, 1.0), 0.0);
  ParameterStore<double> none;
  const detail::LayerMethod<double> leaf(none, "leaf", {.kind = AttentionKind::tc, .height = 0}, 3, 5, 1, 7);
  EXPECT_EQ(add_balance_loss(leaf, none, view_of(k), 1.0), 0.0);
}

TEST(BalanceLoss, EvensTheTreesOfACausalModelOut) {
  const auto last_balance = [](double weight) {
    ParameterStore<double> store;
    TransformerOptions options{.vocabularies = {30}, .n_out = 30, .d_model = 8, .d_hidden = 12, .n_layers = 1};
    options.attention.n_heads = 2;
    options.attention.causal = true;
    options.deviations = {1.0};
    Transformer<double> model(store, options);
    choose_attention(model, store, {{.kind = AttentionKind::tf, .height = 3, .biases = TreeBiases::stored}});
    store.fill_normal(store.find("layer.0.attention.biases"), 1.0, 2);
    TrainingHooks hooks;
    hooks.make_batch = [](Batch& batch, std::uint64_t seed, Index number) {
      CounterRng numbers(seed, static_cast<std::uint64_t>(number));
      batch = {.tokens = {{}}, .targets = {}, .n = 32};
      for (Index i = 0; i < 64; ++i) batch.tokens[0].push_back(static_cast<std::int32_t>(numbers.below(30)));
      batch.targets = batch.tokens[0];
    };
    TrainingOptions run{.n_steps = 60, .schedule = {.rate = 1e-2, .warm_up = 0}};
    run.balance = weight;
    return train(model, store, hooks, run, 0, {.threads = 1}).last.balance;
  };
  EXPECT_LT(last_balance(1), 0.5 * last_balance(1e-9));
  EXPECT_EQ(last_balance(0), 0.0);  // not asked for, not counted
}

}  // namespace
}  // namespace heed::test
