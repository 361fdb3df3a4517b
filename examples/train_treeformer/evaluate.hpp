#pragma once
#include <functional>
#include <string>

#include "arguments.hpp"
#include "task.hpp"

namespace train_treeformer {

/// Evaluates the model of --evaluate as it is, and then with values made by Monte Carlo in every kind of --values: a
/// line each, given to `say`.
/// Errors  std::invalid_argument for a kind that there is not; what reading the file throws.
void evaluate_model(const Arguments& arguments, const Task& task, const std::function<void(const std::string&)>& say);

}  // namespace train_treeformer
