#include "plan.hpp"

#include <stdexcept>

#include "method.hpp"

namespace train_treeformer {
namespace {

// The recipe of the task, with what the command line says otherwise.
Recipe recipe_of(const Arguments& arguments, const Task& task) {
  Recipe recipe = task.recipe();
  if (arguments.steps.size() == 3) {
    recipe.short_steps = arguments.steps[0];
    recipe.long_steps = arguments.steps[1];
    recipe.converted_steps = arguments.steps[2];
  }
  if (arguments.as_long_as_converted) recipe.long_steps += recipe.converted_steps;
  recipe.n_heads = arguments.heads.value_or(recipe.n_heads);
  recipe.tied = arguments.tied.value_or(recipe.tied);
  return recipe;
}

heed::TransformerOptions options_of(const Arguments& arguments, const Task& task, const Recipe& recipe) {
  heed::TransformerOptions options;
  options.length = recipe.length;
  options.d_model = arguments.width * recipe.n_heads;
  options.d_hidden = 2 * options.d_model;
  options.n_layers = 2;
  options.seed = arguments.seed;
  options.attention.n_heads = recipe.n_heads;
  options.attention.tied = recipe.tied;
  options.attention.start_equal = true;  // where they are not tied
  options.attention.cosine = true;
  options.attention.temperature = 12;
  task.describe(options);
  return options;
}

std::string text_of(const std::vector<Phase>& phases) {
  std::string text;
  for (const Phase& phase : phases) text += " " + std::to_string(phase.n) + ":" + std::to_string(phase.n_steps);
  return text;
}

std::string method_text(const Arguments& arguments) {
  return arguments.attention + " " + std::to_string(arguments.height) + " " + std::to_string(arguments.trees) + " " +
         arguments.routing + (arguments.tree_window ? " window " + std::to_string(*arguments.tree_window) : "");
}

}  // namespace

std::string text_of(Aim aim) {
  return aim == Aim::hidden_symbols ? "pretraining" : aim == Aim::task ? "first" : "converted";
}

Index Stage::n_steps() const {
  Index sum = 0;
  for (const Phase& phase : phases) sum += phase.n_steps;
  return sum;
}

const Phase& Stage::phase_of(Index step) const {
  for (const Phase& phase : phases) {
    if (step <= phase.n_steps) return phase;
    step -= phase.n_steps;
  }
  return phases.back();
}

Plan::Plan(const Arguments& given, const Task& task)
    : arguments(given),
      recipe(recipe_of(given, task)),
      source(task.source()),
      options(options_of(given, task, recipe)) {
  method = method_of(given, recipe.length, options.attention.causal);
  const bool has_trees = method.kind == heed::AttentionKind::tf || method.kind == heed::AttentionKind::tc;
  if (has_trees && (Index(1) << given.height) > recipe.length)
    throw std::invalid_argument("--height is " + std::to_string(given.height) +
                                " but 2^height must be at most the tokens of the longest sequence, " +
                                std::to_string(recipe.length) + ": leaves without a key are worth nothing");
  converts = given.bootstrap && method.kind != heed::AttentionKind::exact;
  if (!converts) options.attention.choice = method;
  // A projection of positions belongs to one length.
  const bool one_length = !converts && method.kind == heed::AttentionKind::linformer;
  const Index n_short = one_length || recipe.short_length >= recipe.length ? 0 : recipe.short_steps;
  const Index n_full = recipe.long_steps + (n_short == 0 ? recipe.short_steps : 0);
  const auto add = [&](Stage& stage, Aim aim, double rate, Index warm_up, const std::vector<Phase>& phases) {
    stage = {aim, n_steps, rate, warm_up, phases};
    n_steps += stage.n_steps();
  };
  const Index n_pretraining = n_short > 0 ? recipe.short_length : recipe.length;
  if (given.pretrain > 0)
    add(pretraining, Aim::hidden_symbols, recipe.rate, 50, {{"hidden symbols", n_pretraining, given.pretrain}});
  const std::string name = converts ? "exact" : given.attention;
  add(first, Aim::task, recipe.rate, 50, {{name, recipe.short_length, n_short}, {name, recipe.length, n_full}});
  if (!converts) return;
  add(converted, Aim::converted_task, recipe.converted_rate, 20,
      {{given.attention, recipe.length, recipe.converted_steps}});
}

std::string Plan::name_of_first() const {
  std::string name = arguments.task + " " + std::to_string(arguments.seed) + " " + std::to_string(recipe.n_heads) +
                     (arguments.width == 32 ? "" : " of " + std::to_string(arguments.width)) +
                     (recipe.tied ? " tied" : " untied");
  const bool exact = converts || method.kind == heed::AttentionKind::exact;
  name += exact ? " exact" : " " + method_text(arguments);
  if (pretraining.n_steps() > 0) name += " pretrained" + text_of(pretraining.phases);
  name += text_of(first.phases);
  if (!source.empty()) name += " of " + source;
  if (arguments.micro_batches > 1) name += " of " + std::to_string(arguments.micro_batches) + " batches";
  return name;
}

std::string Plan::settings() const {
  if (!converts) return name_of_first();
  return name_of_first() + ", " + method_text(arguments) + " " + std::to_string(converted.n_steps());
}

}  // namespace train_treeformer
