#include "training.hpp"

#include <algorithm>
#include <chrono>

#include "method.hpp"

namespace train_treeformer {
namespace {

using Clock = std::chrono::steady_clock;
using heed::AttentionKind;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// The recipe of the task, with what the command line says otherwise.
Recipe recipe_of(const Arguments& arguments, const Task& task) {
  Recipe recipe = task.recipe();
  if (arguments.steps.size() == 3) {
    recipe.short_steps = arguments.steps[0];
    recipe.long_steps = arguments.steps[1];
    recipe.converted_steps = arguments.steps[2];
  }
  recipe.n_heads = arguments.heads.value_or(recipe.n_heads);
  recipe.tied = recipe.tied && !arguments.untied;
  return recipe;
}

heed::TransformerOptions options_of(const Arguments& arguments, const Task& task, const Recipe& recipe) {
  constexpr Index head_width = 32;
  heed::TransformerOptions options;
  options.length = recipe.length;
  options.d_model = head_width * recipe.n_heads;
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

// One run: its phases, its clock and what it has to say.
class Training {
 public:
  Training(const Arguments& arguments, const Task& task, const Listener& listener, const MilestoneListener& milestone)
      : arguments_(arguments),
        task_(task),
        listener_(listener),
        milestone_(milestone),
        recipe_(recipe_of(arguments, task)),
        options_(options_of(arguments, task, recipe_)),
        method_(method_of(arguments, recipe_.length, options_.attention.causal)),
        converts_(arguments.bootstrap && method_.kind != AttentionKind::exact) {
    if (!converts_) options_.attention.choice = method_;
    // A projection of positions belongs to one length.
    const bool one_length = !converts_ && method_.kind == AttentionKind::linformer;
    const Index n_short = one_length || recipe_.short_length >= recipe_.length ? 0 : recipe_.short_steps;
    const std::string name = converts_ ? "exact" : arguments.attention;
    first_ = {{name, recipe_.short_length, n_short}, {name, recipe_.length, recipe_.long_steps}};
    if (n_short == 0) first_[1].n_steps += recipe_.short_steps;
    if (converts_) second_ = {{arguments.attention, recipe_.length, recipe_.converted_steps}};
    for (const auto* phases : {&first_, &second_})
      for (const Phase& phase : *phases) n_steps_ += phase.n_steps;
    evaluation_ = task.evaluation(recipe_.length);
  }

  Run run(Trained& trained) {
    start_ = Clock::now();
    auto& known = trained[name_of_first()];
    if (known.first == nullptr) {
      known.first = std::make_unique<Model>(options_);
      known.first->settle_medians(evaluation_.front(), arguments_.threads);
      learn(*known.first, first_, recipe_.rate, 50);
      evaluate(*known.first, converts_ ? "exact" : arguments_.attention);
      known.second = run_;
      known.second.seconds = seconds_since(start_);
    } else {
      run_ = known.second;
      spent_before_ = run_.seconds;
    }
    if (converts_) {
      Model model(*known.first);
      model.convert(method_, arguments_.seed + 49);
      model.settle_medians(task_.training(1, recipe_.length, recipe_.tokens), arguments_.threads);
      evaluate(model, arguments_.attention + ", converted");
      learn(model, second_, recipe_.converted_rate, 20);
      evaluate(model, arguments_.attention);
    }
    run_.seconds = spent();
    return run_;
  }

 private:
  // Runs with the same name here have the same first model.
  [[nodiscard]] std::string name_of_first() const {
    std::string name = arguments_.task + " " + std::to_string(arguments_.seed) + " " + std::to_string(recipe_.n_heads) +
                       (recipe_.tied ? " tied" : " untied");
    if (!converts_ && method_.kind != AttentionKind::exact) {
      name += " " + arguments_.attention + " " + std::to_string(arguments_.height) + " " +
              std::to_string(arguments_.trees) + " " + arguments_.routing;
    } else {
      name += " exact";
    }
    for (const Phase& phase : first_) name += " " + std::to_string(phase.n) + ":" + std::to_string(phase.n_steps);
    return name;
  }

  void learn(Model& model, const std::vector<Phase>& phases, double rate, Index warm_up) {
    heed::Schedule schedule{.rate = rate, .warm_up = warm_up, .n_steps = 0};
    for (const Phase& phase : phases) schedule.n_steps += phase.n_steps;
    schedule.warm_up = std::min(warm_up, schedule.n_steps / 4);
    Index optimiser_step = 0;
    for (const Phase& phase : phases) {
      const auto begun = Clock::now();
      for (Index s = 1; s <= phase.n_steps; ++s) {
        const Batch batch = task_.training(++step_, phase.n, recipe_.tokens);
        const double now = schedule.at(++optimiser_step);
        const StepReport report = model.learn(batch, optimiser_step, now, arguments_.threads);
        run_.curve.push_back({step_, phase.name, phase.n, now, spent(), report});
        // Later phases are taken to be as fast as this one.
        const double left = static_cast<double>(n_steps_ - step_) * seconds_since(begun) / static_cast<double>(s);
        listener_(run_.curve.back(), n_steps_, left);
      }
    }
  }

  void evaluate(Model& model, const std::string& name) {
    const auto add = [&](const std::string& called, heed::TreeBiases biases) {
      run_.milestones.push_back({step_, called, model.evaluate(evaluation_, biases, arguments_.threads)});
      milestone_(run_.milestones.back());
    };
    const bool trees = name.starts_with("tf") || name.starts_with("tc");
    if (trees) add(name + ", running medians", heed::TreeBiases::stored);
    if (!trees || !options_.attention.causal) add(name, heed::TreeBiases::key_medians);
  }

  [[nodiscard]] double spent() const { return spent_before_ + seconds_since(start_); }

  const Arguments& arguments_;
  const Task& task_;
  const Listener& listener_;
  const MilestoneListener& milestone_;
  Recipe recipe_;
  heed::TransformerOptions options_;
  heed::AttentionChoice method_;
  bool converts_;
  std::vector<Phase> first_, second_;
  std::vector<Batch> evaluation_;
  Index n_steps_ = 0, step_ = 0;
  Run run_;
  double spent_before_ = 0;
  Clock::time_point start_;
};

}  // namespace

Run train(const Arguments& arguments, const Task& task, Trained& trained, const Listener& listener,
          const MilestoneListener& milestone) {
  return Training(arguments, task, listener, milestone).run(trained);
}

}  // namespace train_treeformer
