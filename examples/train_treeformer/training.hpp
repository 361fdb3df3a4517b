#pragma once
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <heed/train/training_ranks.hpp>

#include "arguments.hpp"
#include "model.hpp"
#include "task.hpp"

namespace train_treeformer {

/// One step of a run.
struct CurvePoint {
  Index step = 0;  ///< counted over all phases
  std::string phase;
  Index n = 0;
  double seconds = 0;  ///< since the run began
  heed::StepReport report;
};

/// What a model was worth after a step.
struct Milestone {
  Index step = 0;
  std::string name;
  Evaluation evaluation;
};

/// Everything a run has to say.
struct Run {
  std::vector<CurvePoint> curve;
  std::vector<Milestone> milestones;  ///< the last one is the result
  double seconds = 0;                 ///< of training and evaluation
};

/// Exact models that runs of a table share, by what they were trained on.
using Trained = std::map<std::string, std::pair<std::unique_ptr<Model>, Run>>;

/// What is told of a run; none of them must be given.
struct Listeners {
  /// After every step: the point, the steps of the whole run, and an estimate of the seconds left.
  std::function<void(const CurvePoint&, Index n_steps, double seconds_left)> step{};
  std::function<void(const Milestone&)> milestone{};
  std::function<void(const Run&)> end{};  ///< the whole run, before its model and activations are written
};

/// A model as `arguments` say, before its first step.
std::unique_ptr<Model> make_model(const Arguments& arguments, const Task& task);

/// Trains as `arguments` say: the method from the start, or exact attention that is then converted, all layers at once,
/// and trained on; before that, where asked for, the same encoder tells hidden symbols of the task's inputs. Rates rise
/// over 50 steps (20 after the conversion) and fall by half a cosine to 5%. Over `ranks`, all of them run it; rank 0
/// writes. Files that a run begins with are those that check_inputs accepts.
/// Errors  what training, reading and writing throw, and what a listener does; where Listeners::end throws, or one file
///         cannot be written, the others of these are made first.
Run train(const Arguments& arguments, const Task& task, Trained& trained, const Listeners& listeners = {},
          const heed::TrainingRanks& ranks = {});

}  // namespace train_treeformer
