#pragma once
#include <string>
#include <vector>

#include <heed/layers/attention_choice.hpp>
#include <heed/layers/transformer.hpp>

#include "arguments.hpp"
#include "task.hpp"

namespace train_treeformer {

/// A stretch of steps of one kind.
struct Phase {
  std::string name;
  Index n = 0;
  Index n_steps = 0;
};

/// What a stage trains: hidden symbols of the task's inputs, the task, or the task by a model that has trees, or
/// another method, that replaced exact attention.
enum class Aim { hidden_symbols, task, converted_task };

/// As checkpoints say it.
std::string text_of(Aim aim);

/// Phases that one schedule of rates spans.
struct Stage {
  Aim aim = Aim::task;
  Index before = 0;  ///< steps of the run before it
  double rate = 0;
  Index warm_up = 0;
  std::vector<Phase> phases;

  [[nodiscard]] Index n_steps() const;
  /// The phase that step 1, 2, ... of the stage belongs to.
  [[nodiscard]] const Phase& phase_of(Index step) const;
};

/// What a run does: the task's recipe, with what the command line says otherwise.
struct Plan {
  /// Errors  std::invalid_argument for trees with more leaves than the longest sequence has tokens.
  Plan(const Arguments& arguments, const Task& task);

  /// Runs with the same name here have the same model when the steps of `first` are done.
  [[nodiscard]] std::string name_of_first() const;
  /// What must agree for a run to be resumed.
  [[nodiscard]] std::string settings() const;

  Arguments arguments;
  Recipe recipe;
  std::string source;                   ///< Task::source
  heed::AttentionChoice method;         ///< that the arguments name
  bool converts = false;                ///< to the method, from exact attention
  heed::TransformerOptions options;     ///< of the model before it is converted
  Stage pretraining, first, converted;  ///< of no phases where there is none
  Index n_steps = 0;
};

}  // namespace train_treeformer
