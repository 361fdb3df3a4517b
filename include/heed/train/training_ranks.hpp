#pragma once
#include "heed/core/macros_away.inl"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <type_traits>
#include <vector>

#include "heed/core/errors.hpp"
#include "heed/core/types.hpp"
#include "heed/layers/parameter_store.hpp"

namespace heed {

/// Ranks that train one model together: each has some of a step's batches, rank 0 the last of them. Their gradients are
/// added in the order of batches on the way from the last rank to rank 0, which makes the step and gives its parameters
/// to all: the bits are those of one rank with all batches. How numbers travel is the caller's: RankChain of
/// heed/distributed/rank_chain.hpp does it by MPI. Moments of the optimiser are rank 0's alone, which saves.
struct TrainingRanks {
  Index rank = 0;                                                   ///< of this process; 0 .. n_ranks - 1
  Index n_ranks = 1;                                                ///< must divide TrainingOptions::micro_batches
  std::function<void(void* data, std::size_t bytes)> receive{};     ///< what rank + 1 sends
  std::function<void(const void* data, std::size_t bytes)> send{};  ///< to rank - 1
  std::function<void(void* data, std::size_t bytes)> share{};       ///< gives what rank 0 has to all
};

namespace detail {

/// The largest `value` of all ranks, on every rank: it goes from the last to rank 0, and from there to all.
inline std::int64_t largest_of(const TrainingRanks& ranks, std::int64_t value) {
  if (ranks.n_ranks == 1) return value;
  if (ranks.rank + 1 < ranks.n_ranks) {
    std::int64_t behind = 0;
    ranks.receive(&behind, sizeof behind);
    value = std::max(value, behind);
  }
  if (ranks.rank > 0) ranks.send(&value, sizeof value);
  ranks.share(&value, sizeof value);
  return value;
}

/// Keeps ranks together where one of them throws: nobody waits for what it would have sent. Work that all ranks do, in
/// which each comes to as many meetings in one order; a rank that throws comes to the next one to say so, and then all
/// throw.
class RankMeetings {
 public:
  explicit RankMeetings(const TrainingRanks& ranks) : ranks_(ranks) {}

  /// Errors  TrainingError where another rank has thrown.
  void meet() {
    told_ = largest_of(ranks_, 0) > 0;
    if (told_) throw TrainingError("heed: another rank could not go on: its error says why");
  }
  /// Runs work(), and meets behind it.
  template <class Work>
  void run(const Work& work) {
    told_ = false;
    try {
      work();
    } catch (...) {
      if (!told_) largest_of(ranks_, 1);
      throw;
    }
    meet();
  }

 private:
  const TrainingRanks& ranks_;
  bool told_ = false;  // all ranks know
};

/// What batches of a step came to, in sum.
struct BatchSums {
  double loss = 0;  // over answers
  double distillation = 0;
  double flops = 0;
  std::int64_t n_answers = 0, n_right = 0, n_tokens = 0;

  BatchSums& operator+=(const BatchSums& other) {
    loss += other.loss;
    distillation += other.distillation;
    flops += other.flops;
    n_answers += other.n_answers;
    n_right += other.n_right;
    n_tokens += other.n_tokens;
    return *this;
  }
};
static_assert(std::is_trivially_copyable_v<BatchSums>);

/// Adds the gradients of a step's batches one after the other, each made apart from the others: the sum is then the
/// same wherever a batch was computed. One batch alone stays where it is.
template <class T>
class StepSums {
 public:
  /// The store's gradients are those of the next batch of this rank; they are taken, and cleared.
  void add(ParameterStore<T>& store, const BatchSums& sums, const TrainingRanks& ranks) {
    const std::span<T> own = store.all_gradients();
    if (ranks.n_ranks == 1) {  // nobody's come before
      if (n_ == 0) total_.assign(own.size(), T(0));
      add_to(total_, own);
      all_ += sums;
    } else {
      if (n_ == 0) total_.resize(own.size());  // here, and not where others wait
      if (n_ == kept_.size()) kept_.emplace_back();
      kept_[n_].gradient.assign(own.begin(), own.end());
      kept_[n_].sums = sums;
    }
    ++n_;
    store.clear_gradients();
  }
  /// True on rank 0, whose store then has the gradients of all ranks; others have handed on theirs.
  bool finish(ParameterStore<T>& store, const TrainingRanks& ranks) {
    if (ranks.n_ranks > 1) {
      std::fill(total_.begin(), total_.end(), T(0));
      if (ranks.rank + 1 < ranks.n_ranks) {
        ranks.receive(total_.data(), total_.size() * sizeof(T));
        ranks.receive(&all_, sizeof all_);
      }
      for (std::size_t part = 0; part < n_; ++part) {
        add_to(total_, kept_[part].gradient);
        all_ += kept_[part].sums;
      }
      if (ranks.rank > 0) {
        ranks.send(total_.data(), total_.size() * sizeof(T));
        ranks.send(&all_, sizeof all_);
        return false;
      }
    }
    std::copy(total_.begin(), total_.end(), store.all_gradients().begin());
    return true;
  }
  /// What the batches of all ranks came to: on rank 0, after finish().
  BatchSums& all() { return all_; }
  void clear() {
    n_ = 0;
    all_ = {};
  }

 private:
  struct Part {
    std::vector<T> gradient;
    BatchSums sums;
  };
  static void add_to(std::vector<T>& sum, std::span<const T> more) {
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += more[i];
  }

  std::size_t n_ = 0;
  std::vector<T> total_;
  std::vector<Part> kept_;
  BatchSums all_;
};

}  // namespace detail
}  // namespace heed

#include "heed/core/macros_back.inl"
