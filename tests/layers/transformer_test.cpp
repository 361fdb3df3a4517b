#include "heed/layers/transformer.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "heed/train/adamw.hpp"
#include "heed/train/cross_entropy.hpp"
#include "io/files.hpp"
#include "support/allocations.hpp"
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

TEST(TransformerModel, RefusesItsOptionsByNameAndAddsNothing) {
  const auto refused = [](const std::string& name, const std::function<void(TransformerOptions&)>& change) {
    ParameterStore<float> store;
    TransformerOptions options{.vocabularies = {7, 5}, .n_out = 6, .d_model = 8, .d_hidden = 12, .length = 8};
    options.attention.n_heads = 2;
    change(options);
    std::string said;
    try {
      Transformer<float>(store, options);
    } catch (const std::invalid_argument& error) {
      said = error.what();
    }
    EXPECT_NE(said.find(name), std::string::npos) << "'" << said << "' must name " << name;
    EXPECT_EQ(store.n_slices(), 0) << name;
    EXPECT_EQ(store.size(), 0) << name;
  };
  refused("TransformerOptions::n_out = 0", [](auto& options) { options.n_out = 0; });
  refused("TransformerOptions::d_model = -8", [](auto& options) { options.d_model = -8; });
  refused("TransformerOptions::d_hidden = -1", [](auto& options) { options.d_hidden = -1; });
  refused("TransformerOptions::d_hidden = ",
          [](auto& options) { options.d_hidden = std::numeric_limits<Index>::max(); });
  refused("TransformerOptions::n_layers = 0", [](auto& options) { options.n_layers = 0; });
  refused("TransformerOptions::length = 0", [](auto& options) { options.length = 0; });
  refused("TransformerOptions::vocabularies has no entries", [](auto& options) { options.vocabularies = {}; });
  refused("TransformerOptions::vocabularies[0] = 0", [](auto& options) { options.vocabularies[0] = 0; });
  refused("TransformerOptions::vocabularies[1] = -1", [](auto& options) { options.vocabularies[1] = -1; });
  refused("TransformerOptions::deviations has 1", [](auto& options) { options.deviations = {1}; });
  for (const double bad : {-1.0, 1e38, nan_in_memory<double>, infinity_in_memory<double>})
    refused("TransformerOptions::deviations[1] = ", [&](auto& options) { options.deviations = {1, bad}; });
  refused("TransformerOptions::positions = 3", [](auto& options) { options.positions = static_cast<Positions>(3); });
  refused("TransformerOptions::pooling = 3", [](auto& options) { options.pooling = static_cast<Pooling>(3); });
  refused("TransformerOptions::activation = 3", [](auto& options) { options.activation = static_cast<Activation>(3); });
  refused("AttentionLayerOptions::n_heads = 3", [](auto& options) { options.attention.n_heads = 3; });
  refused("AttentionLayerOptions::causal", [](auto& options) {
    options.attention.choice.kind = AttentionKind::linformer;
    options.attention.causal = true;
  });
  refused("TreeBiases::key_medians", [](auto& options) {
    options.attention.choice.kind = AttentionKind::tf;
    options.attention.causal = true;
  });
}

TEST(TransformerModel, WhereItsMemoryEndsOrANameIsTakenItTakesItsParametersBack) {
  TransformerOptions options{.vocabularies = {7}, .n_out = 6, .d_model = 8, .d_hidden = 12, .n_layers = 1, .length = 8};
  options.attention.n_heads = 2;
  options.attention.choice = {.kind = AttentionKind::tc, .height = 2};
  ParameterStore<float> taken;
  taken.add("head.b", 1, 1);
  EXPECT_THROW(Transformer<float>(taken, options), OptionError);
  EXPECT_EQ(taken.n_slices(), 1);
  EXPECT_EQ(taken.size(), 1);
  if (!counts_allocations()) GTEST_SKIP() << "allocations are not counted here";
  ParameterStore<float> store;
  const int failures = with_each_allocation_failing([&] { Transformer<float>(store, options); },
                                                    [&] { ASSERT_EQ(store.n_slices() + store.size(), 0); });
  EXPECT_GT(failures, 20);
}

TEST(TransformerModel, RefusesTokensThatDoNotFit) {
  ParameterStore<double> store;
  const Transformer<double> model(store, {.vocabularies = {7, 5}, .n_out = 6, .d_model = 8, .length = 8});
  Workspace workspace, kept_in;
  Workspace::Frame frame(kept_in);
  Transformer<double>::Kept kept;
  const SmallTask task = small_task(18, 18, 6);
  using Lists = std::vector<std::span<const std::int32_t>>;
  const auto refused = [&](const std::string& part, const Lists& tokens, Index n) {
    const std::string said = heed_test::error_of<ShapeError>(
        [&] { model.forward(store, tokens, n, kept, frame, {.workspace = &workspace}); });
    EXPECT_NE(said.find(part), std::string::npos) << said;
  };
  for (const Index n : {0, -6}) refused("n = ", task.tokens(), n);
  refused("tokens has 0 lists", {}, 6);
  refused("tokens has 1 lists", {task.first}, 6);
  refused("tokens[0] has 18 entries", task.tokens(), 5);
  refused("tokens[1] has 12 entries", {task.first, std::span(task.second).first(12)}, 6);
  refused("tokens[0] has 0 entries", {{}, {}}, 6);
}

TEST(CrossEntropy, NamesATargetOutside) {
  const Matrix<double> logits = Matrix<double>::Zero(3, 4);
  const std::vector<std::int32_t> targets{0, no_target, 4};
  EXPECT_EQ(heed_test::error_of<OptionError>([&] { cross_entropy<double>(view_of(logits), targets, {}); }),
            "heed: targets[2] = 4 must be in [0, 4), or no_target = -1 for a row that is not asked");
}

TEST(CrossEntropy, NamesARowThatIsNoDistributionAndWritesNothing) {
  constexpr double low = -std::numeric_limits<double>::infinity();
  Matrix<double> logits = Matrix<double>::Zero(3, 4), d_logits = Matrix<double>::Constant(3, 4, 7);
  logits.row(1).setConstant(low);
  const auto run = [&](const std::vector<std::int32_t>& targets) {
    return cross_entropy<double>(view_of(logits), targets, output_view_of(d_logits));
  };
  EXPECT_EQ(heed_test::error_of<OptionError>([&] {
              run({0, 3, 2});
            }),
            "heed: logits has -inf alone in row 1, which has the target 3, but must have another number there");
  EXPECT_TRUE((d_logits.array() == 7).all());
  EXPECT_NEAR(run({0, no_target, 2}).loss, std::log(4.0), 1e-15);  // who is not asked may be anything
  EXPECT_TRUE(d_logits.row(1).isZero(0));
  logits(1, 3) = -2;  // one number is a distribution
  EXPECT_NEAR(run({0, 3, 2}).loss, std::log(4.0) * 2 / 3, 1e-15);
  EXPECT_TRUE(d_logits.row(1).isZero(1e-300));
  EXPECT_EQ(run({0, 2, 2}).loss, std::numeric_limits<double>::infinity());
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

/// A parameter of 1 after three steps with a gradient of 0.5.
template <class T>
double after_three_steps(const AdamWOptions& options) {
  ParameterStore<T> store;
  store.fill(store.add("x", 1, 1), T(1));
  for (Index step = 1; step <= 3; ++step) {
    store.all_gradients()[0] = T(0.5) * static_cast<T>(step);
    adamw_step(store, step, 1e-2, options);
  }
  return static_cast<double>(store.all_values()[0]);
}

TEST(AdamW, InFloatIsThatOfDoubleForBetasNearOne) {
  for (const double rest : {0.1, 1e-3, 1e-5, 1e-7, 1e-8, 1e-9, 1e-12, 0x1p-53}) {
    const AdamWOptions second{.beta_2 = 1 - rest, .decay = 0}, first{.beta_1 = 1 - rest, .decay = 0};
    for (const AdamWOptions& options : {first, second}) {
      const double want = 1 - after_three_steps<double>(options);
      EXPECT_NEAR(1 - after_three_steps<float>(options), want, 1e-3 * want) << rest;
      EXPECT_GT(want, 1e-2);
      EXPECT_LT(want, 1e-1);
    }
  }
}

TEST(AdamW, RefusesOptionsByNameAndChangesNothing) {
  const auto refused = [](const std::string& part, const AdamWOptions& options, double rate = 0.1,
                          double own_rate = 1) {
    ParameterStore<float> store;
    store.fill(store.add("x", 1, 2, {.rate = own_rate}), 1.0F);
    store.all_gradients()[1] = 1.0F;
    const std::string said = heed_test::error_of<OptionError>([&] { adamw_step(store, 1, rate, options); });
    EXPECT_NE(said.find(part), std::string::npos) << "'" << said << "' must say " << part;
    EXPECT_EQ(store.all_values()[1], 1.0F);
    EXPECT_EQ(store.all_gradients()[1], 1.0F);
    EXPECT_EQ(store.second_moments()[1], 0.0F);
  };
  constexpr double nan = nan_in_memory<double>, infinity = infinity_in_memory<double>;
  for (const double bad : {1.0, 1.5, -0.1, nan, infinity}) {
    refused("AdamWOptions::beta_1 = ", {.beta_1 = bad});
    refused("AdamWOptions::beta_2 = ", {.beta_2 = bad});
  }
  refused("AdamWOptions::beta_1 = 1 must be at least 0 and below 1", {.beta_1 = 1});
  for (const double bad : {0.0, -1.0, 1e-31, 2.0, nan}) refused("AdamWOptions::eps = ", {.eps = bad});
  for (const double bad : {-1.0, nan, infinity, 1e39, 1e-60}) {
    refused("AdamWOptions::decay = ", {.decay = bad});
    refused("AdamWOptions::clip = ", {.clip = bad});
  }
  refused("AdamWOptions::decay = nan must be finite and at least 0", {.decay = nan});
  for (const double bad : {-1.0, nan, infinity}) refused("rate = ", {}, bad);
  // Products of numbers that float holds.
  refused("rate = 1e+30 is too high for 'x'", {}, 1e30, 1e10);
  refused("rate = 1e+10 is too high for 'x'", {.decay = 1e30}, 1e10);
  refused("rate = 1e+30 is too high for 'x'", {.beta_1 = 1 - 1e-12}, 1e30);
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
