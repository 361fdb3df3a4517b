#include <utility>

#include <heed/core/random.hpp>
#include <heed/train/cross_entropy.hpp>

#include "task.hpp"

namespace train_treeformer {
namespace {

constexpr Index n_values = 32;
constexpr std::int32_t asked = n_values;  // the value of a token that asks

// Associative recall: half of the tokens are a name with its value, the other half the same names, each asking for its
// value, all in a random order and without positions. Names are drawn anew for every sequence, so nothing can be
// learned of which value belongs to which.
class Recall final : public Task {
 public:
  explicit Recall(const Arguments& arguments)
      : seed_(arguments.seed),
        n_names_(arguments.length.value_or(arguments.quick ? 512 : 2048)),
        recipe_(choose(arguments)) {}

  [[nodiscard]] Recipe recipe() const override { return recipe_; }

  void describe(heed::TransformerOptions& options) const override {
    options.vocabularies = {n_names_, n_values + 1};
    options.deviations = {1.0, 0.3};  // small values: names decide whom a token looks at
    options.n_out = n_values;
  }

  [[nodiscard]] Batch training(Index step, Index n, Index tokens) const override {
    return batch(Purpose::training, step, n, std::max<Index>(1, tokens / n));
  }

  [[nodiscard]] std::vector<Batch> evaluation(Index n) const override {
    std::vector<Batch> batches;
    for (Index b = 0; b < 4; ++b) batches.push_back(batch(Purpose::evaluation, b, n, std::max<Index>(2, 4096 / n)));
    return batches;
  }

 private:
  static Recipe choose(const Arguments& arguments) {
    Recipe recipe;
    recipe.length = arguments.length.value_or(arguments.quick ? 512 : 2048);
    recipe.short_length = std::max<Index>(2, recipe.length / (arguments.quick ? 4 : 8));
    if (arguments.quick) recipe.short_steps = 150, recipe.long_steps = 30, recipe.converted_steps = 60;
    if (arguments.heads.value_or(recipe.n_heads) >= 4) recipe.converted_rate = 2e-3;
    return recipe;
  }

  [[nodiscard]] Batch batch(Purpose purpose, Index step, Index n, Index n_sequences) const {
    Batch made{.tokens = {{}, {}}, .n = n};
    for (Index s = 0; s < n_sequences; ++s) add_sequence(stream_of(purpose, step, s), n, made);
    return made;
  }

  void add_sequence(std::uint64_t stream, Index n, Batch& to) const {
    heed::CounterRng numbers(seed_, stream);
    const auto shuffle = [&](std::vector<std::int32_t>& all, Index n_first) {
      for (Index i = 0; i < n_first; ++i)
        std::swap(all[static_cast<std::size_t>(i)],
                  all[static_cast<std::size_t>(i + numbers.below(static_cast<Index>(all.size()) - i))]);
    };
    const Index n_pairs = n / 2;
    std::vector<std::int32_t> names(static_cast<std::size_t>(n_names_)), order(static_cast<std::size_t>(n)), values;
    for (std::size_t i = 0; i < names.size(); ++i) names[i] = static_cast<std::int32_t>(i);
    shuffle(names, n_pairs);
    for (Index i = 0; i < n_pairs; ++i) values.push_back(static_cast<std::int32_t>(numbers.below(n_values)));
    for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
    shuffle(order, n);
    for (const Index place : order) {
      const auto pair = static_cast<std::size_t>(place % n_pairs);
      const bool asks = place >= n_pairs;
      to.tokens[0].push_back(names[pair]);
      to.tokens[1].push_back(asks ? asked : values[pair]);
      to.targets.push_back(asks ? values[pair] : heed::no_target);
    }
  }

  std::uint64_t seed_;
  Index n_names_;
  Recipe recipe_;
};

}  // namespace

std::unique_ptr<Task> make_recall(const Arguments& arguments) { return std::make_unique<Recall>(arguments); }

}  // namespace train_treeformer
