#pragma once
#include "heed/core/macros_away.inl"

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>

#include "heed/core/check_option.hpp"
#include "heed/core/digest.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/train/adamw.hpp"
#include "heed/train/batch.hpp"
#include "heed/train/cross_entropy.hpp"
#include "heed/train/training_ranks.hpp"

namespace heed {

/// How a run of training goes.
struct TrainingOptions {
  std::optional<Index> n_steps{};  ///< the last step; not given: Schedule::n_steps, where the rate is lowest
  Schedule schedule{};             ///< rate of each step
  AdamWOptions adamw{};            ///< clips at 1: single batches of retrieval have gradients far above the usual
  Index micro_batches = 1;         ///< batches a step, one at a time, their gradients added in order; >= 1
  std::uint64_t seed = 1;          ///< handed to make_batch
  Index save_every = 200;          ///< steps between checkpoints, >= 0; 0: at the end only
  /// Trees with TreeBiases::key_medians: how far stored biases go towards the medians of a step's keys, 0 .. 1; 0: they
  /// stay. A twentieth forgets within a few dozen steps how the planes lay before, and averages as many batches.
  double median_share = 0.05;
  /// Steps that moments kept from a phase before have seen, 0 .. 2^40: AdamW corrects the bias of young moments only.
  Index earlier_steps = 0;
  double balance = 0;       ///< weight of add_balance_loss over each layer with trees of stored biases; 0: off; >= 0
  double distillation = 0;  ///< weight of distil_attention; 0: off; >= 0
};

/// What a step did.
struct StepReport {
  Index step = 0;            ///< 1, 2, ...
  LossReport answers{};      ///< loss and accuracy over the answers of all its batches, before the step
  double rate = 0;           ///< of learning
  double gradient_norm = 0;  ///< before clipping
  Index n_tokens = 0;        ///< of all its batches
  /// Products of attention forward, routing among them, counted (Phase), a token: 4 n d_model a layer where exact.
  double attention_flops_per_token = 0;
  double seconds = 0;       ///< of the clock, batches among them
  double balance = 0;       ///< where TrainingOptions::balance is on: B of the last batch, summed over layers
  double distillation = 0;  ///< where TrainingOptions::distillation is on: D summed over layers, the mean of batches
};

/// What a run asks its caller for. Only make_batch must be given.
struct TrainingHooks {
  /// Fills batch `number` = 0, 1, ...: step s has those from (s - 1) micro_batches on. It must depend on seed and
  /// number alone: a resumed run asks again from where it stopped. The Batch comes as it was left, so that its memory
  /// serves.
  std::function<void(Batch& batch, std::uint64_t seed, Index number)> make_batch{};
  std::function<void(const StepReport& report)> report{};  ///< after each step
  std::function<void(Index step)> save{};   ///< write a checkpoint of the store: it has done `step` steps
  const std::atomic<bool>* stop = nullptr;  ///< true: save after the step under way, and return; not over ranks
  TrainingRanks ranks{};                    ///< processes that share the batches of a step; default: this one alone
};

/// How far a run came.
struct TrainingResult {
  Index steps_done = 0;
  bool stopped = false;  ///< before the last step, because it was asked to
  StepReport last{};
};

namespace detail {

/// What a step makes of gradients, and in which order; not what is written, and when.
inline std::uint64_t digest_of(const TrainingOptions& options) {
  const Schedule& schedule = options.schedule;
  const AdamWOptions& adamw = options.adamw;
  Digest digest;
  digest.add_all(schedule.rate, schedule.warm_up, schedule.n_steps, schedule.last_share, schedule.decay);
  digest.add_all(adamw.beta_1, adamw.beta_2, adamw.eps, adamw.decay, adamw.clip);
  digest.add_all(options.median_share, options.balance, options.distillation);
  return digest.sum();
}

/// Throws OptionError where ranks cannot speak to each other.
inline void check_ranks(const TrainingRanks& ranks) {
  check_at_least(ranks.n_ranks, 1, "TrainingRanks::n_ranks");
  if (ranks.rank < 0 || ranks.rank >= ranks.n_ranks)
    throw OptionError(message("TrainingRanks::rank = ", ranks.rank, " must be 0 .. n_ranks - 1 = ", ranks.n_ranks - 1));
  if (ranks.n_ranks > 1 && (!ranks.receive || !ranks.send || !ranks.share))
    throw OptionError("heed: TrainingRanks::receive, send and share must be given where n_ranks > 1");
}

/// Throws OptionError before anything is done where a run cannot be made, by ranks that can speak to each other.
template <class T>
void check_training(const ParameterStore<T>& store, const TrainingHooks& hooks, const TrainingOptions& options,
                    Index steps_done) {
  if (!hooks.make_batch) throw OptionError("heed: TrainingHooks::make_batch is empty but must be given");
  check_at_least(options.n_steps.value_or(0), 0, "TrainingOptions::n_steps");
  check_at_least(options.micro_batches, 1, "TrainingOptions::micro_batches");
  check_at_least(options.save_every, 0, "TrainingOptions::save_every");
  check_size(options.earlier_steps, 0, "TrainingOptions::earlier_steps");  // their sum is a number of steps too
  check_size(steps_done, 0, "steps_done");
  check_within(options.median_share, 0, 1, "TrainingOptions::median_share");
  check_within(options.balance, 0, 1e30, "TrainingOptions::balance");
  check_within(options.distillation, 0, 1e30, "TrainingOptions::distillation");
  check_schedule(options.schedule);
  // No later rate is higher, and no later bias correction larger.
  check_adamw(store, options.earlier_steps + steps_done + 1, options.schedule.rate, options.adamw);
  const TrainingRanks& ranks = hooks.ranks;
  if (options.micro_batches % ranks.n_ranks != 0) {
    throw OptionError(message("TrainingOptions::micro_batches = ", options.micro_batches,
                              " must be a multiple of TrainingRanks::n_ranks = ", ranks.n_ranks));
  }
  if (ranks.n_ranks > 1 && hooks.stop != nullptr)
    throw OptionError("heed: TrainingHooks::stop is given but must not be over ranks: they would stop apart");
}

}  // namespace detail
}  // namespace heed

#include "heed/core/macros_back.inl"
