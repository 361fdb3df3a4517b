#include "training.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <heed/io/parameter_file.hpp>

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
  if (arguments.as_long_as_converted) recipe.long_steps += recipe.converted_steps;
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
  Training(const Arguments& arguments, const Task& task, const Listener& listener, const MilestoneListener& milestone,
           const heed::TrainingRanks& ranks)
      : arguments_(arguments),
        ranks_(ranks),
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
    first_ = {{{name, recipe_.short_length, n_short}, {name, recipe_.length, recipe_.long_steps}}, recipe_.rate, 50};
    if (n_short == 0) first_.phases[1].n_steps += recipe_.short_steps;
    n_steps_ = first_.n_steps();
    if (converts_) {
      second_ = {
          {{arguments.attention, recipe_.length, recipe_.converted_steps}}, recipe_.converted_rate, 20, n_steps_, true};
      n_steps_ += second_.n_steps();
    }
    evaluation_ = task.evaluation(recipe_.length);
  }

  Run run(Trained& trained) {
    start_ = Clock::now();
    Checkpoint from;
    if (arguments_.resume) from = checkpoint_of(arguments_.checkpoint, settings());
    auto& [exact, run_of_exact] = trained[name_of_first()];
    if (from.converted) {
      exact = std::make_unique<Model>(options_);
    } else if (exact == nullptr) {
      exact = std::make_unique<Model>(options_);
      if (arguments_.from.empty()) {
        exact->settle_medians(task_.training(1, recipe_.length, recipe_.tokens), arguments_.threads);
        if (arguments_.resume) exact->load(arguments_.checkpoint);
        learn(*exact, first_, from.steps_done);
      } else {
        checkpoint_of(arguments_.from, name_of_first());
        exact->load_values(arguments_.from);
      }
      evaluate(*exact, converts_ ? "exact" : arguments_.attention, n_steps_ - second_.n_steps());
      run_of_exact = run_;
      run_of_exact.seconds = spent();
    } else {
      run_ = run_of_exact;
      spent_before_ = run_.seconds;
    }
    if (converts_) {
      Model model(*exact);
      model.convert(method_, arguments_.seed * 1000);
      if (from.converted) {
        model.load(arguments_.checkpoint);
      } else {
        model.settle_medians(task_.training(1, recipe_.length, recipe_.tokens), arguments_.threads);
        evaluate(model, arguments_.attention + ", converted", second_.before);
      }
      learn(model, second_, from.converted ? from.steps_done : 0);
      evaluate(model, arguments_.attention, n_steps_);
      save_results(model);
    } else {
      save_results(*exact);
    }
    run_.seconds = spent();
    return run_;
  }

 private:
  // Phases that one schedule of rates spans.
  struct Stage {
    std::vector<Phase> phases;
    double rate = 0;
    Index warm_up = 0;
    Index before = 0;        // steps of the run before it
    bool converted = false;  // its model has trees, or another method, that replaced exact attention

    [[nodiscard]] Index n_steps() const {
      Index sum = 0;
      for (const Phase& phase : phases) sum += phase.n_steps;
      return sum;
    }
    // The phase that step 1, 2, ... of the stage belongs to.
    [[nodiscard]] const Phase& phase_of(Index step) const {
      for (const Phase& phase : phases) {
        if (step <= phase.n_steps) return phase;
        step -= phase.n_steps;
      }
      return phases.back();
    }
  };

  struct Checkpoint {
    bool converted = false;
    Index steps_done = 0;  // of its stage
  };

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
    for (const Phase& phase : first_.phases)
      name += " " + std::to_string(phase.n) + ":" + std::to_string(phase.n_steps);
    if (!arguments_.file.empty()) name += " of " + arguments_.file;
    if (arguments_.micro_batches > 1) name += " of " + std::to_string(arguments_.micro_batches) + " batches";
    return name;
  }

  // What must agree for a run to be resumed.
  [[nodiscard]] std::string settings() const {
    std::string text = name_of_first();
    if (converts_) {
      text += ", " + arguments_.attention + " " + std::to_string(arguments_.height) + " " +
              std::to_string(arguments_.trees) + " " + arguments_.routing + " " + std::to_string(second_.n_steps());
    }
    return text;
  }

  // How far the run had come that wrote a file, which must be a run of these settings.
  static Checkpoint checkpoint_of(const std::string& path, const std::string& settings) {
    const heed::TextMap said = heed::read_description(path);
    const auto entry = [&](const char* key) {
      const auto found = said.find(key);
      return found == said.end() ? std::string() : found->second;
    };
    if (entry("settings") != settings)
      throw std::runtime_error(path + " is of the run \"" + entry("settings") + "\" but must be of \"" + settings +
                               "\"");
    const std::string done = entry("steps_done");  // a checkpoint's; parameters alone do not say
    Checkpoint made{entry("stage") == "converted", 0};
    const auto [end, failure] = std::from_chars(done.data(), done.data() + done.size(), made.steps_done);
    const bool read = failure == std::errc() && end == done.data() + done.size() && made.steps_done >= 0;
    if (!read && !entry("stage").empty())
      throw std::runtime_error(path + " says steps_done \"" + done + "\" but must say how many steps were done");
    return made;
  }

  void learn(Model& model, const Stage& stage, Index steps_done) {
    heed::TrainingOptions options{.schedule = {.rate = stage.rate, .n_steps = stage.n_steps()},
                                  .seed = arguments_.seed};
    options.schedule.warm_up = std::min(stage.warm_up, stage.n_steps() / 4);
    options.save_every = arguments_.checkpoint.empty() ? 0 : 50;
    options.micro_batches = arguments_.micro_batches;
    double usual = 0;  // seconds of a step; later phases are taken to be as fast as this one
    heed::TrainingHooks hooks;
    hooks.ranks = ranks_;
    hooks.make_batch = [&](Batch& batch, std::uint64_t, Index number) {
      const Index parts = arguments_.micro_batches;
      batch = task_.training(stage.before * parts + number + 1, stage.phase_of(number / parts + 1).n, recipe_.tokens);
    };
    hooks.report = [&](const heed::StepReport& report) {
      const Phase& phase = stage.phase_of(report.step);
      const Index step = stage.before + report.step;
      const bool first = run_.curve.empty() || run_.curve.back().phase != phase.name || run_.curve.back().n != phase.n;
      usual = first ? report.seconds : 0.9 * usual + 0.1 * report.seconds;
      run_.curve.push_back({step, phase.name, phase.n, spent(), report});
      listener_(run_.curve.back(), n_steps_, static_cast<double>(n_steps_ - step) * usual);
    };
    hooks.save = [&](Index done) {
      if (arguments_.checkpoint.empty() || ranks_.rank > 0) return;
      model.save(arguments_.checkpoint, {{"settings", settings()},
                                         {"stage", stage.converted ? "converted" : "first"},
                                         {"steps_done", std::to_string(done)}});
    };
    model.learn(hooks, options, steps_done, arguments_.threads);
  }

  [[nodiscard]] heed::TreeBiases biases() const {
    return options_.attention.causal ? heed::TreeBiases::stored : heed::TreeBiases::key_medians;
  }
  void save_results(Model& model) const {
    if (!arguments_.model.empty())
      model.save_values(arguments_.model,
                        {{"settings", settings()}, {"task", arguments_.task}, {"attention", arguments_.attention}});
    if (!arguments_.activations.empty())
      model.save_activations(arguments_.activations, evaluation_.front(), biases(), arguments_.threads);
  }

  void evaluate(Model& model, const std::string& name, Index step) {
    const auto add = [&](const std::string& called, heed::TreeBiases biases) {
      run_.milestones.push_back({step, called, model.evaluate(evaluation_, biases, arguments_.threads)});
      milestone_(run_.milestones.back());
    };
    const bool trees = name.starts_with("tf") || name.starts_with("tc");
    const bool medians = trees && !options_.attention.causal;
    if (medians) add(name + ", running medians", heed::TreeBiases::stored);
    add(name, medians ? heed::TreeBiases::key_medians : heed::TreeBiases::stored);
  }

  [[nodiscard]] double spent() const { return spent_before_ + seconds_since(start_); }

  const Arguments& arguments_;
  const heed::TrainingRanks& ranks_;
  const Task& task_;
  const Listener& listener_;
  const MilestoneListener& milestone_;
  Recipe recipe_;
  heed::TransformerOptions options_;
  heed::AttentionChoice method_;
  bool converts_;
  Stage first_, second_;
  std::vector<Batch> evaluation_;
  Index n_steps_ = 0;
  Run run_;
  double spent_before_ = 0;
  Clock::time_point start_;
};

}  // namespace

std::unique_ptr<Model> make_model(const Arguments& arguments, const Task& task) {
  Recipe recipe = recipe_of(arguments, task);
  return std::make_unique<Model>(options_of(arguments, task, recipe));
}

Run train(const Arguments& arguments, const Task& task, Trained& trained, const Listener& listener,
          const MilestoneListener& milestone, const heed::TrainingRanks& ranks) {
  return Training(arguments, task, listener, milestone, ranks).run(trained);
}

}  // namespace train_treeformer
