#include "heed/layers/transformer.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include <gtest/gtest.h>

#include "heed/train/adamw.hpp"
#include "heed/train/cross_entropy.hpp"
#include "support/layer_check.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

struct SmallTask {
  std::vector<std::int32_t> first, second, targets;
  std::vector<std::span<const std::int32_t>> tokens() const { return {first, second}; }
};

SmallTask small_task(Index rows, Index n_targets, Index n_out) {
  SmallTask task;
  NumberStream numbers(5);
  for (Index i = 0; i < rows; ++i) {
    task.first.push_back(static_cast<std::int32_t>(numbers.below(7)));
    task.second.push_back(static_cast<std::int32_t>(numbers.below(5)));
  }
  for (Index i = 0; i < n_targets; ++i)
    task.targets.push_back(i % 3 == 1 ? no_target : static_cast<std::int32_t>(numbers.below(n_out)));
  return task;
}

TEST(TransformerModel, HasTheGradientsOfItsLoss) {
  for (const Pooling pooling : {Pooling::none, Pooling::mean, Pooling::first}) {
    for (const Positions positions : {Positions::none, Positions::learned, Positions::sinusoidal}) {
      ParameterStore<double> store;
      TransformerOptions options{.vocabularies = {7, 5},
                                 .n_out = 6,
                                 .d_model = 8,
                                 .d_hidden = pooling == Pooling::first ? 0 : 12,
                                 .length = 11,  // sequences may be shorter
                                 .positions = positions,
                                 .pooling = pooling};
      options.attention.n_heads = 2;
      const Transformer<double> model(store, options);
      const SmallTask task = small_task(18, pooling == Pooling::none ? 18 : 2, 6);
      Workspace workspace, kept_in;
      const Context context{.workspace = &workspace, .threads = 2};
      Transformer<double>::Kept kept;
      const auto loss = [&] {
        Workspace::Frame frame(kept_in);
        const auto logits = model.forward(store, task.tokens(), 9, kept, frame, context);
        return cross_entropy<double>(detail::read_only(logits), task.targets, {}).loss;
      };
      {
        Workspace::Frame frame(kept_in);
        const auto logits = model.forward(store, task.tokens(), 9, kept, frame, context);
        const auto d_logits = detail::take_rows<double>(frame, logits.rows, logits.cols);
        cross_entropy<double>(detail::read_only(logits), task.targets, d_logits);
        store.clear_gradients();
        model.backward(store, task.tokens(), detail::read_only(d_logits), kept, context);
      }
      expect_parameter_derivatives(store, loss, 1e-6);
    }
  }
}

TEST(TransformerModel, RefusesSequencesBeyondItsPositions) {
  const SmallTask task = small_task(18, 18, 6);
  for (const Positions positions : {Positions::learned, Positions::sinusoidal}) {
    ParameterStore<double> store;
    TransformerOptions options{.vocabularies = {7, 5}, .n_out = 6, .d_model = 8, .length = 8, .positions = positions};
    const Transformer<double> model(store, options);
    Workspace workspace, kept_in;
    Workspace::Frame frame(kept_in);
    Transformer<double>::Kept kept;
    const auto run = [&](Index n) { model.forward(store, task.tokens(), n, kept, frame, {.workspace = &workspace}); };
    EXPECT_NO_THROW(run(6));
    if (positions == Positions::learned) {
      EXPECT_THROW(run(9), ShapeError);  // it has 8
    } else {
      EXPECT_NO_THROW(run(9));
    }
  }
}

TEST(LearningRate, FollowsTheFormulaOfItsDecay) {
  Schedule schedule{.rate = 0.2, .warm_up = 4, .n_steps = 12, .last_share = 0.1};
  const double pi = std::acos(-1.0);
  for (const Decay decay : {Decay::cosine, Decay::inverse_root, Decay::none}) {
    schedule.decay = decay;
    for (Index step = 1; step <= 4; ++step) EXPECT_NEAR(schedule.at(step), 0.05 * static_cast<double>(step), 1e-16);
    for (Index step = 5; step <= 14; ++step) {
      const double t = static_cast<double>(step), done = std::min(1.0, (t - 4) / 8);
      const double share = decay == Decay::cosine         ? 0.1 + 0.45 * (1 + std::cos(pi * done))
                           : decay == Decay::inverse_root ? std::sqrt(4 / t)
                                                          : 1.0;
      EXPECT_NEAR(schedule.at(step), 0.2 * share, 1e-15) << step;
    }
  }
  schedule = {.rate = 0.2, .warm_up = 0, .decay = Decay::inverse_root};  // without a warm-up it begins at the top
  for (const double t : {1.0, 2.0, 9.0}) EXPECT_NEAR(schedule.at(static_cast<Index>(t)), 0.2 / std::sqrt(t), 1e-16);
}

TEST(AdamW, FollowsItsFormula) {
  ParameterStore<double> store;
  const Slice a = store.add("a", 1, 3), b = store.add("b", 1, 2, {.decays = false, .rate = 0.5});
  store.fill_normal(a, 1, 1);
  store.fill_normal(b, 1, 1);
  std::vector<double> x(store.all_values().begin(), store.all_values().end()), m(5), v(5);
  NumberStream numbers(3);
  for (Index step = 1; step <= 4; ++step) {
    double square = 0;
    std::vector<double> g(5);
    for (std::size_t e = 0; e < 5; ++e) {
      g[e] = numbers.normal();
      store.all_gradients()[e] = g[e];
      square += g[e] * g[e];
    }
    const double norm = adamw_step(store, step, 0.1, {.decay = 0.2, .clip = 0.7});
    EXPECT_NEAR(norm, std::sqrt(square), 1e-14);
    for (std::size_t e = 0; e < 5; ++e) {
      const double gradient = g[e] * std::min(1.0, 0.7 / norm), rate = e < 3 ? 0.1 : 0.05;
      m[e] = 0.9 * m[e] + 0.1 * gradient;
      v[e] = 0.98 * v[e] + 0.02 * gradient * gradient;
      const double t = static_cast<double>(step);
      const double move = m[e] / (1 - std::pow(0.9, t)) / (std::sqrt(v[e] / (1 - std::pow(0.98, t))) + 1e-9);
      x[e] -= rate * (move + (e < 3 ? 0.2 * x[e] : 0.0));
      EXPECT_NEAR(store.all_values()[e], x[e], 1e-13);
      EXPECT_EQ(store.all_gradients()[e], 0.0);
    }
  }
}

TEST(TransformerModel, LearnsToCopyATable) {
  ParameterStore<float> store;
  TransformerOptions options{
      .vocabularies = {7, 5}, .n_out = 6, .d_model = 16, .d_hidden = 32, .n_layers = 1, .length = 9};
  options.attention.n_heads = 2;
  const Transformer<float> model(store, options);
  SmallTask task = small_task(90, 90, 6);
  for (std::size_t i = 0; i < 90; ++i) task.targets[i] = (task.first[i] + task.second[i]) % 6;
  Workspace workspace, kept_in;
  const Context context{.workspace = &workspace, .threads = 1};
  Transformer<float>::Kept kept;
  LossReport report;
  const Schedule schedule{.rate = 1e-2, .warm_up = 10, .n_steps = 120};
  for (Index step = 1; step <= 120; ++step) {
    Workspace::Frame frame(kept_in);
    const auto logits = model.forward(store, task.tokens(), 9, kept, frame, context);
    const auto d_logits = detail::take_rows<float>(frame, logits.rows, logits.cols);
    report = cross_entropy<float>(detail::read_only(logits), task.targets, d_logits);
    model.backward(store, task.tokens(), detail::read_only(d_logits), kept, context);
    adamw_step(store, step, schedule.at(step));
  }
  EXPECT_EQ(report.n_answers, 90);
  EXPECT_GT(report.accuracy(), 0.95) << "loss " << report.loss;
}

}  // namespace
}  // namespace heed::test
