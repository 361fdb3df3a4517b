#include "heed/train/masked_tokens.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "heed/train/model_pass.hpp"
#include "io/files.hpp"
#include "support/layer_check.hpp"

namespace heed::test {
namespace {

template <class Error>
void expect_error(const std::string& part, const std::function<void()>& action) {
  const std::string message = heed_test::error_of<Error>(action);
  EXPECT_NE(message.find(part), std::string::npos) << '"' << message << "\" must say " << part;
}

TransformerOptions small_model() {
  TransformerOptions options{.vocabularies = {7, 3}, .n_out = 4, .d_model = 8, .d_hidden = 6, .length = 9};
  options.pooling = Pooling::first;
  options.attention.n_heads = 2;
  options.attention.choice = {.kind = AttentionKind::tf, .height = 1, .routing = RoutingGradient::none};
  return options;
}

Batch small_batch(Index n_sequences) {
  NumberStream numbers(3);
  Batch batch{.tokens = {{}, {}}, .n = 9};
  for (Index i = 0; i < n_sequences * batch.n; ++i) {
    batch.tokens[0].push_back(static_cast<std::int32_t>(numbers.below(7)));
    batch.tokens[1].push_back(static_cast<std::int32_t>(numbers.below(3)));
  }
  return batch;
}

TEST(MaskedTokensOf, ABatchAreItsOnlyTargetsAndAboutTheShareAskedFor) {
  constexpr std::int32_t stand_in = 7;
  const Batch shown = small_batch(400);
  Batch hidden = shown;
  hidden.targets = {1, 2};  // what the task asked
  CounterRng numbers(5, 1);
  hide_tokens(hidden, stand_in, {.n_told = 5}, numbers);
  EXPECT_EQ(hidden.tokens[1], shown.tokens[1]);
  ASSERT_EQ(hidden.targets.size(), shown.tokens[0].size());
  double n_eligible = 0, n_hidden = 0;
  for (std::size_t i = 0; i < shown.tokens[0].size(); ++i) {
    const bool is_hidden = hidden.tokens[0][i] == stand_in;
    EXPECT_EQ(hidden.targets[i], is_hidden ? shown.tokens[0][i] : no_target);
    EXPECT_TRUE(is_hidden || hidden.tokens[0][i] == shown.tokens[0][i]);
    EXPECT_TRUE(!is_hidden || shown.tokens[0][i] < 5);
    n_eligible += shown.tokens[0][i] < 5 ? 1 : 0;
    n_hidden += is_hidden ? 1 : 0;
  }
  EXPECT_NEAR(n_hidden / n_eligible, 0.15, 5 * std::sqrt(0.15 * 0.85 / n_eligible));
  Batch again = shown, all = shown, none = shown;
  CounterRng same(5, 1);
  hide_tokens(again, stand_in, {.n_told = 5}, same);
  EXPECT_EQ(again.tokens, hidden.tokens);
  hide_tokens(all, stand_in, {.n_told = 7, .share = 1}, same);
  EXPECT_EQ(all.targets, shown.tokens[0]);
  hide_tokens(none, stand_in, {.n_told = 7, .share = 0}, same);
  EXPECT_EQ(none.tokens, shown.tokens);
}

TEST(MaskedTokensOf, AModelHaveTheGradientsOfTheirLoss) {
  ParameterStore<double> store;
  const Transformer<double> model(store, masked_model(small_model(), {.n_told = 5}));
  Batch batch = small_batch(2);
  CounterRng numbers(5, 2);
  hide_tokens(batch, 7, {.n_told = 5, .share = 0.4}, numbers);
  ModelPass<double> pass;
  pass.run(model, store, batch, {}, true, [&](auto& kept, const LossReport& report, const View<double>& d_logits) {
    EXPECT_GT(report.n_answers, 2);
    EXPECT_LT(report.n_answers, 12);
    store.clear_gradients();
    pass.backward(model, store, kept, d_logits, 1, {});
  });
  expect_parameter_derivatives(
      store, [&] { return pass.loss(model, store, batch).loss; }, 1e-6);
}

TEST(MaskedTokensOf, AModelLeaveTheirEncoderToTheModelOfTheTask) {
  ParameterStore<double> told_store, store;
  TransformerOptions masked = masked_model(small_model(), {.n_told = 4});  // a head of the shape of the task's
  EXPECT_EQ(masked.vocabularies, (std::vector<Index>{8, 3}));
  EXPECT_EQ(masked.pooling, Pooling::none);
  masked.seed = 77;
  const Transformer<double> told(told_store, masked), model(store, small_model());
  const ParameterStore<double> before = store;
  take_encoder(told_store, store);
  for (Index s = 0; s < store.n_slices(); ++s) {
    const bool is_head = store.name(s).starts_with("head.");
    const ParameterStore<double>& want = is_head ? before : told_store;
    const ConstView<double> values = want.values(want.find(store.name(s)));
    const View<double> got = store.values(store.slice(s));
    for (Index e = 0; e < store.slice(s).size(); ++e) ASSERT_EQ(got.data[e], values.data[e]) << store.name(s) << e;
  }
}

TEST(MaskedTokensOf, AModelOfAnotherShapeAreRefusedAndChangeNothing) {
  ParameterStore<double> told_store, store;
  TransformerOptions masked = masked_model(small_model(), {.n_told = 5});
  masked.d_hidden = 5;  // the tables agree
  const Transformer<double> told(told_store, masked), model(store, small_model());
  const std::vector<double> before(store.all_values().begin(), store.all_values().end());
  expect_error<ShapeError>("'layer.0.hidden.", [&] { take_encoder(told_store, store); });
  EXPECT_TRUE(std::equal(before.begin(), before.end(), store.all_values().begin()));
  expect_error<ShapeError>("'embedding.0' is 7 x 8", [&] { take_encoder(store, store); });
  expect_error<ShapeError>("'embedding.0' is 0 x 0", [&] { take_encoder(ParameterStore<double>(), store); });
}

TEST(MaskedTokensOf, NothingOrTooManyAreRefusedByName) {
  CounterRng numbers(1, 1);
  Batch batch = small_batch(1), empty;
  const Batch before = batch;
  for (const double bad : {-0.1, 1.1, std::nan("")}) {
    expect_error<OptionError>("MaskedTokens::share = ", [&] { hide_tokens(batch, 7, {.share = bad}, numbers); });
    expect_error<OptionError>("MaskedTokens::share = ", [&] { masked_model(small_model(), {.share = bad}); });
  }
  expect_error<OptionError>("MaskedTokens::n_told = 0", [&] { hide_tokens(batch, 7, {.n_told = 0}, numbers); });
  EXPECT_EQ(batch.tokens, before.tokens);
  expect_error<ShapeError>("Batch::tokens", [&] { hide_tokens(empty, 7, {}, numbers); });
  expect_error<OptionError>("TransformerOptions::vocabularies", [] { masked_model({.vocabularies = {}}, {}); });
}

}  // namespace
}  // namespace heed::test
