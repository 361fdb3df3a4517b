#include "evaluate.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <memory>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include <heed/sampling/monte_carlo_options.hpp>

#include "../common/printf_text.hpp"
#include "training.hpp"

namespace train_treeformer {
namespace {

using common::format;

// "mca:0.4" and its like; a path that always samples, so that the line shows the estimator.
heed::MonteCarloOptions values_named(const std::string& text, std::uint64_t seed) {
  const std::size_t colon = text.find(':');
  const std::string kind = text.substr(0, colon), number = colon == std::string::npos ? "" : text.substr(colon + 1);
  double value = 0;
  const auto [end, failure] = std::from_chars(number.data(), number.data() + number.size(), value);
  heed::MonteCarloOptions options{.seed = seed, .path = heed::ValuePath::sampled};
  const bool known = kind == "mca" || kind == "published" || kind == "largest" || kind == "draws";
  if (!known || failure != std::errc() || end != number.data() + number.size()) {
    throw std::invalid_argument("--values has " + text +
                                " but must have mca:ALPHA, published:ALPHA, largest:SHARE or draws:SHARE");
  }
  const bool share = kind == "largest" || kind == "draws";
  if (!(value > 0 && value <= (share ? 1.0 : 1e6)))
    throw std::invalid_argument("--values has " + text + " but its number must be above 0 and at most " +
                                (share ? "1" : "1000000"));
  if (kind == "published") options.rounding = heed::Rounding::published;
  if (kind == "mca" || kind == "published") {
    options.alpha = value;
    return options;
  }
  options.fraction = value;
  options.budget = heed::Budget::constant;
  options.estimator = kind == "largest" ? heed::Estimator::largest : heed::Estimator::with_replacement;
  return options;
}

std::string line_of(const std::string& name, const Evaluation& got) {
  return format("%-16s accuracy %.4f  loss %.4f (%.3f bits)", name.c_str(), got.accuracy, got.loss,
                got.loss / std::log(2.0));
}

}  // namespace

double evaluate_model(const Arguments& arguments, const Task& task,
                      const std::function<void(const std::string&)>& say) {
  std::vector<std::pair<std::string, heed::MonteCarloOptions>> kinds;
  for (const std::string& text : arguments.values) kinds.emplace_back(text, values_named(text, arguments.seed));
  const std::unique_ptr<Model> model = make_model(arguments, task);
  model->load_values(arguments.evaluate);
  const std::vector<Batch> batches = task.evaluation(task.recipe().length);
  const Evaluation exact = model->evaluate(batches, heed::TreeBiases::stored, arguments.threads);
  say(line_of("exact values", exact));
  double least = exact.accuracy;
  for (const auto& [name, values] : kinds) {
    const Evaluation got = model->evaluate_sampled(batches, values, arguments.threads);
    say(line_of(name, got) +
        format("  value products %.2fx fewer, %.2fx with choosing them", got.values_fewer, got.values_fewer_all));
    least = std::min(least, got.accuracy);
  }
  return least;
}

}  // namespace train_treeformer
