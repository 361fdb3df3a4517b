#include "heed/layers/attention_layer.hpp"

#include <gtest/gtest.h>

#include "support/layer_check.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

/// Along smooth directions: routing is taken as it is.
void check_layer(const AttentionLayerOptions& options) {
  constexpr Index n = 13, n_sequences = 2, d_model = 12;
  ParameterStore<double> store;
  const AttentionLayer<double> layer(store, "attention", d_model, n, options, 3);
  Workspace workspace, kept_in;
  const Context context{.workspace = &workspace, .threads = 2};
  Workspace::Frame frame(kept_in);
  const auto kept = layer.take(frame, n * n_sequences);
  Matrix<double> x = random_matrix<double>(n * n_sequences, d_model, 1), y(n * n_sequences, d_model), d_x = y;
  const Matrix<double> d_y = random_matrix<double>(n * n_sequences, d_model, 2);
  const auto loss = [&] {
    layer.forward(store, view_of(x), n, kept, output_view_of(y), context);
    return (y.array() * d_y.array()).sum();
  };
  loss();
  store.clear_gradients();
  layer.backward(store, view_of(x), n, kept, view_of(d_y), output_view_of(d_x), context);
  for (Index s = 0; s < store.n_slices(); ++s) {
    const Slice slice = store.slice(s);
    const bool of_trees = store.name(s).ends_with(".planes") || store.name(s).ends_with(".biases");
    if (of_trees) continue;  // the loss is constant between planes
    expect_derivative(store.values(slice).data, store.gradients(slice).data, slice.size(), loss, store.name(s), 1e-5,
                      2e-7);
  }
  expect_derivative(x.data(), d_x.data(), x.size(), loss, "x", 1e-5, 2e-7);
}

TEST(AttentionLayerOf, EveryMethodHasTheGradientsOfItsFormula) {
  for (const AttentionKind kind :
       {AttentionKind::exact, AttentionKind::window, AttentionKind::bigbird, AttentionKind::tf, AttentionKind::tc,
        AttentionKind::linformer, AttentionKind::performer, AttentionKind::linear}) {
    SCOPED_TRACE(static_cast<int>(kind));
    AttentionChoice choice{.kind = kind, .height = 2, .routing = RoutingGradient::none, .window = 3, .rank = 5};
    choice.bigbird.block = 4;
    choice.performer.n_features = 9;
    check_layer({.n_heads = 3, .choice = choice});
    check_layer({.n_heads = 3, .choice = choice, .tied = true, .cosine = true});
  }
  AttentionChoice two{.kind = AttentionKind::tf, .height = 2, .n_trees = 2, .routing = RoutingGradient::none};
  check_layer({.n_heads = 3, .choice = two});
}

TEST(AttentionLayerOf, PositionsAndTyingHaveTheGradientsOfTheirFormulas) {
  for (const bool causal : {false, true}) {
    for (const bool tied : {false, true}) {
      check_layer({.n_heads = 2, .causal = causal, .rotary = true, .tied = tied, .cosine = causal});
    }
  }
}

TEST(AttentionLayerOf, RoutingReachesPlanes) {
  constexpr Index n = 40, d_model = 12;
  ParameterStore<double> store;
  const AttentionChoice choice{.kind = AttentionKind::tf, .height = 2};
  const AttentionLayer<double> layer(store, "attention", d_model, n, {.n_heads = 2, .choice = choice}, 3);
  Workspace workspace, kept_in;
  const Context context{.workspace = &workspace};
  Workspace::Frame frame(kept_in);
  const auto kept = layer.take(frame, n);
  const Matrix<double> x = random_matrix<double>(n, d_model, 1), d_y = random_matrix<double>(n, d_model, 2);
  Matrix<double> y(n, d_model), d_x = y;
  layer.forward(store, view_of(x), n, kept, output_view_of(y), context);
  layer.backward(store, view_of(x), n, kept, view_of(d_y), output_view_of(d_x), context);
  EXPECT_GT(Eigen::Map<const Matrix<double>>(store.gradients(store.find("attention.planes")).data, 6, 6).norm(), 1e-6);
}

}  // namespace
}  // namespace heed::test
