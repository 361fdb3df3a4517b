#pragma once
#include <functional>
#include <string>

#include "arguments.hpp"
#include "task.hpp"

namespace train_treeformer {

/// Evaluates the model of --evaluate as it is, then with values made by Monte Carlo in every kind of --values, and
/// token after token from every cache of --decode: a line each, given to `say`. Returns the least accuracy of these.
/// The file is one that check_inputs accepts.
/// Errors  std::invalid_argument for a kind that there is not, before anything is evaluated; what reading the file
///         throws.
double evaluate_model(const Arguments& arguments, const Task& task, const std::function<void(const std::string&)>& say);

}  // namespace train_treeformer
