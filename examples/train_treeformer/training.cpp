#include "training.hpp"

#include <algorithm>
#include <chrono>
#include <exception>
#include <utility>

#include <heed/core/random.hpp>
#include <heed/train/masked_tokens.hpp>

#include "inputs.hpp"
#include "plan.hpp"

namespace train_treeformer {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// One run: its phases, its clock and what it has to say.
class Training {
 public:
  Training(const Arguments& arguments, const Task& task, const Listeners& listeners, const heed::TrainingRanks& ranks)
      : arguments_(arguments),
        ranks_(ranks),
        task_(task),
        listeners_(listeners),
        plan_(arguments, task),
        evaluation_(task.evaluation(plan_.recipe.length)) {}

  Run run(Trained& trained) {
    start_ = Clock::now();
    const Checkpoint from = checkpoint_of(plan_);
    auto& [exact, run_of_exact] = trained[plan_.name_of_first()];
    if (from.is_of(Aim::converted_task)) {
      exact = std::make_unique<Model>(plan_.options);
    } else if (exact == nullptr) {
      exact = std::make_unique<Model>(plan_.options);
      if (arguments_.from.empty()) {
        begin(*exact, from);
        learn(*exact, plan_.first, from.is_of(Aim::task) ? from.steps_done : 0);
      } else {
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
      finish(model);
    } else {
      finish(*exact);
    }
    return run_;
  }

 private:
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
    add({plan_.pretraining.n_steps(), plan_.pretraining.phases.front().name,
         telling.evaluate(hidden, biases(), arguments_.threads)});
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
      if (!listeners_.step) return;
      listeners_.step(run_.curve.back(), plan_.n_steps, static_cast<double>(plan_.n_steps - step) * usual);
    };
    hooks.save = [&](Index done) {
      if (arguments_.checkpoint.empty() || ranks_.rank > 0) return;
      model.save(arguments_.checkpoint,
                 {{"settings", plan_.settings()}, {"stage", text_of(stage.aim)}, {"steps_done", std::to_string(done)}});
    };
    model.learn(hooks, options, steps_done, arguments_.threads);
    if (stage.n_steps() == 0) hooks.save(0);  // no step has written the checkpoint
  }

  [[nodiscard]] heed::TreeBiases biases() const {
    return plan_.options.attention.causal ? heed::TreeBiases::stored : heed::TreeBiases::key_medians;
  }
  // Every result is written, though another could not be: the first failure is thrown behind the last of them.
  void finish(Model& model) {
    run_.seconds = spent();
    std::exception_ptr failure;
    const auto attempt = [&](bool wanted, const auto& write) {
      try {
        if (wanted) write();
      } catch (...) {
        if (!failure) failure = std::current_exception();
      }
    };
    attempt(listeners_.end != nullptr, [&] { listeners_.end(run_); });
    attempt(!arguments_.model.empty(), [&] {
      model.save_values(
          arguments_.model,
          {{"settings", plan_.settings()}, {"task", arguments_.task}, {"attention", arguments_.attention}});
    });
    attempt(!arguments_.activations.empty(),
            [&] { model.save_activations(arguments_.activations, evaluation_.front(), biases(), arguments_.threads); });
    if (failure) std::rethrow_exception(failure);
  }

  void add(const Milestone& milestone) {
    run_.milestones.push_back(milestone);
    if (listeners_.milestone) listeners_.milestone(milestone);
  }

  void evaluate(Model& model, const std::string& name, Index step) {
    const auto add_with = [&](const std::string& called, heed::TreeBiases biases) {
      add({step, called, model.evaluate(evaluation_, biases, arguments_.threads)});
    };
    const bool trees = name.starts_with("tf") || name.starts_with("tc");
    const bool medians = trees && !plan_.options.attention.causal;
    if (medians) add_with(name + ", running medians", heed::TreeBiases::stored);
    add_with(name, medians ? heed::TreeBiases::key_medians : heed::TreeBiases::stored);
  }

  [[nodiscard]] double spent() const { return spent_before_ + seconds_since(start_); }

  const Arguments& arguments_;
  const heed::TrainingRanks& ranks_;
  const Task& task_;
  const Listeners& listeners_;
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

Run train(const Arguments& arguments, const Task& task, Trained& trained, const Listeners& listeners,
          const heed::TrainingRanks& ranks) {
  return Training(arguments, task, listeners, ranks).run(trained);
}

}  // namespace train_treeformer
