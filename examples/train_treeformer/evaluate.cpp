#include "evaluate.hpp"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "../common/printf_text.hpp"
#include "substitutes.hpp"
#include "training.hpp"

namespace train_treeformer {
namespace {

using common::format;

std::string line_of(const std::string& name, const Evaluation& got) {
  return format("%-16s accuracy %.4f  loss %.5f (%.5f bits)", name.c_str(), got.accuracy, got.loss,
                got.loss / std::log(2.0));
}

}  // namespace

double evaluate_model(const Arguments& arguments, const Task& task,
                      const std::function<void(const std::string&)>& say) {
  const std::unique_ptr<Model> model = make_model(arguments, task);
  std::vector<std::pair<std::string, Substitute>> kinds;
  for (const std::string& text : arguments.values)
    kinds.emplace_back(text, sampled_values(text, arguments.seed, model->options()));
  for (const std::string& text : arguments.decode) kinds.emplace_back(text, decoding(text, model->options()));
  model->load_values(arguments.evaluate);
  const std::vector<Batch> batches = task.evaluation(task.recipe().length);
  const Evaluation exact = model->evaluate(batches, heed::TreeBiases::stored, arguments.threads);
  say(line_of("exact", exact));
  double least = exact.accuracy;
  for (const auto& [name, substitute] : kinds) {
    const Evaluation got = model->evaluate_with(substitute.run, batches, arguments.threads);
    say(line_of(name, got) + "  " + substitute.cost());
    least = std::min(least, got.accuracy);
  }
  return least;
}

}  // namespace train_treeformer
