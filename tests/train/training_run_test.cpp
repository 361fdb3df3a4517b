#include "heed/train/training_run.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "heed/core/random.hpp"
#include "heed/io/parameter_file.hpp"
#include "io/files.hpp"
#include "support/allocations.hpp"
#include "support/matrices.hpp"

#if __has_include(<sys/wait.h>) && __has_include(<unistd.h>)
#include <csignal>
#include <unistd.h>
#include <sys/wait.h>
#define HEED_TEST_FORKS
#endif

namespace heed::test {
namespace {

/// A model of two layers and a task: say the sum of two tokens. Batch `number` has sequences of 12 tokens.
struct SmallRun {
  explicit SmallRun(const AttentionChoice& choice = {}) : model(store, model_options(choice)) {}

  static TransformerOptions model_options(const AttentionChoice& choice) {
    TransformerOptions options{
        .vocabularies = {7, 5}, .n_out = 6, .d_model = 8, .d_hidden = 12, .n_layers = 2, .length = 12};
    options.attention.n_heads = 2;
    options.attention.choice = choice;
    return options;
  }
  static void make_batch(Batch& batch, std::uint64_t seed, Index number, Index rows = 24) {
    CounterRng numbers(seed, static_cast<std::uint64_t>(number));
    batch.n = 12;
    batch.tokens.resize(2);
    for (auto& list : batch.tokens) list.resize(static_cast<std::size_t>(rows));
    batch.targets.resize(static_cast<std::size_t>(rows));
    for (std::size_t i = 0; i < batch.targets.size(); ++i) {
      batch.tokens[0][i] = static_cast<std::int32_t>(numbers.below(7));
      batch.tokens[1][i] = static_cast<std::int32_t>(numbers.below(5));
      batch.targets[i] = i % 5 == 0 ? no_target : (batch.tokens[0][i] + batch.tokens[1][i]) % 6;
    }
  }
  static TrainingHooks hooks() {
    return {.make_batch = [](Batch& batch, std::uint64_t seed, Index number) { make_batch(batch, seed, number); }};
  }
  static TrainingOptions options(Index n_steps) {
    TrainingOptions options{.n_steps = n_steps, .schedule = {.rate = 1e-2, .warm_up = 3, .n_steps = 12}};
    options.seed = 9;
    return options;
  }

  ParameterStore<double> store;
  Transformer<double> model;
};

bool same_numbers(std::span<const double> a, std::span<const double> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0;
}
::testing::AssertionResult same_bits_of_stores(const ParameterStore<double>& a, const ParameterStore<double>& b) {
  if (!same_numbers(a.all_values(), b.all_values())) return ::testing::AssertionFailure() << "values differ";
  if (!same_numbers(a.first_moments(), b.first_moments())) return ::testing::AssertionFailure() << "moments differ";
  if (!same_numbers(a.second_moments(), b.second_moments())) return ::testing::AssertionFailure() << "moments differ";
  return ::testing::AssertionSuccess();
}

TEST(TrainingRun, IsResumedBitForBit) {
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("run.safetensors");
  for (const AttentionKind kind : {AttentionKind::exact, AttentionKind::tf, AttentionKind::tc}) {
    SCOPED_TRACE(static_cast<int>(kind));
    const AttentionChoice choice{.kind = kind, .height = 2};
    SmallRun whole(choice), first(choice), second(choice);
    TrainingOptions options = SmallRun::options(12);
    options.micro_batches = kind == AttentionKind::exact ? 1 : 2;
    train(whole.model, whole.store, SmallRun::hooks(), options, 0, {.threads = 2});
    options.n_steps = 5;
    TrainingHooks hooks = SmallRun::hooks();
    hooks.save = [&](Index step) {
      save_parameters(path, first.store, {{"step", std::to_string(step)}}, ParameterParts::training);
    };
    train(first.model, first.store, hooks, options, 0, {.threads = 1});
    options.n_steps = 12;
    second.store.fill(second.store.slice(0), 3.0);  // whatever it was
    const Index done = std::stoll(load_parameters(path, second.store, ParameterParts::training).at("step"));
    EXPECT_EQ(done, 5);
    const auto result = train(second.model, second.store, SmallRun::hooks(), options, done);
    EXPECT_EQ(result.steps_done, 12);
    EXPECT_TRUE(same_bits_of_stores(second.store, whole.store));
    EXPECT_FALSE(same_numbers(first.store.all_values(), whole.store.all_values()));
  }
}

TEST(TrainingRun, MicroBatchesHaveTheGradientOfTheirUnion) {
  SmallRun once, parts;
  // One batch of six sequences of which the second third has few answers, and the same in three parts.
  const auto thirds = [](Batch& batch, Index part) {
    SmallRun::make_batch(batch, 4, part);
    for (std::size_t i = 4; part == 1 && i < batch.targets.size(); ++i) batch.targets[i] = no_target;
  };
  TrainingHooks hooks;
  StepReport report_of_one, report_of_parts;
  TrainingOptions options = SmallRun::options(1);
  hooks.make_batch = [&](Batch& batch, std::uint64_t, Index) {
    Batch third;
    batch = {};
    batch.n = 12;
    batch.tokens.resize(2);
    for (Index part = 0; part < 3; ++part) {
      thirds(third, part);
      for (std::size_t t = 0; t < 2; ++t)
        batch.tokens[t].insert(batch.tokens[t].end(), third.tokens[t].begin(), third.tokens[t].end());
      batch.targets.insert(batch.targets.end(), third.targets.begin(), third.targets.end());
    }
  };
  hooks.report = [&](const StepReport& report) { report_of_one = report; };
  train(once.model, once.store, hooks, options);
  options.micro_batches = 3;
  hooks.make_batch = [&](Batch& batch, std::uint64_t, Index number) { thirds(batch, number); };
  hooks.report = [&](const StepReport& report) { report_of_parts = report; };
  train(parts.model, parts.store, hooks, options);
  EXPECT_NEAR(report_of_one.answers.loss, report_of_parts.answers.loss, 1e-14);
  EXPECT_NEAR(report_of_one.gradient_norm, report_of_parts.gradient_norm, 1e-13 * report_of_one.gradient_norm);
  EXPECT_EQ(report_of_one.answers.n_answers, report_of_parts.answers.n_answers);
  EXPECT_EQ(report_of_one.answers.n_right, report_of_parts.answers.n_right);
  EXPECT_EQ(report_of_parts.n_tokens, 72);
  // The first moment is a tenth of the clipped gradient.
  for (std::size_t e = 0; e < once.store.all_values().size(); ++e)
    ASSERT_NEAR(once.store.first_moments()[e], parts.store.first_moments()[e], 1e-15) << e;
}

/// What one rank is sent, in order.
class Mailbox {
 public:
  void put(const void* data, std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const auto* first = static_cast<const char*>(data);
    letters_.emplace_back(first, first + bytes);
    arrived_.notify_one();
  }
  void take(void* data, std::size_t bytes) {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [&] { return !letters_.empty(); });
    EXPECT_EQ(letters_.front().size(), bytes);
    std::copy_n(letters_.front().data(), bytes, static_cast<char*>(data));
    letters_.pop_front();
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<std::vector<char>> letters_;
};

/// Calls work(rank, hooks) on a thread for each of n_ranks ranks.
template <class Work>
void over_ranks(std::size_t n_ranks, const Work& work) {
  std::vector<Mailbox> sums(n_ranks), shares(n_ranks);
  std::vector<std::thread> threads;
  for (std::size_t r = 0; r < n_ranks; ++r) {
    threads.emplace_back([&, r] {
      TrainingHooks hooks = SmallRun::hooks();
      hooks.ranks = {.rank = static_cast<Index>(r), .n_ranks = static_cast<Index>(n_ranks)};
      hooks.ranks.receive = [&, r](void* data, std::size_t bytes) { sums[r].take(data, bytes); };
      hooks.ranks.send = [&, r](const void* data, std::size_t bytes) { sums[r - 1].put(data, bytes); };
      hooks.ranks.share = [&, r](void* data, std::size_t bytes) {
        for (std::size_t other = 1; r == 0 && other < n_ranks; ++other) shares[other].put(data, bytes);
        if (r > 0) shares[r].take(data, bytes);
      };
      work(r, hooks);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

TEST(TrainingRun, OverRanksHasTheBitsOfOneProcess) {
  for (const AttentionKind kind : {AttentionKind::exact, AttentionKind::tf}) {
    TrainingOptions options = SmallRun::options(4);
    options.micro_batches = 6;
    SmallRun alone({.kind = kind, .height = 2});
    const auto want = train(alone.model, alone.store, SmallRun::hooks(), options, 0, {.threads = 1});
    for (const std::size_t n_ranks : {2U, 3U}) {
      std::vector<std::unique_ptr<SmallRun>> runs;
      for (std::size_t r = 0; r < n_ranks; ++r)
        runs.push_back(std::make_unique<SmallRun>(AttentionChoice{.kind = kind, .height = 2}));
      std::vector<TrainingResult> got(n_ranks);
      over_ranks(n_ranks, [&](std::size_t r, const TrainingHooks& hooks) {
        got[r] = train(runs[r]->model, runs[r]->store, hooks, options, 0, {.threads = 1});
      });
      EXPECT_TRUE(same_bits_of_stores(runs[0]->store, alone.store));
      for (std::size_t r = 0; r < n_ranks; ++r) {
        EXPECT_TRUE(same_numbers(runs[r]->store.all_values(), alone.store.all_values())) << "rank " << r;
        EXPECT_EQ(got[r].last.answers.loss, want.last.answers.loss);
        EXPECT_EQ(got[r].last.gradient_norm, want.last.gradient_norm);
        EXPECT_EQ(got[r].last.n_tokens, want.last.n_tokens);
        EXPECT_EQ(got[r].last.attention_flops_per_token, want.last.attention_flops_per_token);
      }
    }
  }
}

TEST(TrainingRun, WhereOneRankThrowsAllDo) {
  struct Spoilt {};
  // What goes wrong on a rank, in the third step.
  using Spoil = void (*)(SmallRun & run, TrainingHooks & hooks);
  const std::pair<const char*, Spoil> spoils[] = {
      {"a batch",
       [](SmallRun&, TrainingHooks& hooks) {
         hooks.make_batch = [make = hooks.make_batch](Batch& batch, std::uint64_t seed, Index number) {
           if (number >= 12) throw Spoilt();
           make(batch, seed, number);
         };
       }},
      {"a report",
       [](SmallRun&, TrainingHooks& hooks) {
         hooks.report = [](const StepReport& report) {
           if (report.step == 3) throw Spoilt();
         };
       }},
      {"a checkpoint",
       [](SmallRun&, TrainingHooks& hooks) {
         hooks.save = [](Index step) {
           if (step == 3) throw Spoilt();
         };
       }},
  };
  TrainingOptions options = SmallRun::options(5);
  options.micro_batches = 6;
  options.save_every = 1;
  for (const auto& [what, spoil] : spoils) {
    for (const std::size_t spoilt : {0U, 1U, 2U}) {
      SCOPED_TRACE(std::string(what) + " of rank " + std::to_string(spoilt));
      std::vector<std::string> said(3);
      over_ranks(3, [&, spoil_run = spoil](std::size_t r, TrainingHooks hooks) {
        SmallRun run;
        if (r == spoilt) spoil_run(run, hooks);
        try {
          train(run.model, run.store, hooks, options, 0, {.threads = 1});
        } catch (const Spoilt&) {
          said[r] = "its own";
        } catch (const TrainingError& error) {
          said[r] = error.what();
        }
      });
      for (std::size_t r = 0; r < 3; ++r) {
        EXPECT_EQ(said[r], r == spoilt ? "its own" : "heed: another rank could not go on: its error says why");
      }
    }
  }
}

TEST(TrainingRun, RanksThatWouldTrainApartAreRefused) {
  for (const char* what : {"micro_batches", "seed", "steps_done", "n_steps", "what the parameters are",
                           "what the model computes", "TrainingOptions"}) {
    for (const std::size_t other : {0U, 2U}) {
      SCOPED_TRACE(what);
      std::vector<std::string> said(3);
      over_ranks(3, [&](std::size_t r, const TrainingHooks& hooks) {
        const bool differs = r == other;
        const bool other_model = differs && what == std::string("what the model computes");
        SmallRun run(AttentionChoice{.kind = AttentionKind::window, .window = other_model ? 2 : 3});
        TrainingOptions options = SmallRun::options(5);
        if (differs && what == std::string("what the parameters are")) run.store.all_values()[3] += 1;
        if (differs && what == std::string("TrainingOptions")) options.adamw.beta_1 = 0.8;
        options.micro_batches = differs && what == std::string("micro_batches") ? 9 : 6;
        options.seed = differs && what == std::string("seed") ? 8 : 7;
        if (differs && what == std::string("n_steps")) options.n_steps = 4;
        try {
          train(run.model, run.store, hooks, options, differs && what == std::string("steps_done") ? 1 : 0,
                {.threads = 1});
        } catch (const OptionError& error) {
          said[r] = error.what();
        }
      });
      for (const std::string& text : said) {
        EXPECT_NE(text.find(std::string(what) + " differs between ranks"), std::string::npos) << text;
      }
    }
  }
}

TEST(TrainingRun, OptionsThatOneRankRefusesStopAllRanks) {
  using Spoil = void (*)(TrainingOptions & options, TrainingHooks & hooks);
  static const std::atomic<bool> stop{false};
  const std::pair<const char*, Spoil> spoils[] = {
      {"micro_batches", [](TrainingOptions& options, TrainingHooks&) { options.micro_batches = 7; }},
      {"make_batch", [](TrainingOptions&, TrainingHooks& hooks) { hooks.make_batch = {}; }},
      {"rate", [](TrainingOptions& options, TrainingHooks&) { options.schedule.rate = -1; }},
      {"save_every", [](TrainingOptions& options, TrainingHooks&) { options.save_every = -1; }},
      {"stop", [](TrainingOptions&, TrainingHooks& hooks) { hooks.stop = &stop; }},
  };
  for (const auto& [what, spoil] : spoils) {
    for (const std::size_t spoilt : {0U, 1U, 2U}) {
      SCOPED_TRACE(std::string(what) + " of rank " + std::to_string(spoilt));
      std::vector<std::string> said(3);
      over_ranks(3, [&, spoil_run = spoil](std::size_t r, TrainingHooks hooks) {
        SmallRun run;
        TrainingOptions options = SmallRun::options(5);
        options.micro_batches = 6;
        if (r == spoilt) spoil_run(options, hooks);
        try {
          train(run.model, run.store, hooks, options, 0, {.threads = 1});
        } catch (const OptionError& error) {
          said[r] = error.what();
        } catch (const TrainingError&) {
          said[r] = "another";
        }
      });
      for (std::size_t r = 0; r < 3; ++r) {
        if (r == spoilt) {
          EXPECT_NE(said[r].find(what), std::string::npos) << said[r];
        } else {
          EXPECT_EQ(said[r], "another");
        }
      }
    }
  }
}

TEST(TrainingRun, ReportsWhatAttentionCost) {
  SmallRun run;
  TrainingHooks hooks = SmallRun::hooks();
  Index reports = 0;
  hooks.report = [&](const StepReport& report) {
    EXPECT_EQ(report.step, ++reports);
    EXPECT_EQ(report.attention_flops_per_token, 2 * 4.0 * 12 * 8);  // layers, 4 n d_model
    EXPECT_EQ(report.n_tokens, 24);
    EXPECT_GT(report.gradient_norm, 0);
    EXPECT_GE(report.seconds, 0);
    EXPECT_EQ(report.rate, SmallRun::options(4).schedule.at(report.step));
  };
  FlopCounter untouched;
  train(run.model, run.store, hooks, SmallRun::options(4), 0, {.flops = &untouched});
  EXPECT_EQ(reports, 4);
}

TEST(TrainingRun, StopsAtALossThatIsNoNumberAndKeepsTheStepBefore) {
  for (const double bad : {nan_in_memory<double>, infinity_in_memory<double>}) {
    SmallRun run;
    ParameterStore<double> saved;
    TrainingHooks hooks = SmallRun::hooks();
    hooks.save = [&](Index) { saved = run.store; };
    hooks.report = [&](const StepReport& report) {
      if (report.step == 3) run.store.values(run.store.find("head.b"))(0, 0) = bad;
    };
    TrainingOptions options = SmallRun::options(12);
    options.save_every = 2;
    const std::string message =
        heed_test::error_of<TrainingError>([&] { train(run.model, run.store, hooks, options); });
    EXPECT_NE(message.find("the loss of step 4 is "), std::string::npos) << message;
    run.store.values(run.store.find("head.b"))(0, 0) = 0;
    EXPECT_TRUE(std::isfinite(run.store.all_values().back()));
    EXPECT_GT(saved.size(), 0);
    const auto again = train(run.model, saved, SmallRun::hooks(), SmallRun::options(12), 2);
    EXPECT_EQ(again.steps_done, 12);
  }
  SmallRun run;  // a gradient that is no number
  run.store.all_gradients()[0] = infinity_in_memory<double>;
  const auto before = run.store;
  EXPECT_THROW(adamw_step(run.store, 1, 0.1), TrainingError);
  EXPECT_TRUE(same_bits_of_stores(run.store, before));
}

TEST(TrainingRun, StopsWhenAskedAndGoesOn) {
  SmallRun whole, run;
  train(whole.model, whole.store, SmallRun::hooks(), SmallRun::options(12));
  std::atomic<bool> stop = false;
  TrainingHooks hooks = SmallRun::hooks();
  std::vector<Index> saved;
  hooks.stop = &stop;
  hooks.save = [&](Index step) { saved.push_back(step); };
  hooks.report = [&](const StepReport& report) { stop = report.step == 7; };
  TrainingOptions options = SmallRun::options(12);
  options.save_every = 5;
  const auto result = train(run.model, run.store, hooks, options, 0, {.threads = 1});
  EXPECT_TRUE(result.stopped);
  EXPECT_EQ(result.steps_done, 7);
  EXPECT_EQ(train(run.model, run.store, hooks, options, 7).steps_done, 12);
  EXPECT_EQ(saved, (std::vector<Index>{5, 7, 10, 12}));
  EXPECT_TRUE(same_bits_of_stores(run.store, whole.store));
  EXPECT_EQ(train(run.model, run.store, hooks, options, 12).steps_done, 12);  // nothing left to do
}

TEST(TrainingRun, AskedToStopInItsLastStepItHasComeToItsEnd) {
  SmallRun run;
  const std::atomic<bool> stop = true;
  TrainingHooks hooks = SmallRun::hooks();
  hooks.stop = &stop;
  Index saved = 0;
  hooks.save = [&](Index step) { saved = step; };
  const auto result = train(run.model, run.store, hooks, SmallRun::options(1));
  EXPECT_FALSE(result.stopped);
  EXPECT_EQ(result.steps_done, 1);
  EXPECT_EQ(saved, 1);
}

TEST(TrainingRun, MomentsOfAPhaseBeforeAreAsOldAsItWasLong) {
  SmallRun whole, phases;
  TrainingOptions options = SmallRun::options(6);
  options.schedule = {.rate = 1e-2, .warm_up = 0, .decay = Decay::none};
  train(whole.model, whole.store, SmallRun::hooks(), options);
  options.n_steps = 4;
  train(phases.model, phases.store, SmallRun::hooks(), options);
  options.n_steps = 2;  // counted anew, with the moments of four steps
  options.earlier_steps = 4;
  TrainingHooks hooks;
  hooks.make_batch = [](Batch& batch, std::uint64_t seed, Index number) {
    SmallRun::make_batch(batch, seed, number + 4);
  };
  train(phases.model, phases.store, hooks, options);
  EXPECT_TRUE(same_bits_of_stores(phases.store, whole.store));
}

/// Allocations of the third step and those behind it; the second may come to the shapes of the first in another order.
std::uint64_t allocations_of_later_steps(const AttentionChoice& choice, const TrainingOptions& options) {
  SmallRun run(choice);
  TrainingHooks hooks = SmallRun::hooks();
  std::uint64_t before = 0, sum = 0;
  hooks.report = [&](const StepReport& report) {
    if (report.step > 2) sum += allocations() - before;
    before = allocations();
  };
  train(run.model, run.store, hooks, options, 0, {.threads = 1});
  return sum;
}

TEST(TrainingRun, AllocatesNothingAfterItsFirstStepsWhateverTheMethod) {
  if (!counts_allocations()) GTEST_SKIP() << "allocations are not counted here";
  const auto name = [](const AttentionChoice& choice) {
    return "kind " + std::to_string(static_cast<int>(choice.kind)) + ", trees " + std::to_string(choice.n_trees) +
           ", routing " + std::to_string(static_cast<int>(choice.routing)) + ", biases " +
           std::to_string(static_cast<int>(choice.biases)) + ", by query " + std::to_string(choice.by_query) +
           ", window " + std::to_string(choice.tree_window.value_or(-1));
  };
  std::vector<AttentionChoice> choices;
  for (const AttentionKind kind : {AttentionKind::exact, AttentionKind::window, AttentionKind::bigbird,
                                   AttentionKind::linformer, AttentionKind::performer, AttentionKind::linear}) {
    choices.push_back({.kind = kind, .window = 3, .rank = 5});
    choices.back().bigbird.block = 2;
    choices.back().performer.n_features = 9;
  }
  for (const RoutingGradient routing : {RoutingGradient::flip, RoutingGradient::all_leaves, RoutingGradient::none}) {
    for (const TreeBiases biases : {TreeBiases::stored, TreeBiases::key_medians}) {
      for (const Index n_trees : {1, 2})
        choices.push_back(
            {.kind = AttentionKind::tf, .height = 2, .n_trees = n_trees, .biases = biases, .routing = routing});
      choices.push_back(
          {.kind = AttentionKind::tf, .height = 2, .biases = biases, .routing = routing, .tree_window = 2});
      for (const bool by_query : {false, true})
        choices.push_back(
            {.kind = AttentionKind::tc, .height = 2, .biases = biases, .routing = routing, .by_query = by_query});
    }
  }
  for (const AttentionChoice& choice : choices) {
    for (const Index parts : {1, 2}) {
      TrainingOptions options = SmallRun::options(8);
      options.micro_batches = parts;
      options.balance = 0.1;
      options.distillation = 0.1;
      EXPECT_EQ(allocations_of_later_steps(choice, options), 0U) << name(choice) << ", batches a step " << parts;
    }
  }
}

TEST(TrainingRun, RefusesOptionsOutOfRange) {
  SmallRun run;
  const auto refused = [&](const auto& change) {
    TrainingOptions options = SmallRun::options(1);
    change(options);
    EXPECT_THROW(train(run.model, run.store, SmallRun::hooks(), options), OptionError);
  };
  refused([](auto& options) { options.micro_batches = 0; });
  refused([](auto& options) { options.save_every = -1; });
  refused([](auto& options) { options.n_steps = -1; });
  refused([](auto& options) { options.median_share = 1.5; });
  refused([](auto& options) { options.adamw.beta_2 = 1; });
  constexpr Index most = std::numeric_limits<Index>::max();
  refused([](auto& options) { options.earlier_steps = most; });
  EXPECT_THROW(train(run.model, run.store, SmallRun::hooks(), SmallRun::options(1), most), OptionError);
  EXPECT_THROW(train(run.model, run.store, {}), OptionError);
  const auto refused_ranks = [&](const TrainingRanks& ranks) {
    TrainingHooks over = SmallRun::hooks();
    over.ranks = ranks;
    EXPECT_THROW(train(run.model, run.store, over, SmallRun::options(1)), OptionError);
  };
  refused_ranks({.n_ranks = 0});
  refused_ranks({.rank = 1});
  refused_ranks({.n_ranks = 2});  // one batch
  TrainingHooks hooks{.make_batch = [](Batch&, std::uint64_t, Index) {}};
  EXPECT_THROW(train(run.model, run.store, hooks), ShapeError);
}

TEST(TrainingRun, RefusesNumbersOutOfRangeByNameBeforeAnythingIsDone) {
  const auto refused = [](const std::string& part, const std::function<void(TrainingOptions&)>& change) {
    SmallRun run;
    run.store.all_gradients()[2] = 7;
    const ParameterStore<double> before = run.store;
    TrainingHooks hooks;
    hooks.make_batch = [](Batch&, std::uint64_t, Index) { FAIL() << "a batch was asked for"; };
    TrainingOptions options = SmallRun::options(1);
    change(options);
    const std::string said = heed_test::error_of<OptionError>([&] { train(run.model, run.store, hooks, options); });
    EXPECT_NE(said.find(part), std::string::npos) << "'" << said << "' must say " << part;
    EXPECT_TRUE(same_bits_of_stores(run.store, before));
    EXPECT_EQ(run.store.all_gradients()[2], 7);
  };
  constexpr double nan = nan_in_memory<double>, infinity = infinity_in_memory<double>;
  for (const double bad : {-1.0, nan, infinity}) {
    refused("AdamWOptions::decay = ", [&](auto& options) { options.adamw.decay = bad; });
    refused("AdamWOptions::clip = ", [&](auto& options) { options.adamw.clip = bad; });
    refused("AdamWOptions::beta_1 = ", [&](auto& options) { options.adamw.beta_1 = bad; });
    refused("AdamWOptions::eps = ", [&](auto& options) { options.adamw.eps = bad; });
    refused("Schedule::rate = ", [&](auto& options) { options.schedule.rate = bad; });
    refused("Schedule::last_share = ", [&](auto& options) { options.schedule.last_share = bad; });
    refused("TrainingOptions::median_share = ", [&](auto& options) { options.median_share = bad; });
    refused("TrainingOptions::balance = ", [&](auto& options) { options.balance = bad; });
    refused("TrainingOptions::distillation = ", [&](auto& options) { options.distillation = bad; });
  }
  refused("Schedule::last_share = 1.5", [](auto& options) { options.schedule.last_share = 1.5; });
  refused("AdamWOptions::beta_2 = 1 must be at least 0 and below 1", [](auto& options) { options.adamw.beta_2 = 1; });
  refused("Schedule::warm_up = -1", [](auto& options) { options.schedule.warm_up = -1; });
  refused("Schedule::n_steps = -1", [](auto& options) { options.schedule.n_steps = -1; });
  refused("Schedule::decay = 3", [](auto& options) { options.schedule.decay = static_cast<Decay>(3); });
  refused("rate = 1e+300 is too high", [](auto& options) {
    options.schedule.rate = 1e300;
    options.adamw.decay = 1e300;
  });
}

#ifdef HEED_TEST_FORKS
/// Goes on from the checkpoint at `path`, if there is one, to step `last`; a byte goes to `pulse` at each step.
void go_on(const std::string& path, Index last, int pulse) {
  SmallRun run;
  Index done = 0;
  if (std::filesystem::exists(path))
    done = std::stoll(load_parameters(path, run.store, ParameterParts::training).at("step"));
  TrainingHooks hooks = SmallRun::hooks();
  hooks.report = [&](const StepReport&) {
    if (pulse >= 0 && write(pulse, ".", 1) != 1) _exit(1);
  };
  hooks.save = [&](Index step) {
    save_parameters(path, run.store, {{"step", std::to_string(step)}}, ParameterParts::training);
  };
  TrainingOptions options = SmallRun::options(last);
  options.save_every = 2;
  train(run.model, run.store, hooks, options, done, {.threads = 1});
}

TEST(TrainingRun, KilledAtAnyMomentItEndsWithTheBitsOfAnUndisturbedRun) {
  if (!counts_allocations()) GTEST_SKIP() << "a sanitizer watches this process";
  const heed_test::TemporaryFolder folder;
  const std::string path = folder.path("run.safetensors"), undisturbed = folder.path("undisturbed.safetensors");
  constexpr Index last = 90;
  CounterRng moments(5, 0);
  Index killed = 0;
  for (Index attempt = 0; attempt < 20; ++attempt) {
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      close(ends[0]);
      int status = 0;
      try {
        go_on(path, last, ends[1]);
      } catch (...) {
        status = 1;
      }
      _exit(status);
    }
    close(ends[1]);
    // After 0 .. 7 steps, and then at a random moment of a step or of its checkpoint.
    char beat = 0;
    for (Index steps = moments.below(8); steps > 0 && read(ends[0], &beat, 1) == 1; --steps) continue;
    usleep(static_cast<useconds_t>(moments.below(1500)));
    kill(child, SIGKILL);
    int status = 0;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    close(ends[0]);
    killed += WIFSIGNALED(status) ? 1 : 0;
    ASSERT_TRUE(WIFSIGNALED(status) || WEXITSTATUS(status) == 0) << "a resumed run failed";
  }
  EXPECT_EQ(killed, 20) << "the run ended before it was killed often enough";
  go_on(path, last, -1);
  go_on(undisturbed, last, -1);
  SmallRun a, b;
  EXPECT_EQ(load_parameters(path, a.store, ParameterParts::training).at("step"), std::to_string(last));
  load_parameters(undisturbed, b.store, ParameterParts::training);
  EXPECT_TRUE(same_bits_of_stores(a.store, b.store));
  EXPECT_EQ(heed_test::bytes_of_file(path), heed_test::bytes_of_file(undisturbed));
}
#endif

}  // namespace
}  // namespace heed::test
