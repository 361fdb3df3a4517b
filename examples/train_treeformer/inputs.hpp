#pragma once
#include <optional>

#include "arguments.hpp"
#include "plan.hpp"
#include "task.hpp"

namespace train_treeformer {

/// How far the run had come that wrote a checkpoint.
struct Checkpoint {
  std::optional<Aim> aim{};  ///< of its stage; none: there is no checkpoint
  Index steps_done = 0;      ///< of its stage
  [[nodiscard]] bool is_of(Aim wanted) const { return aim == wanted; }
};

/// What --resume goes on from; no checkpoint where it is not given.
/// Errors  std::runtime_error for a file of a run with other settings, or one that says a stage which the plan has not,
///         or more steps than the stage has; FormatError for a file that is no checkpoint.
Checkpoint checkpoint_of(const Plan& plan);

/// Asked before anything is computed or written: whether the run can be planned, and what --resume, --from and
/// --evaluate name are files it can begin with. Parameters are read later.
/// Errors  as checkpoint_of; std::runtime_error for a file of --from or --evaluate that --model did not write, or wrote
///         for another run, task or attention; what Plan throws.
void check_inputs(const Arguments& arguments, const Task& task);

}  // namespace train_treeformer
