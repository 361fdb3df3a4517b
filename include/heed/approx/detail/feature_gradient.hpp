#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/approx/detail/feature_gradient_panel.hpp"
#include "heed/approx/detail/feature_panel.hpp"
#include "heed/approx/detail/feature_sequences.hpp"
#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"

namespace heed::detail {

/// Kernel feature attention of the heads of one call, backward. A task is a key head: it goes along the keys once with
/// sums over keys, for d_q, and back once with sums over queries, for d_k and d_v. References of features are those of
/// the way there: each panel of keys starts from those that were saved.
template <class Map, class Call>
class FeatureGradient {
 public:
  using T = typename Map::Sum;

  FeatureGradient(const Map& map, std::span<const Call> calls, Index heads_per_kv, const Context& context)
      : map_(map), calls_(calls), heads_per_kv_(heads_per_kv), context_(context), isa_(active_isa()) {
    width_ = Panel::width(isa_);
  }

  void run(const Mask& mask) {
    const Call& one = calls_.front();
    if (map_.size() == 0) return;  // no feature: out is 0
    Workspace::Frame frame(*context_.workspace);
    const Index n_groups = static_cast<Index>(calls_.size()) / heads_per_kv_, n_q = one.q.rows;
    const Index n_panels = (one.k.rows + width_ - 1) / width_;
    denominators_ = frame.take<T>(static_cast<Index>(calls_.size()) * n_q);
    visit_feature_sequences(mask, n_q, one.k.rows, [&](const FeatureSequence& sequence) {
      if (sequence.k_end == sequence.k_first) return;
      const double tokens = static_cast<double>(sequence.k_end - sequence.k_first + sequence.q_end - sequence.q_first);
      const double work = static_cast<double>(calls_.size()) * tokens * static_cast<double>(map_.size() * one.v.cols);
      Workspace::Frame inside(*context_.workspace);
      for_each_task(
          n_groups, threads_for(4 * work, 4e5, thread_count(context_.threads)), inside,
          [&](Scratch& scratch) { return Worker(scratch, map_, one, n_panels, isa_); },
          [&](Worker& worker, Index group) { run_group(worker, group, sequence); });
    });
  }

 private:
  using Panel = FeatureGradientPanel<Map>;

  struct Worker {
    Worker(Scratch& scratch, const Map& map, const Call& one, Index n_panels, Isa isa)
        : panel(scratch, map, one.k.cols, one.v.cols, isa) {
      state = {0, map.size(), scratch.take<T>(Map::has_rows ? map.size() * map.depth() : 0),
               scratch.take<T>(map.size() * panel.stride())};
      references = scratch.take<T>(Map::has_rows ? map.size() * n_panels : 0);
    }
    Panel panel;
    FeatureSums<T> state;
    T* references;  // of every panel of keys as it begins
  };

  const Call& call_of(Index group, Index h) const {
    return calls_[static_cast<std::size_t>(group * heads_per_kv_ + h)];
  }
  T* denominators_of(const Call& call) const { return denominators_ + (&call - calls_.data()) * call.q.rows; }

  // Queries whose last key is one of [first, end).
  struct Block {
    Index i, n, last;  // last: keys of the panel that query i sees
  };
  static Block block_of(const FeatureSequence& sequence, Index first, Index end) {
    if (!sequence.causal) return {0, 0, 0};
    const Index i = std::max(sequence.q_first, first - sequence.shift);
    return {i, std::min(sequence.q_end, end - sequence.shift) - i, i + sequence.shift + 1 - first};
  }

  void run_group(Worker& worker, Index group, const FeatureSequence& sequence) const {
    Panel& panel = worker.panel;
    const FeatureSums<T>& state = worker.state;
    const ConstView<typename Call::Key>& k = call_of(group, 0).k;
    panel.clear(state);
    Index at = 0;
    for (Index start = sequence.k_first; start < sequence.k_end; start += width_, ++at) {
      const Index stop = std::min(start + width_, sequence.k_end);
      if constexpr (Map::has_rows) panel.save_references(state, worker.references + at * map_.size());
      for (Index j = start, end = 0; j < stop; j = end) {
        end = panel.keys(state, k, j, stop, true);
        panel.read_values(call_of(group, 0).v, j, end - j);
        const Block block = block_of(sequence, j, end);
        for (Index h = 0; h < heads_per_kv_ && block.n > 0; ++h) {
          const Call& call = call_of(group, h);
          panel.go_through_queries(state, call, block.i, block.n, end - j, block.last, denominators_of(call));
        }
        panel.add_keys(state, end - j);
      }
    }
    panel.clear_query_sums(state);
    for (Index h = 0; h < heads_per_kv_; ++h) {
      const Call& call = call_of(group, h);
      const Index first =
          sequence.causal ? std::max(sequence.q_first, sequence.k_end - sequence.shift) : sequence.q_first;
      for (Index i = first; i < sequence.q_end; i += width_) {
        const Index n = std::min(width_, sequence.q_end - i);
        panel.go_through_queries(state, call, i, n, 0, 0, denominators_of(call));
        panel.add_queries(state, n);
      }
    }
    while (at-- > 0) go_back(worker, group, sequence, at);
  }

  // The panel of keys number `at`, or the parts into which moves of references cut it, last one first.
  void go_back(Worker& worker, Index group, const FeatureSequence& sequence, Index at) const {
    const Index start = sequence.k_first + at * width_, stop = std::min(start + width_, sequence.k_end);
    Index j = start, end = 0, n_parts = 0;
    make_keys(worker, group, at, start, stop, Mask::unlimited, j, end, n_parts);
    add_part(worker, group, sequence, j, end);
    for (Index part = n_parts - 1; part-- > 0;) {
      Index made = 0;
      make_keys(worker, group, at, start, stop, part + 1, j, end, made);
      add_part(worker, group, sequence, j, end);
    }
  }

  // Makes features of the keys of a panel part by part, as on the way there, at most `most` parts: [j, end) is the
  // last.
  void make_keys(Worker& worker, Index group, Index at, Index start, Index stop, Index most, Index& j, Index& end,
                 Index& made) const {
    if constexpr (Map::has_rows) worker.panel.restore_references(worker.state, worker.references + at * map_.size());
    worker.panel.set_fresh(at == 0);
    for (end = start; end < stop && made < most; ++made) {
      j = end;
      end = worker.panel.keys(worker.state, call_of(group, 0).k, j, stop, false);
    }
  }

  void add_part(Worker& worker, Index group, const FeatureSequence& sequence, Index first, Index end) const {
    Panel& panel = worker.panel;
    const Block block = block_of(sequence, first, end);
    panel.begin_keys(worker.state, call_of(group, 0), first, end - first);
    for (Index h = 0; h < heads_per_kv_ && block.n > 0; ++h) {
      const Call& call = call_of(group, h);
      panel.add_block(worker.state, call, first, end - first, block.i, block.n, block.last, denominators_of(call));
    }
    panel.end_keys(worker.state, call_of(group, 0), first, end - first);
  }

  const Map& map_;
  std::span<const Call> calls_;
  Index heads_per_kv_;
  const Context& context_;
  Isa isa_;
  Index width_ = 0;
  T* denominators_ = nullptr;  // of each call, n_q
};

/// Adds to the gradients of checked calls, and counts. Scores: features and sums again, denominators, and the way back
/// from features to tokens; values: d_phi of queries and keys, sums over queries, and d_v. Products of pairs within a
/// panel are not counted: they stand for such sums.
template <class Map, class Call>
void attend_features_backward(const Map& map, std::span<const Call> calls, Index heads_per_kv, const Mask& mask,
                              double products_a_token, const Context& context) {
  const WithWorkspace own(context);
  FeatureGradient<Map, Call>(map, calls, heads_per_kv, own.context()).run(mask);
  if (context.flops == nullptr) return;
  const Call& one = calls.front();
  const FeatureTokens tokens = count_feature_tokens(mask, one.q.rows, one.k.rows);
  const double n_heads = static_cast<double>(calls.size()), size = static_cast<double>(map.size()),
               keys = tokens.keys * n_heads / static_cast<double>(heads_per_kv), queries = tokens.queries * n_heads,
               row = 2 * size * static_cast<double>(one.v.cols + 1);
  context.flops->add_products(Phase::backward_scores,
                              2 * products_a_token * (keys + queries) + row * keys + 2 * size * queries);
  context.flops->add_products(Phase::backward_values, 2 * row * (keys + queries));
  context.flops->add_exponentials(size * (keys + queries));
  count_tokens(*context.flops, mask, one.k.rows, static_cast<Index>(calls.size()));
}

}  // namespace heed::detail
