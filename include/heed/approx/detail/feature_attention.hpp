#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/approx/detail/feature_panel.hpp"
#include "heed/approx/detail/feature_sequences.hpp"
#include "heed/core/context.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"

namespace heed::detail {

/// Kernel feature attention of the heads of one call, forward. Keys of heads that share them are summed once.
/// Without a causal mask sums are made in slices of features and read in panels of queries, both over threads; under
/// one the sums run along the keys, a panel of keys after the other, and threads share out the key heads.
template <class Map, class Call>
class FeatureAttention {
 public:
  using T = typename Map::Sum;
  using Panel = FeaturePanel<Map>;

  FeatureAttention(const Map& map, std::span<const Call> calls, Index heads_per_kv, const Context& context)
      : map_(map), calls_(calls), heads_per_kv_(heads_per_kv), context_(context), isa_(active_isa()) {
    n_groups_ = static_cast<Index>(calls.size()) / heads_per_kv;
    width_ = Panel::width(isa_);
  }

  void run(const Mask& mask) {
    const Call& one = calls_.front();
    Workspace::Frame frame(*context_.workspace);
    const Index stride = Panel::stride_of_sums(one.v.cols, isa_), size = map_.size();
    rows_ = frame.take<T>(Map::has_rows ? n_groups_ * size * map_.depth() : 0);
    sums_ = frame.take<T>(n_groups_ * size * stride);
    visit_feature_sequences(mask, one.q.rows, one.k.rows, frame, [&](const FeatureSequence& sequence) {
      for (const Call& call : calls_) clear_out(call, sequence.q_first, sequence.first_seeing());
      if (sequence.keys.size == 0) return;
      const double tokens = static_cast<double>(sequence.keys.size + sequence.q_end - sequence.q_first);
      const double work = static_cast<double>(calls_.size()) * tokens * static_cast<double>(size * stride);
      const int threads = threads_for(work, 4e5, thread_count(context_.threads));
      if (sequence.causal) {
        run_causal(sequence, threads);
      } else {
        run_whole(sequence, threads);
      }
    });
  }

  /// The sums of key head `group`, of features [first, first + count).
  FeatureSums<T> sums_of(Index group, Index first, Index count) const {
    const Index at = group * map_.size() + first;
    return {first, count, Map::has_rows ? rows_ + at * map_.depth() : nullptr,
            sums_ + at * Panel::stride_of_sums(calls_.front().v.cols, isa_)};
  }

 private:
  static constexpr Index slice = 64;  // features a task sums up: few enough to be several tasks, a tile's worth of work

  static void clear_out(const Call& call, Index first, Index end) {
    for (Index i = first; i < end; ++i) {
      for (Index c = 0; c < call.out.cols; ++c) call.out(i, c) = static_cast<typename Call::Out>(0.0f);
    }
  }

  Panel make_panel(Scratch& scratch) const {
    return Panel(scratch, map_, calls_.front().k.cols, calls_.front().v.cols, isa_);
  }
  const Call& call_of(Index group, Index h) const {
    return calls_[static_cast<std::size_t>(group * heads_per_kv_ + h)];
  }

  void run_whole(const FeatureSequence& sequence, int threads) {
    const Index n_slices = (map_.size() + slice - 1) / slice;
    {
      Workspace::Frame frame(*context_.workspace);
      for_each_task(
          n_groups_ * n_slices, threads, frame, [&](Scratch& scratch) { return make_panel(scratch); },
          [&](Panel& panel, Index task) {
            const Index first = task % n_slices * slice;
            const Call& call = call_of(task / n_slices, 0);
            const FeatureSums<T> state = sums_of(task / n_slices, first, std::min(slice, map_.size() - first));
            panel.clear(state);
            for (Index t = 0, n = 0; t < sequence.keys.size; t += n) {
              n = panel.keys(state, call.k, sequence.keys.part(t, sequence.keys.size - t), true);
              panel.read_values(call.v, sequence.keys.part(t, n));
              panel.add_keys(state, n);
            }
          });
    }
    Workspace::Frame frame(*context_.workspace);
    const Index n_panels = (sequence.q_end - sequence.q_first + width_ - 1) / width_;
    for_each_task(
        static_cast<Index>(calls_.size()) * n_panels, threads, frame,
        [&](Scratch& scratch) { return make_panel(scratch); },
        [&](Panel& panel, Index task) {
          const Index c = task / n_panels, first = sequence.q_first + task % n_panels * width_;
          read_queries(panel, calls_[static_cast<std::size_t>(c)], sums_of(c / heads_per_kv_, 0, map_.size()), first,
                       std::min(width_, sequence.q_end - first));
        });
  }

  static void read_queries(Panel& panel, const Call& call, const FeatureSums<T>& state, Index first, Index n) {
    panel.queries(state, call.q, first, n);
    panel.read_sums(state, n);
    panel.write(call.out, first, n);
  }

  void run_causal(const FeatureSequence& sequence, int threads) {
    Workspace::Frame frame(*context_.workspace);
    for_each_task(
        n_groups_, threads, frame, [&](Scratch& scratch) { return make_panel(scratch); },
        [&](Panel& panel, Index group) {
          const FeatureSums<T> state = sums_of(group, 0, map_.size());
          const Call& one = call_of(group, 0);
          panel.clear(state);
          const TokenSet& keys = sequence.keys;
          for (Index t = 0, n = 0; t < keys.size; t += n) {
            n = panel.keys(state, one.k, keys.part(t, keys.size - t), true);
            panel.read_values(one.v, keys.part(t, n));
            for (Index h = 0; h < heads_per_kv_; ++h) add_block(panel, call_of(group, h), state, sequence, t, n);
            panel.add_keys(state, n);
          }
          for (Index h = 0; h < heads_per_kv_; ++h) {
            for (Index i = std::max(sequence.q_first, sequence.query_of(keys.size)); i < sequence.q_end; i += width_)
              read_queries(panel, call_of(group, h), state, i, std::min(width_, sequence.q_end - i));
          }
        });
  }

  // Queries whose last key is one of the n_keys from number t on: sums over the keys before, and these one by one.
  static void add_block(Panel& panel, const Call& call, const FeatureSums<T>& state, const FeatureSequence& sequence,
                        Index t, Index n_keys) {
    panel.visit_last_seeing(sequence, t, n_keys, [&](Index i, Index n) {
      panel.queries(state, call.q, i, n);
      panel.read_sums(state, n);
      panel.multiply_pairs(state, n_keys, n);
      panel.add_pairs(n_keys, n);
      panel.write(call.out, i, n);
    });
  }

  const Map& map_;
  std::span<const Call> calls_;
  Index heads_per_kv_;
  const Context& context_;
  Isa isa_;
  Index n_groups_ = 0, width_ = 0;
  T *rows_ = nullptr, *sums_ = nullptr;
};

/// Counts the work of running sums: for each key that some query sees and each query that sees a key `size` products
/// with rows of d_v values (Phase::values) and one for the denominator (Phase::scores), and what its features take.
/// Products of pairs within a panel are not counted: they stand for such sums.
template <class Call>
void count_features(std::span<const Call> calls, Index heads_per_kv, const Mask& mask, double size,
                    double products_a_token, const Context& context) {
  const Call& one = calls.front();
  const FeatureTokens tokens = count_feature_tokens(mask, one.q.rows, one.k.rows, *context.workspace);
  const double n_heads = static_cast<double>(calls.size()), n_kv_heads = n_heads / static_cast<double>(heads_per_kv);
  FlopCounter& flops = *context.flops;
  const double all = n_heads * tokens.queries + n_kv_heads * tokens.keys;
  flops.add_products(Phase::values, 2 * all * size * static_cast<double>(one.v.cols));
  flops.add_products(Phase::scores, 2 * all * size + all * products_a_token);
  flops.add_exponentials(all * size);
  count_tokens(flops, mask, one.k.rows, static_cast<Index>(calls.size()));
}

/// Runs checked calls, and counts them. `products_a_token`: of the features of one token.
template <class Map, class Call>
void attend_features(const Map& map, std::span<const Call> calls, Index heads_per_kv, const Mask& mask,
                     double products_a_token, const Context& context) {
  FeatureAttention<Map, Call>(map, calls, heads_per_kv, context).run(mask);
  if (context.flops != nullptr)
    count_features(calls, heads_per_kv, mask, static_cast<double>(map.size()), products_a_token, context);
}

}  // namespace heed::detail
