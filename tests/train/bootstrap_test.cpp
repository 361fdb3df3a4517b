#include "heed/train/bootstrap.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include <Eigen/Eigenvalues>
#include <gtest/gtest.h>

#include "heed/core/random.hpp"
#include "heed/io/parameter_file.hpp"
#include "heed/train/training_run.hpp"
#include "io/files.hpp"
#include "support/matrices.hpp"

namespace heed::test {
namespace {

/// Two layers of two heads of width 4, and batches of 40 tokens a sequence.
struct GrowingModel {
  explicit GrowingModel(bool cosine = false) : model(store, model_options(cosine)) {}
  static TransformerOptions model_options(bool cosine) {
    TransformerOptions options{.vocabularies = {50}, .n_out = 5, .d_model = 8, .d_hidden = 12, .n_layers = 2};
    options.attention.n_heads = 2;
    options.attention.cosine = cosine;
    options.deviations = {1.0};
    return options;
  }
  static Batch batch(Index number, Index n_sequences = 3) {
    CounterRng numbers(3, static_cast<std::uint64_t>(number));
    Batch batch{.tokens = {{}}, .targets = {}, .n = 40};
    for (Index i = 0; i < 40 * n_sequences; ++i) {
      batch.tokens[0].push_back(static_cast<std::int32_t>(numbers.below(50)));
      batch.targets.push_back(batch.tokens[0].back() % 5);
    }
    return batch;
  }
  static TrainingHooks hooks(Index n_sequences = 3) {
    return {
        .make_batch = [n_sequences](Batch& into, std::uint64_t, Index number) { into = batch(number, n_sequences); }};
  }
  void go_on(const TrainingOptions& options, const TrainingHooks& by = hooks()) {
    train(model, store, by, options, 0, {.threads = 1});
  }
  double loss(const Batch& on) { return ModelPass<double>().loss(model, store, on, {.threads = 1}).loss; }
  /// Parameters `name` of a layer as a matrix.
  Eigen::Map<Matrix<double>> part(Index layer, const std::string& name) {
    const View<double> values = store.values(store.find(model.attention_name(layer) + name));
    return {values.data, values.rows, values.cols};
  }

  ParameterStore<double> store;
  Transformer<double> model;
};

std::vector<std::string> names_of(const ParameterStore<double>& store) {
  std::vector<std::string> names;
  for (Index s = 0; s < store.n_slices(); ++s) names.push_back(store.name(s));
  return names;
}

TEST(ChooseAttention, ATreeOfHeightZeroIsTheExactModel) {
  GrowingModel of;
  of.go_on({.n_steps = 3, .schedule = {.warm_up = 0}});
  const Batch batch = GrowingModel::batch(77);
  const double before = of.loss(batch);
  const auto moments = of.store.second_moments()[5];
  const AttentionChoice leaf{.kind = AttentionKind::tf, .height = 0};
  choose_attention(of.model, of.store, {leaf, {}}, {.reset_moments = false});
  EXPECT_EQ(of.loss(batch), before);
  EXPECT_EQ(of.store.second_moments()[5], moments);
  choose_attention(of.model, of.store, {leaf, leaf});
  EXPECT_EQ(of.loss(batch), before);
  EXPECT_EQ(of.store.second_moments()[5], 0.0);
  EXPECT_EQ(attention_choices(of.model)[1].kind, AttentionKind::tf);
  EXPECT_THROW(choose_attention(of.model, of.store, {leaf}), ShapeError);
  EXPECT_THROW(grow_trees(of.model, of.store, batch, {2}), OptionError);
  EXPECT_EQ(of.loss(batch), before);
}

TEST(GrowTrees, TcComputesWhatItDidUntilItsNewLevelIsRaised) {
  for (const bool by_query : {false, true}) {
    for (const TreeBiases biases : {TreeBiases::key_medians, TreeBiases::stored}) {
      GrowingModel of;
      const AttentionChoice choice{.kind = AttentionKind::tc, .height = 2, .biases = biases, .by_query = by_query};
      choose_attention(of.model, of.store, {choice, choice});
      const TrainingOptions options{.n_steps = 3, .schedule = {.rate = 1e-2, .warm_up = 0, .decay = Decay::none}};
      of.go_on(options);
      const Batch batch = GrowingModel::batch(77), others = GrowingModel::batch(78);
      const double before = of.loss(batch), before_others = of.loss(others);
      grow_trees(of.model, of.store, batch);
      grow_trees(of.model, of.store, batch, {1});
      EXPECT_EQ(attention_choices(of.model)[0].height, 3);
      EXPECT_EQ(attention_choices(of.model)[1].height, 4);
      EXPECT_NEAR(of.loss(batch), before, 1e-13);
      EXPECT_NEAR(of.loss(others), before_others, 1e-13);
      EXPECT_EQ(of.part(1, ".levels")(0, 4), minus_infinity_in_memory<double>);

      of.go_on(options);  // off, a level learns nothing
      EXPECT_EQ(of.part(0, ".levels")(1, 3), minus_infinity_in_memory<double>);
      const double off = of.loss(batch);
      raise_levels(of.model, of.store, 3);
      EXPECT_NE(of.loss(batch), off);
      const Matrix<double> raised = of.part(1, ".levels");
      for (Index h = 0; h < 2; ++h) {
        EXPECT_EQ(raised(h, 3), raised.row(h).head(3).maxCoeff() - 3.0);
        EXPECT_EQ(raised(h, 4), raised(h, 3));
      }
      of.go_on(options);
      EXPECT_NE(of.part(1, ".levels")(0, 4), raised(0, 4));
    }
  }
}

TEST(GrowTrees, NodesKeepTheirPlacesAndLeavesAreHalvedAlongTheirPrincipalDirection) {
  for (const TreeBiases biases : {TreeBiases::key_medians, TreeBiases::stored}) {
    GrowingModel of(true);
    const AttentionChoice choice{.kind = AttentionKind::tf, .height = 1, .n_trees = 2, .biases = biases};
    choose_attention(of.model, of.store, {{}, choice});
    of.store.set_rate(of.store.find("layer.1.attention.planes"), 0.25);
    const Matrix<double> old_planes = of.part(1, ".planes"), old_biases = of.part(1, ".biases");
    const GrowingModel before = of;
    const Batch batch = GrowingModel::batch(5);
    grow_trees(of.model, of.store, batch);
    EXPECT_EQ(of.store.options(of.store.find("layer.1.attention.planes").number).rate, 0.25);
    const Matrix<double> planes = of.part(1, ".planes"), new_biases = of.part(1, ".biases");
    ModelPass<double>().run(
        before.model, before.store, batch, {}, false, [&](const auto& kept, const auto&, const auto&) {
          const auto& k = kept.blocks[1].attention.k;
          for (Index tree = 0; tree < 4; ++tree) {  // two a head
            EXPECT_SAME_BITS(planes.row(3 * tree).eval(), old_planes.row(tree).eval());
            EXPECT_EQ(new_biases(tree, 0), old_biases(tree, 0));
            const Index head = tree / 2;
            // Plain routing through the old node, each sequence by its own median where the rule says so.
            std::vector<std::vector<Eigen::VectorXd>> leaves(2);
            for (Index s = 0; s < 3; ++s) {
              std::vector<double> z;
              for (Index j = 0; j < 40; ++j) {
                double sum = 0;
                for (Index c = 0; c < 4; ++c) sum += old_planes(tree, c) * k(s * 40 + j, head * 4 + c);
                z.push_back(sum);
              }
              std::vector<double> sorted = z;
              std::sort(sorted.begin(), sorted.end());
              const double bias = biases == TreeBiases::stored ? old_biases(tree, 0) : -sorted[20];
              for (Index j = 0; j < 40; ++j) {
                Eigen::VectorXd row(4);
                for (Index c = 0; c < 4; ++c) row(c) = k(s * 40 + j, head * 4 + c);
                leaves[z[static_cast<std::size_t>(j)] + bias >= 0 ? 1 : 0].push_back(row);
              }
            }
            for (std::size_t leaf = 0; leaf < 2; ++leaf) {
              const auto& rows = leaves[leaf];
              ASSERT_GT(rows.size(), 8U);
              const Index node = 1 + static_cast<Index>(leaf);
              const Eigen::VectorXd w = planes.row(3 * tree + node).transpose().cast<double>();
              EXPECT_NEAR(w.norm(), 1, 1e-14);
              Eigen::VectorXd mean = Eigen::VectorXd::Zero(4);
              for (const auto& row : rows) mean += row / static_cast<double>(rows.size());
              Eigen::MatrixXd covariance = Eigen::MatrixXd::Zero(4, 4);
              double second = 0;
              for (const auto& row : rows) {
                covariance += (row - mean) * (row - mean).transpose();
                second += row.dot(w) + static_cast<double>(new_biases(tree, node)) >= 0 ? 1 : 0;
              }
              const double most = Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd>(covariance).eigenvalues()(3);
              EXPECT_GT(w.dot(covariance * w), 0.95 * most);
              // Tokens are drawn from 50, so that rows repeat: a tie goes to one side as a whole.
              EXPECT_NEAR(second / static_cast<double>(rows.size()), 0.5, 0.1);
            }
          }
        });
  }
}

TEST(GrowTrees, MomentsStayAtTheirNodesWhereTheyAreKept) {
  GrowingModel of;
  const AttentionChoice choice{.kind = AttentionKind::tc, .height = 1};
  choose_attention(of.model, of.store, {choice, choice});
  of.go_on({.n_steps = 3, .schedule = {.warm_up = 0}});
  const ParameterStore<double> old = of.store;
  GrowthOptions options{.planes = NewPlanes::random, .conversion = {.reset_moments = false}};
  grow_trees(of.model, of.store, GrowingModel::batch(5), {}, options);
  for (const char* part : {".planes", ".levels"}) {
    const Slice from = old.find("layer.1.attention" + std::string(part));
    const Slice to = of.store.find("layer.1.attention" + std::string(part));
    const Index width = from.size() / 2, new_width = to.size() / 2;  // of a head
    for (Index head = 0; head < 2; ++head) {
      for (Index e = 0; e < new_width; ++e) {
        const double got = of.store.second_moments()[static_cast<std::size_t>(to.first + head * new_width + e)];
        const double want =
            e < width ? old.second_moments()[static_cast<std::size_t>(from.first + head * width + e)] : 0.0;
        EXPECT_EQ(got, want) << part << e;
        EXPECT_TRUE(e >= width || got > 0) << part << e;
      }
    }
  }
  grow_trees(of.model, of.store, GrowingModel::batch(5));
  EXPECT_EQ(of.store.second_moments()[3], 0.0);
}

TEST(GrowTrees, ALayerNamedTwiceGrowsOnce) {
  GrowingModel of;
  const AttentionChoice choice{.kind = AttentionKind::tf, .height = 1};
  choose_attention(of.model, of.store, {choice, choice});
  grow_trees(of.model, of.store, GrowingModel::batch(5), {1, 1});
  EXPECT_EQ(attention_choices(of.model)[0].height, 1);
  EXPECT_EQ(attention_choices(of.model)[1].height, 2);
}

TEST(GrowTrees, RandomPlanesOfEachLayerAreItsOwn) {
  GrowingModel of;
  const AttentionChoice choice{.kind = AttentionKind::tf, .height = 1};
  choose_attention(of.model, of.store, {choice, choice});
  GrowthOptions options{.planes = NewPlanes::random};
  options.conversion.seed = 8;
  grow_trees(of.model, of.store, GrowingModel::batch(5), {}, options);
  for (Index node = 1; node < 3; ++node)
    EXPECT_GT((of.part(0, ".planes").row(node) - of.part(1, ".planes").row(node)).norm(), 0.1) << node;
}

TEST(RunningMedians, StandForThoseOfTheSequence) {
  GrowingModel of;
  const AttentionChoice choice{.kind = AttentionKind::tf, .height = 3};
  choose_attention(of.model, of.store, {choice, choice});
  // At rate 0 and share 1 stored biases become the medians of the one sequence.
  const TrainingOptions options{.n_steps = 1, .schedule = {.rate = 0}, .median_share = 1};
  of.go_on(options, GrowingModel::hooks(1));
  const Batch batch = GrowingModel::batch(0, 1);
  const double medians = of.loss(batch);
  use_biases(of.model, TreeBiases::stored);
  EXPECT_EQ(of.loss(batch), medians);
  EXPECT_EQ(attention_choices(of.model)[1].biases, TreeBiases::stored);
  EXPECT_EQ(of.model.attention(1).options().choice.biases, TreeBiases::stored);
  const Matrix<double> biases = of.part(0, ".biases");
  EXPECT_GT(biases.norm(), 0);

  GrowingModel slow;
  choose_attention(slow.model, slow.store, {choice, choice});
  TrainingOptions half = options;
  half.median_share = 0.5;
  TrainingHooks hooks = GrowingModel::hooks(1);
  hooks.make_batch = [&](Batch& into, std::uint64_t, Index) { into = batch; };
  half.n_steps = 2;
  slow.go_on(half, hooks);
  EXPECT_MATRIX_NEAR(slow.part(0, ".biases").eval(), (0.75 * biases).eval(), 1e-13);

  use_biases(slow.model, TreeBiases::stored);  // those that are used are learned, and no longer led to medians
  const Matrix<double> before = slow.part(0, ".biases");
  slow.go_on(half, hooks);
  EXPECT_SAME_BITS(slow.part(0, ".biases").eval(), before);
  half.schedule = {.rate = 1e-2, .warm_up = 0};
  slow.go_on(half, hooks);
  EXPECT_GT((slow.part(0, ".biases") - before).norm(), 0);
}

TEST(RunningMedians, OfUnitedTreesAreThoseOfTheKeysOfTheirHead) {
  GrowingModel of;
  const AttentionChoice choice{.kind = AttentionKind::tf, .height = 2, .n_trees = 3};
  choose_attention(of.model, of.store, {choice, choice});
  of.go_on({.n_steps = 1, .schedule = {.rate = 0}, .median_share = 1}, GrowingModel::hooks(1));
  const Batch batch = GrowingModel::batch(0, 1);
  const double medians = of.loss(batch);
  use_biases(of.model, TreeBiases::stored);
  EXPECT_EQ(of.loss(batch), medians);
}

TEST(Bootstrap, AnotherNumberOfTreesIsPlantedAnew) {
  GrowingModel of, fresh;
  const Batch batch = GrowingModel::batch(5);
  const AttentionChoice one{.kind = AttentionKind::tf, .height = 1}, two{.kind = AttentionKind::tf, .n_trees = 2};
  choose_attention(of.model, of.store, {one, one});
  choose_attention(fresh.model, fresh.store, {two, two});
  enter_stage(of.model, of.store, {two, two}, batch);
  EXPECT_SAME_BITS(of.part(1, ".planes").eval(), fresh.part(1, ".planes").eval());
}

TEST(Bootstrap, StagesGoThroughLayersAndHeights) {
  const std::vector<AttentionChoice> exact(3);
  const auto said = [&](const BootstrapOptions& options) {
    std::string text;
    for (const BootstrapStage& stage : bootstrap_stages(exact, options)) {
      for (const AttentionChoice& choice : stage)
        text += choice.kind == AttentionKind::exact ? "-" : std::to_string(choice.height);
      text += " ";
    }
    return text;
  };
  BootstrapOptions options{.choice = {.kind = AttentionKind::tc, .height = 4}};
  EXPECT_EQ(said(options), "444 ");
  options.first_height = 2;
  EXPECT_EQ(said(options), "222 333 444 ");
  options.one_by_one = true;
  options.layers = {2, 0};
  EXPECT_EQ(said(options), "--2 2-2 3-3 4-4 ");
  options.grow_before_next = true;
  EXPECT_EQ(said(options), "--2 --3 --4 2-4 3-4 4-4 ");
  for (const auto& layers : {std::vector<Index>{3}, {-1}, {1, 1}}) {
    options.layers = layers;
    EXPECT_THROW(bootstrap_stages(exact, options), OptionError);
  }
  EXPECT_THROW(bootstrap_stages(exact, {.choice = {}}), OptionError);
  EXPECT_THROW(bootstrap_stages(exact, {.first_height = 6}), OptionError);
}

/// What a model computes, and all of its store: unchanged while this is unchanged.
struct Standing {
  explicit Standing(GrowingModel& of) : store(of.store), choices(attention_choices(of.model)) {}
  void expect_unchanged(GrowingModel& of) const {
    EXPECT_EQ(names_of(of.store), names_of(store));
    EXPECT_TRUE(std::ranges::equal(of.store.all_values(), store.all_values()));
    EXPECT_TRUE(std::ranges::equal(of.store.first_moments(), store.first_moments()));
    const auto now = attention_choices(of.model);
    for (std::size_t l = 0; l < now.size(); ++l) {
      EXPECT_EQ(now[l].kind, choices[l].kind);
      EXPECT_EQ(now[l].height, choices[l].height);
      EXPECT_EQ(now[l].window, choices[l].window);
      EXPECT_EQ(now[l].biases, choices[l].biases);
    }
    EXPECT_NO_THROW(of.loss(GrowingModel::batch(9)));
  }

  ParameterStore<double> store;
  std::vector<AttentionChoice> choices;
};

TEST(ChooseAttention, RefusesWhatALayerCannotUseAndChangesNothing) {
  AttentionChoice features{.kind = AttentionKind::performer}, blocks{.kind = AttentionKind::bigbird};
  features.performer.n_features = 0;
  blocks.bigbird.block = -1;
  const AttentionChoice unusable[] = {{.kind = AttentionKind::window, .window = -5},
                                      features,
                                      blocks,
                                      {.kind = AttentionKind::linformer, .rank = 0},
                                      {.kind = AttentionKind::tf, .n_trees = 0},
                                      {.kind = AttentionKind::tc, .n_trees = 2},
                                      {.kind = AttentionKind::tf, .height = 25},
                                      {.kind = static_cast<AttentionKind>(99)}};
  for (const AttentionChoice& choice : unusable) {
    GrowingModel of;
    of.go_on({.n_steps = 2, .schedule = {.warm_up = 0}});
    const Standing before(of);
    EXPECT_THROW(choose_attention(of.model, of.store, {{}, choice}), OptionError);
    before.expect_unchanged(of);
    EXPECT_THROW(enter_stage(of.model, of.store, {{}, choice}, GrowingModel::batch(5)), OptionError);
    before.expect_unchanged(of);
    EXPECT_THROW(bootstrap_stages(attention_choices(of.model), {.choice = choice}), OptionError);
  }
}

TEST(ChooseAttention, OfACausalModelRefusesMedians) {
  ParameterStore<double> store;
  TransformerOptions options = GrowingModel::model_options(false);
  options.attention.causal = true;
  Transformer<double> model(store, options);
  const AttentionChoice medians{.kind = AttentionKind::tf, .height = 2};
  AttentionChoice stored = medians;
  stored.biases = TreeBiases::stored;
  const Index n_slices = store.n_slices();
  EXPECT_THROW(choose_attention(model, store, {{}, medians}), OptionError);
  EXPECT_THROW(enter_stage(model, store, {medians, stored}, GrowingModel::batch(5)), OptionError);
  EXPECT_THROW(choose_attention(model, store, {{}, {.kind = AttentionKind::linformer}}), OptionError);
  EXPECT_EQ(store.n_slices(), n_slices);
  use_biases(model, TreeBiases::key_medians);  // there are no trees yet
  choose_attention(model, store, {{}, stored});
  EXPECT_THROW(use_biases(model, TreeBiases::key_medians), OptionError);
  EXPECT_EQ(attention_choices(model)[1].biases, TreeBiases::stored);
  enter_stage(model, store, {stored, stored}, GrowingModel::batch(5));
}

TEST(Bootstrap, AStageThatCannotBeEnteredChangesNothing) {
  GrowingModel of;
  const AttentionChoice low{.kind = AttentionKind::tc, .height = 1};
  choose_attention(of.model, of.store, {low, {}});
  of.go_on({.n_steps = 2, .schedule = {.warm_up = 0}});
  const Standing before(of);
  AttentionChoice high{.kind = AttentionKind::tc, .height = 3};
  const AttentionChoice near{.kind = AttentionKind::window, .window = 2};
  Batch batch = GrowingModel::batch(5);
  for (const double below : {nan_in_memory<double>, infinity_in_memory<double>}) {
    EXPECT_THROW(enter_stage(of.model, of.store, {high, near}, batch, {.below = below}), OptionError);
    before.expect_unchanged(of);
  }
  StageOptions options;
  options.growth.planes = static_cast<NewPlanes>(2);
  EXPECT_THROW(enter_stage(of.model, of.store, {high, near}, batch, options), OptionError);
  before.expect_unchanged(of);
  EXPECT_THROW(enter_stage(of.model, of.store, {high}, batch), ShapeError);
  before.expect_unchanged(of);
  high.height = 1000;  // refused before it grows
  EXPECT_THROW(enter_stage(of.model, of.store, {high, near}, batch), OptionError);
  before.expect_unchanged(of);
  high.height = 3;
  batch.tokens[0][7] = 99;
  EXPECT_THROW(enter_stage(of.model, of.store, {high, near}, batch), OptionError);
  before.expect_unchanged(of);
  batch.n = 0;
  EXPECT_THROW(enter_stage(of.model, of.store, {high, near}, batch), ShapeError);
  before.expect_unchanged(of);
}

TEST(Bootstrap, EndsInTheModelThatIsBuiltAnewForItsCheckpoint) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("model.safetensors");
  const Batch batch = GrowingModel::batch(5);
  for (const AttentionKind kind : {AttentionKind::tf, AttentionKind::tc}) {
    GrowingModel of;
    const TrainingOptions options{.n_steps = 4, .schedule = {.rate = 1e-2, .warm_up = 0}};
    of.go_on(options);
    BootstrapOptions plan{.choice = {.kind = kind, .height = 3}, .layers = {1, 0}, .one_by_one = true};
    plan.first_height = 1;
    const auto stages = bootstrap_stages(attention_choices(of.model), plan);
    ASSERT_EQ(stages.size(), 4U);
    double last_loss = 0;
    for (const BootstrapStage& stage : stages) {
      enter_stage(of.model, of.store, stage, batch);
      const double before = of.loss(batch);
      of.go_on(options);
      last_loss = of.loss(batch);
      EXPECT_LT(last_loss, before);
    }
    save_parameters(path, of.store, {}, ParameterParts::training);
    GrowingModel anew;
    choose_attention(anew.model, anew.store, stages.back());
    EXPECT_EQ(names_of(anew.store), names_of(of.store));
    load_parameters(path, anew.store, ParameterParts::training);
    EXPECT_EQ(anew.loss(batch), last_loss);
    anew.go_on(options);
    of.go_on(options);
    EXPECT_EQ(anew.loss(batch), of.loss(batch));
  }
}

}  // namespace
}  // namespace heed::test
