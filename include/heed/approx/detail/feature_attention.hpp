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
    visit_feature_sequences(mask, one.q.rows, one.k.rows, [&](const FeatureSequence& sequence) {
      for (const Call& call : calls_) clear_out(call, sequence.q_first, sequence.first_seeing());
      if (sequence.k_end == sequence.k_first) return;
      const double tokens = static_cast<double>(sequence.k_end - sequence.k_first + sequence.q_end - sequence.q_first);
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
            for (Index j = sequence.k_first, end = 0; j < sequence.k_end; j = end) {
              end = panel.keys(state, call.k, j, sequence.k_end, true);
              panel.read_values(call.v, j, end - j);
              panel.add_keys(state, end - j);
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
          for (Index j = sequence.k_first, end = 0; j < sequence.k_end; j = end) {
            end = panel.keys(state, one.k, j, sequence.k_end, true);
            panel.read_values(one.v, j, end - j);
            for (Index h = 0; h < heads_per_kv_; ++h) add_block(panel, call_of(group, h), state, sequence, j, end);
            panel.add_keys(state, end - j);
          }
          for (Index h = 0; h < heads_per_kv_; ++h) {
            for (Index i = std::max(sequence.q_first, sequence.k_end - sequence.shift); i < sequence.q_end; i += width_)
              read_queries(panel, call_of(group, h), state, i, std::min(width_, sequence.q_end - i));
          }
        });
  }

  // Queries whose last key is one of [first, end): sums over the keys before, and the keys of the panel one by one.
  static void add_block(Panel& panel, const Call& call, const FeatureSums<T>& state, const FeatureSequence& sequence,
                        Index first, Index end) {
    const Index i = std::max(sequence.q_first, first - sequence.shift),
                n = std::min(sequence.q_end, end - sequence.shift) - i;
    if (n <= 0) return;
    const Index last = i + sequence.shift + 1 - first;  // keys of the panel that query i sees
    panel.queries(state, call.q, i, n);
    panel.read_sums(state, n);
    panel.multiply_pairs(state, end - first, n, last);
    panel.add_pairs(end - first, n, last);
    panel.write(call.out, i, n);
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
inline void count_features(FlopCounter& flops, const Mask& mask, Index n_q, Index n_k, Index d_v, double n_heads,
                           double n_kv_heads, double size, double products_a_token) {
  const FeatureTokens tokens = count_feature_tokens(mask, n_q, n_k);
  const double all = n_heads * tokens.queries + n_kv_heads * tokens.keys;
  flops.add_products(Phase::values, 2 * all * size * static_cast<double>(d_v));
  flops.add_products(Phase::scores, 2 * all * size + all * products_a_token);
  flops.add_exponentials(all * size);
  count_tokens(flops, mask, n_k, static_cast<Index>(n_heads));
}

/// Runs checked calls, and counts them. `products_a_token`: of the features of one token.
template <class Map, class Call>
void attend_features(const Map& map, std::span<const Call> calls, Index heads_per_kv, const Mask& mask,
                     double products_a_token, const Context& context) {
  const Call& one = calls.front();
  FeatureAttention<Map, Call>(map, calls, heads_per_kv, context).run(mask);
  if (context.flops == nullptr) return;
  const double n_heads = static_cast<double>(calls.size());
  count_features(*context.flops, mask, one.q.rows, one.k.rows, one.v.cols, n_heads,
                 n_heads / static_cast<double>(heads_per_kv), static_cast<double>(map.size()), products_a_token);
}

}  // namespace heed::detail
