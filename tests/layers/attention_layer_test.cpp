#include "heed/layers/attention_layer.hpp"

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "io/files.hpp"
#include "support/layer_check.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

/// Along smooth directions: routing is taken as it is. `tau`: what temperatures were learned to be.
void check_layer(const AttentionLayerOptions& options, std::optional<double> tau = {}) {
  constexpr Index n = 13, n_sequences = 2, d_model = 12;
  ParameterStore<double> store;
  const AttentionLayer<double> layer(store, "attention", d_model, n, options, 3);
  if (tau) store.fill(store.find("attention.temperature"), *tau);
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
  two.tree_window = 2;
  check_layer({.n_heads = 3, .choice = two});
  two.biases = TreeBiases::stored;
  check_layer({.n_heads = 3, .choice = two, .causal = true});
}

TEST(AttentionLayerOf, PositionsAndTyingHaveTheGradientsOfTheirFormulas) {
  for (const bool causal : {false, true}) {
    for (const bool tied : {false, true}) {
      check_layer({.n_heads = 2, .causal = causal, .rotary = true, .tied = tied, .cosine = causal});
    }
  }
}

TEST(AttentionLayerOf, ATemperatureBelowZeroHasTheGradientOfItsFormula) {
  for (const bool tied : {false, true}) {
    for (const double tau : {0.3, -0.3, -7.0}) check_layer({.n_heads = 2, .tied = tied, .cosine = true}, tau);
  }
}

/// y of a layer whose temperatures were learned to be `tau`, and the gradient by them.
std::pair<Matrix<float>, Matrix<float>> cosine_layer_at(float tau, bool tied) {
  constexpr Index n = 9, d_model = 8;
  ParameterStore<float> store;
  const AttentionLayer<float> layer(store, "attention", d_model, n, {.n_heads = 2, .tied = tied, .cosine = true}, 3);
  const Slice temperature = store.find("attention.temperature");
  store.fill(temperature, tau);
  Workspace workspace, kept_in;
  Workspace::Frame frame(kept_in);
  const auto kept = layer.take(frame, n);
  const Matrix<float> x = random_matrix<float>(n, d_model, 1), d_y = random_matrix<float>(n, d_model, 2);
  Matrix<float> y(n, d_model), d_x(n, d_model);
  layer.forward(store, view_of(x), n, kept, output_view_of(y), {.workspace = &workspace});
  layer.backward(store, view_of(x), n, kept, view_of(d_y), output_view_of(d_x), {.workspace = &workspace});
  EXPECT_TRUE(d_x.allFinite());
  return {y, Eigen::Map<const Matrix<float>>(store.gradients(temperature).data, 1, 2)};
}

TEST(AttentionLayerOf, ATemperatureThatAStepCarriedOverZeroGoesOnAsItsMirrorImage) {
  for (const bool tied : {false, true}) {
    const auto [y, d_tau] = cosine_layer_at(0.2F, tied);
    const auto [mirrored, mirrored_d_tau] = cosine_layer_at(-0.2F, tied);
    EXPECT_SAME_BITS(mirrored, y);
    EXPECT_SAME_BITS((-mirrored_d_tau).eval(), d_tau);
    // At 0 itself every score is 0, and there is a way away from it.
    const auto [level, d_level] = cosine_layer_at(0.0F, tied);
    EXPECT_TRUE(level.allFinite());
    EXPECT_TRUE(d_level.allFinite() && d_level.cwiseAbs().minCoeff() > 1e-5F) << d_level;
  }
}

/// A layer of two heads of width 6 that has run forward and backward over one sequence of 40 tokens.
struct LayerThatRan {
  explicit LayerThatRan(const AttentionChoice& choice, bool cosine = false, bool first_is_zero = false)
      : layer(store, "attention", 12, n, {.n_heads = 2, .choice = choice, .cosine = cosine}, 3),
        frame(kept_in),
        kept(layer.take(frame, n)) {
    const Context context{.workspace = &workspace};
    if (first_is_zero) x.row(0).setZero();
    layer.forward(store, view_of(x), n, kept, output_view_of(y), context);
    layer.backward(store, view_of(x), n, kept, view_of(d_y), output_view_of(d_x), context);
  }
  static Eigen::MatrixXd wide(const View<double>& rows) { return detail::map_of(rows).cast<double>(); }
  Matrix<double> gradient(const std::string& name) {
    const View<double> all = store.gradients(store.find(name));
    return Eigen::Map<const Matrix<double>>(all.data, all.rows, all.cols);
  }
  /// Of the loss by what attention returned, before W_o.
  Matrix<double> d_out() {
    const View<double> w = store.values(store.find("attention.o.w"));
    return d_y * Eigen::Map<const Matrix<double>>(w.data, w.rows, w.cols).transpose();
  }

  static constexpr Index n = 40;
  ParameterStore<double> store;
  Workspace workspace, kept_in;
  AttentionLayer<double> layer;
  Workspace::Frame frame;
  AttentionLayer<double>::Kept kept;
  Matrix<double> x = random_matrix<double>(n, 12, 1), d_y = random_matrix<double>(n, 12, 2), y{n, 12}, d_x{n, 12};
};

TEST(AttentionLayerOf, TreesLearnByTheGradientThatWasChosen) {
  for (const RoutingGradient routing : {RoutingGradient::flip, RoutingGradient::all_leaves, RoutingGradient::none}) {
    for (const bool bounded : {false, true}) {
      for (const TreeBiases biases : {TreeBiases::stored, TreeBiases::key_medians}) {
        LayerThatRan ran(
            {.kind = AttentionKind::tf, .height = 2, .biases = biases, .routing = routing, .bounded = bounded});
        const auto q = LayerThatRan::wide(ran.kept.q), k = LayerThatRan::wide(ran.kept.k),
                   v = LayerThatRan::wide(ran.kept.v);
        const std::vector<TfAttention<double>> methods{TfAttention<double>(ran.layer.method().tree(ran.store, 0)),
                                                       TfAttention<double>(ran.layer.method().tree(ran.store, 1))};
        const HeadOptions heads{.n_heads = 2};
        const auto r = multi_head_attend(q, k, v, heads, {}, methods);
        EXPECT_MATRIX_NEAR(detail::map_of(ran.kept.out), r.out, 1e-13);
        const auto want = multi_head_attend_backward(ran.d_out().cast<double>().eval(), q, k, v, r, heads, {}, methods,
                                                     {}, {.routing = routing, .bounded = bounded});
        const Matrix<double> planes = ran.gradient("attention.planes"), of_biases = ran.gradient("attention.biases");
        for (Index h = 0; h < 2; ++h) {
          const auto& tree = want.d_methods[static_cast<std::size_t>(h)].d_tree;
          EXPECT_MATRIX_NEAR(planes.middleRows(3 * h, 3).eval(), tree.planes, 1e-11);
          // Biases that medians stand in for learn nothing.
          const double used = biases == TreeBiases::stored ? 1 : 0;
          EXPECT_MATRIX_NEAR(of_biases.row(h).transpose().eval(), (used * tree.biases).eval(), 1e-11);
        }
        EXPECT_EQ(planes.norm() > 1e-6, routing != RoutingGradient::none);
      }
    }
  }
}

// A causal window over all tokens is causal exact attention, whatever the trees say; a narrow one is not.
TEST(AttentionLayerOf, TreesWithAWindowOverAllTokensAreExact) {
  constexpr Index n = 14, d_model = 12;
  const Matrix<double> x = random_matrix<double>(n, d_model, 1);
  Workspace workspace;
  const Context context{.workspace = &workspace};
  const auto answer = [&](const AttentionChoice& choice) {
    ParameterStore<double> store;
    const AttentionLayer<double> layer(store, "attention", d_model, n, {.n_heads = 2, .choice = choice, .causal = true},
                                       7);
    Workspace::Frame frame(workspace);
    AttentionLayer<double>::Kept kept;
    layer.take(frame, n, kept);
    Matrix<double> y(n, d_model);
    layer.forward(store, view_of(x), n, kept, output_view_of(y), context);
    return y;
  };
  AttentionChoice trees{.kind = AttentionKind::tf, .height = 2, .biases = TreeBiases::stored, .tree_window = n};
  const Matrix<double> exact = answer({});
  EXPECT_MATRIX_NEAR(answer(trees), exact, 1e-12);
  trees.tree_window = 1;
  EXPECT_GT((answer(trees) - exact).norm(), 1e-3);
}

TEST(AttentionLayerOf, WhatAPassKeepsServesWhicheverLayerComesNext) {
  constexpr Index n = 14, d_model = 12;
  const Matrix<double> x = random_matrix<double>(n, d_model, 1), d_y = random_matrix<double>(n, d_model, 2);
  Workspace workspace, kept_in;
  const Context context{.workspace = &workspace};
  struct Answer {
    Matrix<double> y, d_x;
    std::vector<double> gradients;
  };
  const auto pass = [&](const AttentionChoice& choice, Index n_heads, std::uint64_t seed,
                        AttentionLayer<double>::Kept& kept) {
    ParameterStore<double> store;
    const AttentionLayer<double> layer(store, "attention", d_model, n, {.n_heads = n_heads, .choice = choice}, seed);
    for (double& value : store.all_values()) value += 0.01;  // biases and levels too
    Workspace::Frame frame(kept_in);
    layer.take(frame, n, kept);
    Answer answer{Matrix<double>(n, d_model), Matrix<double>(n, d_model), {}};
    layer.forward(store, view_of(x), n, kept, output_view_of(answer.y), context);
    layer.backward(store, view_of(x), n, kept, view_of(d_y), output_view_of(answer.d_x), context);
    answer.gradients.assign(store.all_gradients().begin(), store.all_gradients().end());
    return answer;
  };
  std::vector<std::pair<AttentionChoice, Index>> layers;
  for (const TreeBiases biases : {TreeBiases::stored, TreeBiases::key_medians}) {
    for (const Index height : {2, 3}) {
      for (const Index n_trees : {1, 2}) {
        layers.push_back({{.kind = AttentionKind::tf, .height = height, .n_trees = n_trees, .biases = biases}, 2});
        layers.push_back({{.kind = AttentionKind::tf, .height = height, .n_trees = n_trees, .biases = biases}, 3});
      }
      AttentionChoice windowed{.kind = AttentionKind::tf, .height = height, .biases = biases, .tree_window = 1};
      layers.push_back({windowed, 2});
      windowed.tree_window = 2;
      layers.push_back({windowed, 2});
      for (const bool by_query : {false, true})
        layers.push_back({{.kind = AttentionKind::tc, .height = height, .biases = biases, .by_query = by_query}, 2});
    }
  }
  for (const Index rank : {4, 5}) layers.push_back({{.kind = AttentionKind::linformer, .rank = rank}, 3});
  AttentionLayer<double>::Kept reused;
  for (std::uint64_t seed = 1; seed <= 2; ++seed) {
    for (std::size_t l = 0; l < layers.size(); ++l) {
      for (std::uint64_t again = 0; again < 2; ++again) {  // other numbers in the same shapes
        AttentionLayer<double>::Kept fresh;
        const Answer want = pass(layers[l].first, layers[l].second, seed + 10 * again, fresh);
        const Answer got = pass(layers[l].first, layers[l].second, seed + 10 * again, reused);
        EXPECT_SAME_BITS(got.y, want.y) << l;
        EXPECT_SAME_BITS(got.d_x, want.d_x) << l;
        EXPECT_EQ(got.gradients, want.gradients) << l;
      }
    }
  }
}

TEST(AttentionLayerOf, LevelsAreWeighedByQueriesWhereAsked) {
  for (const bool by_query : {false, true}) {
    LayerThatRan ran({.kind = AttentionKind::tc, .height = 2, .by_query = by_query});
    std::vector<TcAttention<double>> methods;
    for (Index h = 0; h < 2; ++h) {
      methods.emplace_back(ran.layer.method().tree(ran.store, h), Vector<double>::Zero(3).eval(),
                           TcOptions{.by_query = by_query});
    }
    const auto want = multi_head_attend(LayerThatRan::wide(ran.kept.q), LayerThatRan::wide(ran.kept.k),
                                        LayerThatRan::wide(ran.kept.v), {.n_heads = 2}, {}, methods);
    EXPECT_MATRIX_NEAR(detail::map_of(ran.kept.out), want.out, 1e-13);
  }
}

TEST(AttentionLayerOf, ATokenOfZerosHasNoNaNUnderCosine) {
  LayerThatRan ran({}, true, true);
  EXPECT_TRUE(ran.y.allFinite());
  EXPECT_TRUE(ran.d_x.bottomRows(LayerThatRan::n - 1).allFinite());
  for (const double gradient : ran.store.all_gradients()) ASSERT_TRUE(std::isfinite(gradient));
}

TEST(AttentionLayerOf, RefusesItsOptionsByNameAndAddsNothing) {
  using Change = std::function<void(AttentionLayerOptions&)>;
  const auto refused = [](const std::string& name, const Change& change, Index d_model = 12) {
    ParameterStore<float> store;
    AttentionLayerOptions options;
    change(options);
    const std::string said =
        heed_test::error_of<OptionError>([&] { AttentionLayer<float>(store, "attention", d_model, 16, options, 3); });
    EXPECT_NE(said.find(name), std::string::npos) << "'" << said << "' must name " << name;
    EXPECT_EQ(store.n_slices(), 0) << name;
  };
  refused("AttentionLayerOptions::n_heads = 0", [](auto& options) { options.n_heads = 0; });
  refused("AttentionLayerOptions::n_heads = 5", [](auto& options) { options.n_heads = 5; });
  refused(
      "d_model = 0", [](auto&) {}, 0);
  refused("AttentionLayerOptions::rotary", [](auto& options) { options.rotary = true; });  // heads of width 3
  for (const double bad : {-1.0, 0.0, 1e300, 1e-300, nan_in_memory<double>, infinity_in_memory<double>}) {
    refused("AttentionLayerOptions::temperature = ", [&](auto& options) {
      options.cosine = true;
      options.temperature = bad;
    });
  }
  ParameterStore<double> store;  // double holds both
  for (const double good : {1e300, 1e-300})
    AttentionLayer<double>(store, std::to_string(good), 12, 16, {.cosine = true, .temperature = good}, 3);
  AttentionLayer<double>(store, "not read", 12, 16, {.temperature = -1}, 3);
}

TEST(AttentionLayerOf, ATemperatureOfTheLargestNumbersGivesNoNaN) {
  constexpr Index n = 9, d_model = 8;
  ParameterStore<float> store;
  const AttentionLayer<float> layer(store, "attention", d_model, n, {.n_heads = 2, .cosine = true, .temperature = 3e38},
                                    3);
  Workspace workspace, kept_in;
  Workspace::Frame frame(kept_in);
  const auto kept = layer.take(frame, n);
  const Matrix<float> x = random_matrix<float>(n, d_model, 1);
  Matrix<float> y(n, d_model);
  layer.forward(store, view_of(x), n, kept, output_view_of(y), {.workspace = &workspace});
  EXPECT_TRUE(y.allFinite());
}

/// What every choice of attention that no layer can use is told.
const std::pair<const char*, AttentionChoice> unusable_choices[] = {
    {"AttentionChoice::kind = 99", {.kind = static_cast<AttentionKind>(99)}},
    {"AttentionChoice::kind = -1", {.kind = static_cast<AttentionKind>(-1)}},
    {"AttentionChoice::height = -1", {.kind = AttentionKind::tf, .height = -1}},
    {"AttentionChoice::height = -2", {.kind = AttentionKind::tc, .height = -2}},
    {"AttentionChoice::height = 25", {.kind = AttentionKind::tf, .height = 25}},
    {"AttentionChoice::height = 64", {.kind = AttentionKind::tf, .height = 64}},
    {"AttentionChoice::height = 1000", {.kind = AttentionKind::tc, .height = 1000}},
    {"AttentionChoice::n_trees = 0", {.kind = AttentionKind::tf, .n_trees = 0}},
    {"AttentionChoice::n_trees = ", {.kind = AttentionKind::tf, .n_trees = std::numeric_limits<Index>::max()}},
    {"AttentionChoice::n_trees = 3", {.kind = AttentionKind::tc, .n_trees = 3}},
    {"AttentionChoice::tree_window = -1", {.kind = AttentionKind::tf, .tree_window = -1}},
    {"AttentionChoice::tree_window = 4", {.kind = AttentionKind::tc, .tree_window = 4}},
    {"AttentionChoice::biases = 2", {.kind = AttentionKind::tf, .biases = static_cast<TreeBiases>(2)}},
    {"AttentionChoice::routing = 3", {.kind = AttentionKind::tf, .routing = static_cast<RoutingGradient>(3)}},
    {"AttentionChoice::window = -5", {.kind = AttentionKind::window, .window = -5}},
    {"BigBirdOptions::block = -1", {.kind = AttentionKind::bigbird, .bigbird = {.block = -1}}},
    {"AttentionChoice::rank = 0", {.kind = AttentionKind::linformer, .rank = 0}},
    {"AttentionChoice::rank = ", {.kind = AttentionKind::linformer, .rank = std::numeric_limits<Index>::max()}},
    {"PerformerOptions::n_features = 0", {.kind = AttentionKind::performer, .performer = {.n_features = 0}}},
};

TEST(AttentionLayerOf, RefusesAChoiceThatItCannotUseByNameAndChangesNothing) {
  for (const auto& unusable : unusable_choices) {
    const auto& name = unusable.first;
    const AttentionChoice& choice = unusable.second;
    SCOPED_TRACE(name);
    ParameterStore<double> store;
    const auto says = [&](const std::function<void()>& action) {
      const std::string said = heed_test::error_of<OptionError>(action);
      EXPECT_NE(said.find(name), std::string::npos) << said;
    };
    says([&] { AttentionLayer<double>(store, "attention", 12, 16, {.choice = choice}, 3); });
    EXPECT_EQ(store.n_slices(), 0);
    AttentionLayer<double> layer(store, "attention", 12, 16, {}, 3);
    const Index n_slices = store.n_slices();
    says([&] { layer.choose(store, "other", choice, 16, 3); });
    EXPECT_EQ(store.n_slices(), n_slices);
    EXPECT_EQ(layer.options().choice.kind, AttentionKind::exact);
    EXPECT_EQ(layer.method().choice().kind, AttentionKind::exact);
    AttentionChoice unread = choice;  // what exact attention does not read may be anything
    unread.kind = AttentionKind::exact;
    layer.choose(store, "other", unread, 16, 3);
  }
}

TEST(AttentionLayerOf, ACausalOneRefusesWhatLooksAtAllKeys) {
  ParameterStore<double> store;
  const auto made = [&](const AttentionChoice& choice) {
    return AttentionLayer<double>(store, std::to_string(store.n_slices()), 12, 16, {.choice = choice, .causal = true},
                                  3);
  };
  for (const AttentionKind kind : {AttentionKind::tf, AttentionKind::tc}) {
    const Index n_slices = store.n_slices();
    EXPECT_THROW(made({.kind = kind}), OptionError);
    EXPECT_THROW(made({.kind = kind, .height = 0}), OptionError);  // as the method itself
    EXPECT_EQ(store.n_slices(), n_slices);
    auto layer = made({.kind = kind, .biases = TreeBiases::stored});
    EXPECT_THROW(layer.set_biases(TreeBiases::key_medians), OptionError);
    EXPECT_EQ(layer.options().choice.biases, TreeBiases::stored);
    EXPECT_EQ(layer.method().choice().biases, TreeBiases::stored);
  }
  EXPECT_THROW(made({.kind = AttentionKind::linformer}), OptionError);
  for (const AttentionKind kind : {AttentionKind::exact, AttentionKind::window, AttentionKind::bigbird,
                                   AttentionKind::performer, AttentionKind::linear}) {
    auto layer = made({.kind = kind});
    layer.set_biases(TreeBiases::key_medians);  // it has none
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
