#include "heed/train/distillation.hpp"

#include <vector>

#include <gtest/gtest.h>

#include "heed/core/random.hpp"
#include "heed/exact/reference.hpp"
#include "heed/train/choose_attention.hpp"
#include "heed/train/training_run.hpp"
#include "support/layer_check.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

struct DistilledModel {
  DistilledModel() : model(store, model_options()) {}
  static TransformerOptions model_options() {
    TransformerOptions options{.vocabularies = {30}, .n_out = 5, .d_model = 8, .d_hidden = 12, .n_layers = 3};
    options.attention.n_heads = 2;
    options.deviations = {1.0};
    return options;
  }
  static Batch batch() {
    CounterRng numbers(3, 1);
    Batch batch{.tokens = {{}}, .targets = {}, .n = 13};
    for (Index i = 0; i < 26; ++i) {
      batch.tokens[0].push_back(static_cast<std::int32_t>(numbers.below(30)));
      batch.targets.push_back(batch.tokens[0].back() % 5);
    }
    return batch;
  }
  ParameterStore<double> store;
  Transformer<double> model;
};

TEST(Distillation, HasTheGradientOfItsDistanceFromExactAttention) {
  DistilledModel of;
  const AttentionChoice tc{.kind = AttentionKind::tc, .height = 2, .routing = RoutingGradient::none};
  choose_attention(of.model, of.store, {tc, {}, {.kind = AttentionKind::window, .window = 2}});
  const Batch batch = DistilledModel::batch();
  Workspace workspace, distilled_in;
  const Context context{.workspace = &workspace};
  ModelPass<double> pass;
  constexpr double weight = 0.7;
  std::vector<Matrix<double>> targets(3);
  double distance = 0;
  of.store.clear_gradients();
  pass.run(of.model, of.store, batch, context, true, [&](auto& kept, const LossReport&, const View<double>& d_logits) {
    for (const std::size_t l : {0, 2}) {
      const auto& own = kept.blocks[l].attention;
      targets[l].resize(26, 8);
      for (Index s = 0; s < 2; ++s) {
        for (Index h = 0; h < 2; ++h) {
          const auto part = [&](const View<double>& rows) {
            return detail::map_of(rows.rows_from(13 * s, 13).columns(4 * h, 4));
          };
          targets[l].block(13 * s, 4 * h, 13, 4) = reference_attention(part(own.q), part(own.k), part(own.v)).out;
        }
      }
    }
    Workspace::Frame frame(distilled_in);
    distance = distil_attention(of.model, kept, weight, frame, context);
    pass.backward(of.model, of.store, kept, d_logits, 1, context);
  });
  double plain = 0;
  const auto loss = [&] {
    plain = 0;
    const auto report =
        pass.run(of.model, of.store, batch, context, false, [&](auto& kept, const LossReport&, const View<double>&) {
          for (const std::size_t l : {0, 2}) {
            const auto out = detail::map_of(kept.blocks[l].attention.out);
            plain += (out - targets[l]).squaredNorm() / targets[l].squaredNorm();
          }
        });
    return report.loss + weight * plain;
  };
  loss();
  EXPECT_NEAR(distance, plain, 1e-13);
  EXPECT_GT(distance, 0.1);
  for (Index s = 0; s < of.store.n_slices(); ++s) {
    const Slice slice = of.store.slice(s);
    if (of.store.name(s).ends_with(".planes") || of.store.name(s).ends_with(".biases")) continue;
    expect_derivative(of.store.values(slice).data, of.store.gradients(slice).data, slice.size(), loss, of.store.name(s),
                      1e-5, 1e-6);
  }
}

TEST(Distillation, IsATermOfATrainingStep) {
  const auto first_step = [](double weight, Index micro_batches) {
    DistilledModel of;
    const AttentionChoice tf{.kind = AttentionKind::tf, .height = 2};
    choose_attention(of.model, of.store, {tf, tf, {}});
    TrainingHooks hooks{.make_batch = [](Batch& into, std::uint64_t, Index) { into = DistilledModel::batch(); }};
    TrainingOptions options{.n_steps = 1, .micro_batches = micro_batches};
    options.distillation = weight;
    return train(of.model, of.store, hooks, options).last;
  };
  const StepReport off = first_step(0, 1), one = first_step(2, 1), two = first_step(2, 2);
  EXPECT_EQ(off.distillation, 0);
  EXPECT_GT(one.distillation, 0.1);
  EXPECT_NEAR(two.distillation, one.distillation, 1e-13);
  EXPECT_NEAR(two.gradient_norm, one.gradient_norm, 1e-13 * one.gradient_norm);
  EXPECT_GT(std::abs(off.gradient_norm / one.gradient_norm - 1), 1e-3);
  EXPECT_EQ(off.attention_flops_per_token, one.attention_flops_per_token);
}

}  // namespace
}  // namespace heed::test
