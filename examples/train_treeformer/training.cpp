#include "training.hpp"

#include <algorithm>
#include <charconv>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <system_error>
#include <utility>

#include <heed/core/random.hpp>
#include <heed/io/parameter_file.hpp>
#include <heed/train/masked_tokens.hpp>

#include "plan.hpp"

namespace train_treeformer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

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
        plan_(arguments, task),
        evaluation_(task.evaluation(plan_.recipe.length)) {}

  Run run(Trained& trained) {
    start_ = Clock::now();
    Checkpoint from;
    if (arguments_.resume) from = checkpoint_of(arguments_.checkpoint, plan_.settings());
    auto& [exact, run_of_exact] = trained[plan_.name_of_first()];
    if (from.is_of(Aim::converted_task)) {
      exact = std::make_unique<Model>(plan_.options);
    } else if (exact == nullptr) {
      exact = std::make_unique<Model>(plan_.options);
      if (arguments_.from.empty()) {
        begin(*exact, from);
        learn(*exact, plan_.first, from.is_of(Aim::task) ? from.steps_done : 0);
      } else {
        checkpoint_of(arguments_.from, plan_.name_of_first());
        exact->load_values(arguments_.from);
      }
      evaluate(*exact, plan_.converts ? "exact" : arguments_.attention, plan_.n_steps - plan_.converted.n_steps());
      run_of_exact = run_;
      run_of_exact.seconds = spent();
    } else {
      run_ = run_of_exact;
      spent_before_ = run_.seconds;
    }
    if (plan_.converts) {
      Model model(*exact);
      model.convert(plan_.method, arguments_.seed * 1000);
      if (from.is_of(Aim::converted_task)) {
        model.load(arguments_.checkpoint);
      } else {
        model.settle_medians(task_.training(1, plan_.recipe.length, plan_.recipe.tokens), arguments_.threads);
        evaluate(model, arguments_.attention + ", converted", plan_.converted.before);
      }
      learn(model, plan_.converted, from.is_of(Aim::converted_task) ? from.steps_done : 0);
      evaluate(model, arguments_.attention, plan_.n_steps);
      save_results(model);
    } else {
      save_results(*exact);
    }
    run_.seconds = spent();
    return run_;
  }

 private:
  struct Checkpoint {
    std::optional<Aim> aim{};  // of its stage; none: there is no checkpoint
    Index steps_done = 0;      // of its stage
    [[nodiscard]] bool is_of(Aim wanted) const { return aim == wanted; }
  };

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
    Checkpoint made{Aim::task, 0};
    for (const Aim aim : {Aim::hidden_symbols, Aim::converted_task})
      if (entry("stage") == text_of(aim)) made.aim = aim;
    const auto [end, failure] = std::from_chars(done.data(), done.data() + done.size(), made.steps_done);
    const bool read = failure == std::errc() && end == done.data() + done.size() && made.steps_done >= 0;
    if (!read && !entry("stage").empty())
      throw std::runtime_error(path + " says steps_done \"" + done + "\" but must say how many steps were done");
    return made;
  }

  // Brings a new model to the first step of the task that is to be made.
  void begin(Model& model, const Checkpoint& from) {
    if (from.is_of(Aim::task)) return model.load(arguments_.checkpoint);
    if (plan_.pretraining.n_steps() == 0)
      return model.settle_medians(task_.training(1, plan_.recipe.length, plan_.recipe.tokens), arguments_.threads);
    Model telling(heed::masked_model(plan_.options, {.n_told = task_.n_told()}));
    if (from.is_of(Aim::hidden_symbols)) {
      telling.load(arguments_.checkpoint);
    } else {
      telling.settle_medians(batch_of(plan_.pretraining, 0), arguments_.threads);
    }
    learn(telling, plan_.pretraining, from.steps_done);
    std::vector<Batch> hidden = evaluation_;
    for (std::size_t b = 0; b < hidden.size(); ++b) hide(hidden[b], static_cast<Index>(b), 1);
    run_.milestones.push_back({plan_.pretraining.n_steps(), plan_.pretraining.phases.front().name,
                               telling.evaluate(hidden, biases(), arguments_.threads)});
    milestone_(run_.milestones.back());
    model.take_encoder(telling);
  }

  void hide(Batch& batch, Index step, Index stream) const {
    heed::CounterRng numbers(arguments_.seed, stream_of(Purpose::hiding, step, stream));
    const auto stand_in = static_cast<std::int32_t>(plan_.options.vocabularies.front());
    heed::hide_tokens(batch, stand_in, {.n_told = task_.n_told()}, numbers);
  }

  // Batch `number` = 0, 1, ... of a stage.
  [[nodiscard]] Batch batch_of(const Stage& stage, Index number) const {
    const Index parts = arguments_.micro_batches, step = stage.before * parts + number + 1;
    Batch batch = task_.training(step, stage.phase_of(number / parts + 1).n, plan_.recipe.tokens);
    if (stage.aim == Aim::hidden_symbols) hide(batch, step, 0);
    return batch;
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
    hooks.make_batch = [&](Batch& batch, std::uint64_t, Index number) { batch = batch_of(stage, number); };
    hooks.report = [&](const heed::StepReport& report) {
      const Phase& phase = stage.phase_of(report.step);
      const Index step = stage.before + report.step;
      const bool first = run_.curve.empty() || run_.curve.back().phase != phase.name || run_.curve.back().n != phase.n;
      usual = first ? report.seconds : 0.9 * usual + 0.1 * report.seconds;
      run_.curve.push_back({step, phase.name, phase.n, spent(), report});
      listener_(run_.curve.back(), plan_.n_steps, static_cast<double>(plan_.n_steps - step) * usual);
    };
    hooks.save = [&](Index done) {
      if (arguments_.checkpoint.empty() || ranks_.rank > 0) return;
      model.save(arguments_.checkpoint,
                 {{"settings", plan_.settings()}, {"stage", text_of(stage.aim)}, {"steps_done", std::to_string(done)}});
    };
    model.learn(hooks, options, steps_done, arguments_.threads);
  }

  [[nodiscard]] heed::TreeBiases biases() const {
    return plan_.options.attention.causal ? heed::TreeBiases::stored : heed::TreeBiases::key_medians;
  }
  void save_results(Model& model) const {
    if (!arguments_.model.empty())
      model.save_values(
          arguments_.model,
          {{"settings", plan_.settings()}, {"task", arguments_.task}, {"attention", arguments_.attention}});
    if (!arguments_.activations.empty())
      model.save_activations(arguments_.activations, evaluation_.front(), biases(), arguments_.threads);
  }

  void evaluate(Model& model, const std::string& name, Index step) {
    const auto add = [&](const std::string& called, heed::TreeBiases biases) {
      run_.milestones.push_back({step, called, model.evaluate(evaluation_, biases, arguments_.threads)});
      milestone_(run_.milestones.back());
    };
    const bool trees = name.starts_with("tf") || name.starts_with("tc");
    const bool medians = trees && !plan_.options.attention.causal;
    if (medians) add(name + ", running medians", heed::TreeBiases::stored);
    add(name, medians ? heed::TreeBiases::key_medians : heed::TreeBiases::stored);
  }

  [[nodiscard]] double spent() const { return spent_before_ + seconds_since(start_); }

  const Arguments& arguments_;
  const heed::TrainingRanks& ranks_;
  const Task& task_;
  const Listener& listener_;
  const MilestoneListener& milestone_;
  const Plan plan_;
  std::vector<Batch> evaluation_;
  Run run_;
  double spent_before_ = 0;
  Clock::time_point start_;
};

}  // namespace

std::unique_ptr<Model> make_model(const Arguments& arguments, const Task& task) {
  return std::make_unique<Model>(Plan(arguments, task).options);
}

Run train(const Arguments& arguments, const Task& task, Trained& trained, const Listener& listener,
          const MilestoneListener& milestone, const heed::TrainingRanks& ranks) {
  return Training(arguments, task, listener, milestone, ranks).run(trained);
}

}  // namespace train_treeformer
