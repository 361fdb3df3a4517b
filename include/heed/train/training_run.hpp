#pragma once
#include "heed/core/macros_away.inl"

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/kernels/select.hpp"
#include "heed/layers/parameter_store.hpp"
#include "heed/layers/rows.hpp"
#include "heed/layers/transformer.hpp"
#include "heed/train/adamw.hpp"
#include "heed/train/balance_loss.hpp"
#include "heed/train/batch.hpp"
#include "heed/train/cross_entropy.hpp"
#include "heed/train/distillation.hpp"
#include "heed/train/model_pass.hpp"
#include "heed/train/same_run.hpp"
#include "heed/train/training_options.hpp"
#include "heed/train/training_ranks.hpp"

namespace heed {

namespace detail {

/// The steps of one run.
template <class T>
class TrainingSteps {
 public:
  using Kept = typename Transformer<T>::Kept;

  TrainingSteps(const Transformer<T>& model, ParameterStore<T>& store, const TrainingHooks& hooks,
                const TrainingOptions& options, const Context& context)
      : model_(model), store_(store), hooks_(hooks), options_(options), context_(context) {
    context_.flops = nullptr;
    if (context_.workspace == nullptr) context_.workspace = &scratch_;
    store_.clear_gradients();
  }

  /// Meets twice: before gradients are added up, and before parameters are given to all.
  StepReport step(Index step, RankMeetings& meetings) {
    const auto start = std::chrono::steady_clock::now();
    StepReport report{.step = step, .rate = options_.schedule.at(step)};
    Context forward = context_;
    FlopCounter flops;
    forward.flops = &flops;
    const TrainingRanks& ranks = hooks_.ranks;
    const Index n_parts = options_.micro_batches, n_own = n_parts / ranks.n_ranks;
    const Index first = (ranks.n_ranks - 1 - ranks.rank) * n_own;
    sums_.clear();
    for (Index part = first; part < first + n_own; ++part) {
      flops.reset();
      hooks_.make_batch(batch_, options_.seed, (step - 1) * n_parts + part);
      pass_.run(model_, store_, batch_, forward, true, [&](Kept& kept, const LossReport& own, const View<T>& d_logits) {
        if (!is_finite(own.loss)) refuse_loss(step, own.loss);
        BatchSums sums{own.loss * static_cast<double>(own.n_answers),
                       0,
                       flops.products(),
                       own.n_answers,
                       own.n_right,
                       kept.n * kept.n_sequences};
        add_gradients(kept, own, d_logits, sums);
        if (n_parts == 1) {
          sums_.all() += sums;
        } else {
          sums_.add(store_, sums, ranks);
        }
        if (part + 1 < first + n_own) return;
        meetings.meet();
        if (n_parts == 1 || sums_.finish(store_, ranks)) finish(kept, report);
      });
    }
    meetings.meet();
    if (ranks.n_ranks > 1) {
      const std::span<T> values = store_.all_values();
      ranks.share(values.data(), values.size() * sizeof(T));
      ranks.share(&sums_.all(), sizeof(BatchSums));
      ranks.share(&report.gradient_norm, sizeof report.gradient_norm);
      ranks.share(&report.balance, sizeof report.balance);
    }
    const BatchSums& all = sums_.all();
    report.answers.n_answers = all.n_answers;
    report.answers.n_right = all.n_right;
    report.n_tokens = all.n_tokens;
    report.distillation = all.distillation;
    if (all.n_answers > 0) report.answers.loss = all.loss / static_cast<double>(all.n_answers);
    report.attention_flops_per_token = all.flops / static_cast<double>(report.n_tokens);
    report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    return report;
  }

 private:
  [[noreturn]] void refuse_loss(Index step, double loss) const {
    throw TrainingError(message("the loss of step ", step, " is ", loss,
                                " but must be finite; the parameters are those of the step before"));
  }

  // Means of batches count as many times as they have answers: the gradient is that of one batch of all.
  void add_gradients(Kept& kept, const LossReport& own, const View<T>& d_logits, BatchSums& sums) {
    const double n_parts = static_cast<double>(options_.micro_batches);
    const double weight = options_.micro_batches == 1 ? 1.0 : static_cast<double>(own.n_answers);
    Workspace::Frame frame(distilled_in_);
    if (options_.distillation > 0)
      sums.distillation += distil_attention(model_, kept, options_.distillation * weight, frame, context_) / n_parts;
    pass_.backward(model_, store_, kept, d_logits, weight, context_);
  }

  void finish(const Kept& kept, StepReport& report) {
    if (options_.micro_batches > 1 && sums_.all().n_answers > 0) {
      const T share = static_cast<T>(1.0 / static_cast<double>(sums_.all().n_answers));
      for (T& gradient : store_.all_gradients()) gradient *= share;
    }
    for (Index l = 0; l < model_.n_layers() && options_.balance > 0; ++l) {
      const auto& method = model_.attention(l).method();
      if (method.has_trees() && method.choice().biases == TreeBiases::stored)
        report.balance += add_balance_loss(method, store_, keys_of(kept, l), options_.balance, context_);
    }
    report.gradient_norm = gradient_norm(store_, report.step);
    adamw_update(store_, options_.earlier_steps + report.step, report.rate, report.gradient_norm, options_.adamw);
    follow_medians(kept);
  }

  static ConstView<T> keys_of(const Kept& kept, Index layer) {
    return read_only(kept.blocks[static_cast<std::size_t>(layer)].attention.k);
  }

  // The keys of all sequences are taken together: stored biases serve all of them.
  void follow_medians(const Kept& kept) {
    for (Index l = 0; l < model_.n_layers() && options_.median_share > 0; ++l) {
      const auto& method = model_.attention(l).method();
      if (!method.has_trees() || method.choice().biases != TreeBiases::key_medians) continue;
      method.follow_medians(store_, keys_of(kept, l), options_.median_share, *context_.workspace);
    }
  }

  const Transformer<T>& model_;
  ParameterStore<T>& store_;
  const TrainingHooks& hooks_;
  const TrainingOptions& options_;
  Context context_;
  ModelPass<T> pass_;
  Workspace scratch_, distilled_in_;
  StepSums<T> sums_;
  Batch batch_;
};

}  // namespace detail

/// Trains a model by AdamW from step steps_done + 1 to the last: for each step the batches, forward, loss, backward,
/// clipping, the optimiser, the report, and where it is due the checkpoint.
///
/// A run that is resumed with the store of a checkpoint (values, moments, SliceOptions), its step, and the same model,
/// options and hooks goes on bit for bit, for any context.threads on one instruction set.
///
/// Where steps_done is no less than options.n_steps nothing is left to do, and nothing is done.
///
/// Ranks   with TrainingHooks::ranks the bits are those of one process with the same micro_batches. Where one rank
///         throws, all do: it what it had to, the others TrainingError.
/// Memory  a step allocates nothing after the first, whatever the method, unless its batch is larger or a leaf fuller
///         than any before.
/// Errors  OptionError for options out of range, and for ranks that would train apart, before anything is done.
///         TrainingError, naming the step, where the loss or the norm of the gradients is NaN or infinite: the
///         parameters are then those of the step before, and the last checkpoint stays the last. What hooks throw.
/// Threads one run a store.
template <class T>
TrainingResult train(const Transformer<T>& model, ParameterStore<T>& store, const TrainingHooks& hooks,
                     const TrainingOptions& options = {}, Index steps_done = 0, const Context& context = {}) {
  detail::check_ranks(hooks.ranks);
  detail::RankMeetings meetings(hooks.ranks);
  auto isa = Isa::baseline;
  meetings.run([&] {
    detail::check_training(store, hooks, options, steps_done);
    isa = active_isa();
  });
  const Index last = options.n_steps.value_or(options.schedule.n_steps);
  const auto number = [](const char* name, auto value) {
    return detail::RunNumber{name, static_cast<std::int64_t>(value)};
  };
  if (hooks.ranks.n_ranks > 1) {
    detail::check_same_run(
        hooks.ranks,
        {number("the scalar of the parameters", sizeof(T)), number("HEED_ISA", isa),
         number("the number of parameters", store.size()), number("what the model computes", detail::digest_of(model)),
         number("what the parameters are", detail::digest_of(store)),
         number("TrainingOptions::micro_batches", options.micro_batches), number("TrainingOptions::n_steps", last),
         number("TrainingOptions::seed", options.seed), number("TrainingOptions::earlier_steps", options.earlier_steps),
         number("steps_done", steps_done), number("TrainingOptions", detail::digest_of(options))});
  }
  std::optional<detail::TrainingSteps<T>> steps;
  meetings.run([&] { steps.emplace(model, store, hooks, options, context); });
  TrainingResult result{.steps_done = steps_done};
  while (result.steps_done < last && !result.stopped) {
    meetings.run([&] {
      result.last = steps->step(result.steps_done + 1, meetings);
      const Index done = ++result.steps_done;
      if (hooks.report) hooks.report(result.last);
      result.stopped = done < last && hooks.stop != nullptr && hooks.stop->load();
      const bool due = done == last || result.stopped || (options.save_every > 0 && done % options.save_every == 0);
      if (due && hooks.save) hooks.save(done);
    });
  }
  return result;
}

}  // namespace heed

#include "heed/core/macros_back.inl"
