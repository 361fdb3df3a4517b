#include "arguments.hpp"

#include <charconv>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <CLI/CLI.hpp>

#include "../common/output_files.hpp"
#include "../common/parse.hpp"

namespace train_treeformer {

namespace {

// What is trained, and what is written, is no evaluation's.
void check_evaluation(const Arguments& a) {
  if (a.evaluate.empty()) return;
  if (a.attention != "exact")
    throw std::invalid_argument("--evaluate needs --attention exact: sampled values are for exact attention here");
  if (a.bootstrap || a.pretrain > 0 || a.resume || !a.table.empty() || !a.checkpoint.empty() || !a.model.empty() ||
      !a.activations.empty()) {
    throw std::invalid_argument(
        "--evaluate trains nothing: leave out --bootstrap, --pretrain, --resume, --table, --checkpoint, --model and "
        "--activations");
  }
}

// CLI11 would take -1 for the largest number there is, and a larger one for it too.
std::string whole_number(const std::string& text) {
  std::uint64_t number = 0;
  const auto [end, failure] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (failure == std::errc() && end == text.data() + text.size()) return "";
  return "Value " + text + " must be a whole number of 0 to 2^64 - 1";
}

}  // namespace

std::optional<Arguments> read_arguments(int argc, const char* const* argv) {
  Arguments a;
  CLI::App app("Trains a small transformer whose attention is exact, a Treeformer's, or another method's.",
               "train_treeformer");
  app.footer(
      "Steps, rates and sizes that are not given are the task's: examples/train_treeformer/README.md.\n"
      "Exit code 0; 1 where the accuracy is below --at-least; 2 for a file or an option that cannot be used.");
  const auto choice = [&](const char* option, std::string& value, const std::vector<std::string>& names,
                          const char* text) {
    std::string all;
    for (const std::string& name : names) all += (all.empty() ? "" : "|") + name;
    app.add_option(option, value, text)->check(CLI::IsMember(names))->type_name(all)->option_text(all);
  };
  choice("--task", a.task, {"recall", "listops", "bytes", "text-lm"}, "what is learned, default recall");
  choice("--attention", a.attention, {"exact", "tf", "tc", "linformer", "performer", "bigbird", "window", "linear"},
         "method of every layer, default tf; those without trees get as many FLOPs as tf would take");
  app.add_flag("--bootstrap", a.bootstrap, "train exact attention first, convert all layers, go on");
  app.add_option(
         "--from", a.from,
         "with --bootstrap: a file of --model of --attention exact with the same task, heads, seed and steps; it "
         "is converted, and not trained again")
      ->type_name("FILE");
  app.add_option("--height", a.height,
                 "of trees: 2^height leaves, no more than the longest sequence has tokens; default 5")
      ->check(CLI::Range(1, 16));
  app.add_option("--trees", a.trees, "of a head, their leaves united; default 1")->check(CLI::Range(1, 16));
  app.add_option("--tree-window", a.tree_window,
                 "tf: beside the leaf so many tokens before the query, and its own; default: none")
      ->check(CLI::Range(0, 1 << 20));
  app.add_option("--heads", a.heads, "of --width columns each; default: the task's")->check(CLI::Range(1, 64));
  app.add_option("--width", a.width, "columns of a head; default 32")->check(CLI::Range(1, 512));
  app.add_option("--length", a.length, "tokens of the longest sequence; default: the task's")
      ->check(CLI::Range(8, 1 << 20));
  app.add_option("--steps", a.steps, "at short length, at full length, after the conversion; default: the task's")
      ->delimiter(',')
      ->expected(3)
      ->check(CLI::Range(0, 10000000))
      ->type_name("SHORT,FULL,CONVERTED");
  app.add_option("--pretrain", a.pretrain,
                 "listops and bytes: steps before those of --steps, which tell hidden symbols of the task's own inputs")
      ->check(CLI::Range(1, 10000000))
      ->type_name("STEPS");
  app.add_option("--seed", a.seed, "of data, parameters and methods that draw, default 1")
      ->check(CLI::Validator(whole_number, "", "whole"));
  app.add_flag(  // bound to a.tied itself, it would be set to false where neither is given
      "--tied,!--untied", [&a](std::int64_t given) { a.tied = given > 0; },
      "W_k is W_q; --untied: it starts as W_q and goes its own way; default: as the task's recipe says");
  choice("--routing", a.routing, {"flip", "all", "none"},
         "gradient of trees' routing: leaves of one flipped decision (default), all leaves, none");
  app.add_option("--threads", a.threads, "default 1; 0: as many as OpenMP gives")->check(CLI::Range(0, 1024));
  app.add_option("--micro-batches", a.micro_batches,
                 "batches a step, default 1; started by mpirun, ranks share them: a multiple of their number")
      ->check(CLI::Range(1, 1 << 20));
  app.add_flag("--quick", a.quick, "a small setting that shows learning within minutes");
  app.add_option("--file", a.file, "text of text-lm; default: heed's own headers")->type_name("FILE");
  app.add_option("--csv", a.csv, "every step, default train_treeformer.csv; or none")->type_name("FILE");
  app.add_option("--svg", a.svg, "picture of the curve, default train_treeformer.svg; or none")->type_name("FILE");
  app.add_option("--checkpoint", a.checkpoint, "parameters and moments, written every 50 steps")->type_name("FILE");
  app.add_flag("--resume", a.resume, "go on from --checkpoint, of a run with the same options");
  app.add_option("--evaluate", a.evaluate,
                 "a file of --model of a run with the same task, heads and attention, which must be exact")
      ->type_name("FILE");
  app.add_option("--values", a.values,
                 "with --evaluate: values made by Monte Carlo; mca:ALPHA, published:ALPHA, largest:SHARE, draws:SHARE")
      ->delimiter(',')
      ->type_name("KIND:NUMBER,...");
  app.add_option(
         "--decode", a.decode,
         "with --evaluate and text-lm: token after token, from a cache; float, bfloat16, int8, within:TOLERANCE")
      ->delimiter(',')
      ->type_name("CACHE,...");
  app.add_option("--model", a.model, "parameters, written after the run")->type_name("FILE");
  app.add_option("--activations", a.activations,
                 "queries, keys, inputs, value weights and trees of all heads on a sequence of evaluation, for compare")
      ->type_name("FILE");
  app.add_option("--table", a.table, "a named set of runs over several seeds: mean, min, max; \"list\" names them")
      ->type_name("NAME");
  app.add_option("--seeds", a.seeds, "of each run of a table, --seed, --seed + 1, ...; default 3")
      ->check(CLI::Range(1, 1000));
  app.add_option("--at-least", a.at_least, "accuracy below which the exit code is 1")->check(CLI::Range(0.0, 1.0));
  if (!common::parse(app, argc, argv)) return std::nullopt;
  for (std::string* path : {&a.csv, &a.svg})
    if (*path == "none") path->clear();
  if (a.resume && a.checkpoint.empty()) throw std::invalid_argument("--resume needs --checkpoint FILE to go on from");
  if (!a.checkpoint.empty() && !a.table.empty())
    throw std::invalid_argument("--checkpoint is of one run, not of a --table");
  check_evaluation(a);
  if (a.tree_window && a.attention != "tf" && a.table.empty())
    throw std::invalid_argument("--tree-window is of --attention tf, but --attention is " + a.attention);
  if (!a.values.empty() && a.evaluate.empty()) throw std::invalid_argument("--values needs --evaluate FILE");
  if (!a.decode.empty() && a.evaluate.empty()) throw std::invalid_argument("--decode needs --evaluate FILE");
  if (!a.from.empty() && (!a.bootstrap || a.attention == "exact" || a.resume || !a.table.empty()))
    throw std::invalid_argument(
        "--from needs --bootstrap and an --attention to convert to, and no --resume or --table");
  if ((!a.activations.empty() || !a.model.empty() || a.at_least) && !a.table.empty())
    throw std::invalid_argument("--model, --activations and --at-least are of one run, not of a --table");
  common::require_apart({{"--file", a.file}, {"--from", a.from}, {"--evaluate", a.evaluate}},
                        {{"--csv", a.csv}, {"--svg", a.svg}},
                        {{"--checkpoint", a.checkpoint}, {"--model", a.model}, {"--activations", a.activations}});
  if (a.pretrain > 0 && a.task != "listops" && a.task != "bytes") {
    throw std::invalid_argument("--pretrain is for --task listops or bytes, which ask for a class, but --task is " +
                                a.task);
  }
  if (a.length.value_or(8) % 2 != 0 && a.task == "recall")
    throw std::invalid_argument("--length must be even for recall: half of the tokens ask for the other half's values");
  return a;
}

}  // namespace train_treeformer
