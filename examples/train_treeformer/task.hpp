#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <heed/layers/transformer.hpp>
#include <heed/train/batch.hpp>

#include "arguments.hpp"

namespace train_treeformer {

using heed::Batch;

/// How a task is best learned, where the command line does not say otherwise.
struct Recipe {
  Index length = 2048;          ///< tokens of a sequence
  Index short_length = 256;     ///< of the first steps: what is learned there holds at full length
  Index short_steps = 200;      ///< exact attention, or a method that is trained from the start
  Index long_steps = 60;        ///< the same at full length
  Index converted_steps = 150;  ///< after the conversion, at full length
  Index n_heads = 2;
  Index tokens = 4096;  ///< of a step
  double rate = 3e-3;
  double converted_rate = 3e-3;
  bool tied = true;  ///< W_k is W_q; else W_k starts as W_q
};

/// What can be had without reading a sequence as a whole.
struct Guess {
  std::string name;
  double accuracy = 0;
};

/// Where sequences come from and what is asked of them: a function of (seed, step) alone.
class Task {
 public:
  Task() = default;
  Task(const Task&) = delete;
  Task& operator=(const Task&) = delete;
  virtual ~Task() = default;

  [[nodiscard]] virtual Recipe recipe() const = 0;
  /// Vocabularies, answers, positions and mask of a model.
  virtual void describe(heed::TransformerOptions& options) const = 0;
  /// The sequences of step 1, 2, ...: about `tokens` tokens in sequences of `n`, or of at most `n` where they differ.
  [[nodiscard]] virtual Batch training(Index step, Index n, Index tokens) const = 0;
  /// Sequences that no step of training has.
  [[nodiscard]] virtual std::vector<Batch> evaluation(Index n) const = 0;
  /// Symbols 0, 1, ... of its inputs that pretraining may hide; 0: there is no pretraining.
  [[nodiscard]] virtual Index n_told() const { return 0; }
  /// The most frequent answer of training first, then what else is easily had, each on these batches.
  [[nodiscard]] virtual std::vector<Guess> guesses(const std::vector<Batch>& evaluation) const;
  /// What sequences are made of besides the seed, as settings say it: runs of two sources are two runs. May be empty.
  [[nodiscard]] virtual std::string source() const { return ""; }
  /// What a reader must know of the data; may be empty.
  [[nodiscard]] virtual std::string about() const { return ""; }
};

std::unique_ptr<Task> make_recall(const Arguments& arguments);
std::unique_ptr<Task> make_listops(const Arguments& arguments);
std::unique_ptr<Task> make_bytes(const Arguments& arguments);
std::unique_ptr<Task> make_text_lm(const Arguments& arguments);
/// The task that `arguments` name.
std::unique_ptr<Task> make_task(const Arguments& arguments);

/// Streams of random numbers of a task: those of training steps, of evaluation, of what is counted for guesses, and of
/// which symbols of a step pretraining hides.
enum class Purpose : std::uint64_t { training = 0, evaluation = 1, counting = 2, hiding = 3 };

/// The stream of sequence `s` of a step.
inline std::uint64_t stream_of(Purpose purpose, Index step, Index s) {
  return (static_cast<std::uint64_t>(purpose) << 60) + (static_cast<std::uint64_t>(step) << 24) +
         static_cast<std::uint64_t>(s);
}

}  // namespace train_treeformer
