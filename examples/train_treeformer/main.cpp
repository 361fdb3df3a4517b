// train_treeformer: trains a small transformer whose attention is exact, a Treeformer's, or another method's.
// README.md.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "../common/machine.hpp"
#include "../common/output_files.hpp"
#include "../common/printf_text.hpp"
#include "../common/progress.hpp"
#include "arguments.hpp"
#include "evaluate.hpp"
#include "inputs.hpp"
#include "ranks.hpp"
#include "report.hpp"
#include "table.hpp"
#include "task.hpp"
#include "training.hpp"

namespace {

using namespace train_treeformer;
using namespace common;

constexpr int below = 1, refused = 2;  // exit codes

void complain(const std::string& message) { std::cerr << "train_treeformer: " << one_line(message) << "\n"; }

void say(const std::string& line) { std::cout << line << "\n" << std::flush; }

Run train_aloud(const Arguments& arguments, const Task& task, Trained& trained,
                const std::function<void(const Run&)>& end = {}, const heed::TrainingRanks& ranks = {}) {
  Progress progress("train_treeformer", true, std::chrono::seconds(5));
  return train(arguments, task, trained,
               {.step =
                    [&](const CurvePoint& point, Index n_steps, double seconds_left) {
                      if (progress.due()) progress(progress_text(point, n_steps, seconds_left));
                    },
                .milestone =
                    [&](const Milestone& milestone) {
                      progress.clear();
                      say(milestone_text(milestone));
                    },
                .end = end},
               ranks);
}

// What ranks above 0 do: the same, without a word and without a file.
int run_along(Arguments arguments, const heed::TrainingRanks& ranks) {
  for (std::string* path : {&arguments.csv, &arguments.svg, &arguments.model, &arguments.activations}) path->clear();
  Trained trained;
  train(arguments, *make_task(arguments), trained, {}, ranks);
  return 0;
}

int exit_code_of(const Arguments& arguments, double accuracy) {
  if (!arguments.at_least || accuracy >= *arguments.at_least) return 0;
  complain(format("accuracy %.4f is below --at-least %g", accuracy, *arguments.at_least));
  return below;
}

int run_one(const Arguments& arguments, const heed::TrainingRanks& ranks) {
  if (ranks.rank > 0) return run_along(arguments, ranks);
  const std::unique_ptr<Task> task = make_task(arguments);
  check_inputs(arguments, *task);
  if (arguments.evaluate.empty()) {  // else nothing is written
    require_writable(arguments.csv, "--csv");
    require_writable(arguments.svg, "--svg");
    require_replaceable(arguments.model, "--model");
    require_replaceable(arguments.activations, "--activations");
    require_replaceable(arguments.checkpoint, "--checkpoint");
  }
  const Machine machine = describe_machine(arguments.threads);
  say(machine.text());
  if (!task->about().empty()) say(task->about());
  const std::vector<Guess> guesses = task->guesses(task->evaluation(task->recipe().length));
  std::cout << guess_text(guesses) << std::flush;
  if (!arguments.evaluate.empty()) return exit_code_of(arguments, evaluate_model(arguments, *task, say));
  Trained trained;
  const auto tell = [&](const Run& run) {
    say(format("%.0f s, seed %llu", run.seconds, static_cast<unsigned long long>(arguments.seed)));
    if (!arguments.csv.empty()) write_file(arguments.csv, csv_text(run));
    const std::string title = arguments.task + ", " + arguments.attention;
    if (!arguments.svg.empty()) write_file(arguments.svg, svg_text(run, guesses, title, machine.text()));
  };
  const Run run = train_aloud(arguments, *task, trained, tell, ranks);
  return exit_code_of(arguments, run.milestones.back().evaluation.accuracy);
}

// What one row of a table came to, a number a seed.
struct Outcome {
  std::vector<double> accuracy, fewer, fullest, seconds;
};

std::string spread(const std::vector<double>& values, const char* pattern) {
  double sum = 0;
  for (const double value : values) sum += value;
  const auto [least, most] = std::minmax_element(values.begin(), values.end());
  return format(pattern, sum / static_cast<double>(values.size()), *least, *most);
}

int run_table(const Arguments& given) {
  if (given.table == "list") {
    std::cout << table_names();
    return 0;
  }
  const std::vector<TableRow> rows = table_rows(given.table, given);
  for (const TableRow& row : rows) check_inputs(row.arguments, *make_task(row.arguments));
  say(describe_machine(given.threads).text());
  std::vector<Outcome> outcomes(rows.size());
  std::map<std::string, std::vector<double>> guesses;
  for (Index s = 0; s < given.seeds; ++s) {
    Trained trained;  // an exact model serves all rows that begin with it
    for (std::size_t r = 0; r < rows.size(); ++r) {
      Arguments arguments = rows[r].arguments;
      arguments.seed += static_cast<std::uint64_t>(s);
      say(format("seed %llu: ", static_cast<unsigned long long>(arguments.seed)) + rows[r].name);
      const std::unique_ptr<Task> task = make_task(arguments);
      for (const Guess& guess : task->guesses(task->evaluation(task->recipe().length)))
        guesses[guess.name].push_back(guess.accuracy);
      const Run run = train_aloud(arguments, *task, trained);
      const Evaluation& result = run.milestones.back().evaluation;
      outcomes[r].accuracy.push_back(result.accuracy);
      outcomes[r].fewer.push_back(result.fewer);
      outcomes[r].fullest.push_back(result.fullest_leaf);
      outcomes[r].seconds.push_back(run.seconds);
    }
  }
  say(format("%-36s %-26s %-9s %-13s %s", "", "accuracy: mean, min, max", "fewer", "fullest leaf", "seconds, mean"));
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const auto column = [](const std::vector<double>& values, const char* pattern) {
      return format(pattern, *std::max_element(values.begin(), values.end()));
    };
    say(format("%-36s ", rows[r].name.c_str()) + spread(outcomes[r].accuracy, "%.4f  %.4f  %.4f    ") +
        format("%-9s ", (spread(outcomes[r].fewer, "%.2fx")).c_str()) +
        format("%-13s ", column(outcomes[r].fullest, "%.2f").c_str()) + spread(outcomes[r].seconds, "%.0f"));
  }
  for (const auto& [name, accuracy] : guesses) say("guessing " + name + spread(accuracy, ": %.4f, %.4f to %.4f"));
  say(format("%ld seeds", static_cast<long>(given.seeds)));
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const RunningRanks running(argc, argv);
  const heed::TrainingRanks& ranks = running.hooks();
  try {
    const auto arguments = read_arguments(argc, argv);
    if (!arguments) return 0;
    if (ranks.n_ranks == 1) return arguments->table.empty() ? run_one(*arguments, ranks) : run_table(*arguments);
    if (!arguments->table.empty() || !arguments->evaluate.empty())
      throw std::invalid_argument("--table and --evaluate run on one rank");
    return run_one(*arguments, ranks);
  } catch (const std::bad_alloc&) {
    complain("a step does not fit in memory; shorten --length");
  } catch (const std::exception& error) {
    complain(error.what());
  }
  running.abort(refused);
  return refused;
}
