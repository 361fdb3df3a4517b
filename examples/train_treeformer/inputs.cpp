#include "inputs.hpp"

#include <charconv>
#include <initializer_list>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <heed/io/parameter_file.hpp>

namespace train_treeformer {
namespace {

std::string entry(const heed::TextMap& said, const char* key) {
  const auto found = said.find(key);
  return found == said.end() ? "not said" : found->second;
}

void check_settings(const std::string& path, const heed::TextMap& said, const std::string& wanted) {
  const std::string given = entry(said, "settings");
  if (given != wanted)
    throw std::runtime_error(path + " is of the run \"" + given + "\" but must be of \"" + wanted + "\"");
}

// Refuses a file that --model did not write, for this task and this attention. A checkpoint says neither of them.
heed::TextMap description_of_model(const std::string& path, const std::string& task, const std::string& attention) {
  const heed::TextMap said = heed::read_description(path);
  for (const auto& [what, wanted] : {std::pair("task", task), std::pair("attention", attention)}) {
    const std::string given = entry(said, what);
    if (given != wanted)
      throw std::runtime_error(path + " is no such file of --model: its " + what + " is " + given + " but must be " +
                               wanted);
  }
  return said;
}

}  // namespace

Checkpoint checkpoint_of(const Plan& plan) {
  if (!plan.arguments.resume) return {};
  const std::string& path = plan.arguments.checkpoint;
  const heed::TextMap said = heed::read_description(path);
  check_settings(path, said, plan.settings());
  const std::string stage_said = entry(said, "stage"), done = entry(said, "steps_done");
  std::string stages;
  for (const Stage* stage : {&plan.pretraining, &plan.first, &plan.converted}) {
    if (stage->phases.empty()) continue;
    const std::string name = text_of(stage->aim);
    stages += (stages.empty() ? "" : " or ") + name;
    if (name != stage_said) continue;
    Checkpoint made{stage->aim, 0};
    const auto [end, failure] = std::from_chars(done.data(), done.data() + done.size(), made.steps_done);
    const bool read = failure == std::errc() && end == done.data() + done.size();
    if (read && made.steps_done >= 0 && made.steps_done <= stage->n_steps()) return made;
    throw std::runtime_error(path + " says steps_done \"" + done + "\" but must say 0 to " +
                             std::to_string(stage->n_steps()) + ", the steps of its stage \"" + name + "\"");
  }
  throw std::runtime_error(path + " says stage \"" + stage_said + "\" but must say " + stages +
                           ": a checkpoint is of a stage of the run");
}

void check_inputs(const Arguments& arguments, const Task& task) {
  const Plan plan(arguments, task);
  checkpoint_of(plan);
  if (!arguments.from.empty()) {
    const std::string& path = arguments.from;
    check_settings(path, description_of_model(path, arguments.task, "exact"), plan.name_of_first());
  }
  if (!arguments.evaluate.empty()) description_of_model(arguments.evaluate, arguments.task, arguments.attention);
}

}  // namespace train_treeformer
