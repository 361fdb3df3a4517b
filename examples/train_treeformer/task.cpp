#include "task.hpp"

#include <algorithm>
#include <map>

#include <heed/train/cross_entropy.hpp>

namespace train_treeformer {

std::unique_ptr<Task> make_task(const Arguments& arguments) {
  if (arguments.task == "listops") return make_listops(arguments);
  if (arguments.task == "bytes") return make_bytes(arguments);
  if (arguments.task == "text-lm") return make_text_lm(arguments);
  return make_recall(arguments);
}

std::vector<Guess> Task::guesses(const std::vector<Batch>& evaluation) const {
  std::map<std::int32_t, Index> counts;
  for (Index step = 1; step <= 20; ++step) {
    for (const std::int32_t target : training(step, evaluation.front().n, recipe().tokens).targets) ++counts[target];
  }
  counts.erase(heed::no_target);
  const auto fewer = [](const auto& a, const auto& b) { return a.second < b.second; };
  const std::int32_t answer = std::max_element(counts.begin(), counts.end(), fewer)->first;
  Index n_answers = 0, n_right = 0;
  for (const Batch& batch : evaluation) {
    for (const std::int32_t target : batch.targets) {
      n_answers += target != heed::no_target;
      n_right += target == answer;
    }
  }
  return {{"most frequent answer", static_cast<double>(n_right) / static_cast<double>(std::max<Index>(1, n_answers))}};
}

}  // namespace train_treeformer
