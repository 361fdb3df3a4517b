#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include <heed/core/types.hpp>

namespace train_treeformer {

using heed::Index;

/// The command line, read and checked as far as it can be without opening a file. What is not given is the task's
/// recipe's.
struct Arguments {
  std::string task = "recall";
  std::string attention = "tf";
  bool bootstrap = false;  ///< train exact attention first, then convert
  std::string from;        ///< a file of --model that bootstrap converts instead of training one; empty: train it
  Index height = 5;        ///< of trees; other methods get as many FLOPs as a balanced tree of this height
  Index trees = 1;         ///< of a head, united
  std::optional<Index> tree_window;  ///< keys before the query that TF sees beside its leaf, and its own
  std::optional<Index> heads;
  Index width = 32;  ///< columns of a head
  std::optional<Index> length;
  std::vector<Index> steps;           ///< at short length, at full length, after the conversion
  Index pretrain = 0;                 ///< steps of telling hidden symbols before those of the task; 0: none
  bool as_long_as_converted = false;  ///< set by tables: the steps after a conversion too, without one
  std::uint64_t seed = 1;
  std::optional<bool> tied;  ///< W_k is W_q, or goes its own way; empty: as the task's recipe says
  std::string routing = "flip";
  int threads = 1;          ///< 0: as many as OpenMP gives
  Index micro_batches = 1;  ///< batches a step; ranks share them
  bool quick = false;
  std::string file;                                                        ///< text of text-lm
  std::string csv = "train_treeformer.csv", svg = "train_treeformer.svg";  ///< empty: none
  std::string checkpoint;  ///< written while training, and read by `resume`
  bool resume = false;
  std::string evaluate;              ///< a file of --model: it is evaluated, and nothing is trained; empty: train
  std::vector<std::string> values;   ///< how a model that is evaluated makes its values: "mca:0.4", ...
  std::vector<std::string> decode;   ///< from which caches it answers token after token: "int8", ...
  std::string model;                 ///< parameters, written after the run; empty: nothing
  std::string activations;           ///< what attention saw and gave, written after the run; empty: nothing
  std::string table;                 ///< a named set of runs; empty: one run
  Index seeds = 3;                   ///< of each run of a table
  std::optional<double> at_least{};  ///< accuracy below which the exit code is 1
};

/// Reads the command line. Prints help and returns nullopt for --help.
/// Errors  std::invalid_argument, one line, for anything that is no option or a value outside its range.
std::optional<Arguments> read_arguments(int argc, const char* const* argv);

}  // namespace train_treeformer
