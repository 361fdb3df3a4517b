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
    visit_feature_sequences(mask, n_q, one.k.rows, frame, [&](const FeatureSequence& sequence) {
      if (sequence.keys.size == 0) return;
      const double tokens = static_cast<double>(sequence.keys.size + sequence.q_end - sequence.q_first);
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

  void run_group(Worker& worker, Index group, const FeatureSequence& sequence) const {
    Panel& panel = worker.panel;
    const FeatureSums<T>& state = worker.state;
    const ConstView<typename Call::Key>& k = call_of(group, 0).k;
    panel.clear(state);
    const TokenSet& keys = sequence.keys;
    Index at = 0;
    for (Index start = 0; start < keys.size; start += width_, ++at) {
      const Index stop = std::min(start + width_, keys.size);
      if constexpr (Map::has_rows) panel.save_references(state, worker.references + at * map_.size());
      for (Index t = start, n_keys = 0; t < stop; t += n_keys) {
        n_keys = panel.keys(state, k, keys.part(t, stop - t), true);
        panel.read_values(call_of(group, 0).v, keys.part(t, n_keys));
        for (Index h = 0; h < heads_per_kv_ && sequence.causal; ++h) {
          const Call& call = call_of(group, h);
          panel.visit_last_seeing(sequence, t, n_keys, [&](Index i, Index n) {
            panel.go_through_queries(state, call, i, n, n_keys, denominators_of(call));
          });
        }
        panel.add_keys(state, n_keys);
      }
    }
    panel.clear_query_sums(state);
    for (Index h = 0; h < heads_per_kv_; ++h) {
      const Call& call = call_of(group, h);
      const Index first = sequence.causal ? std::max(sequence.q_first, sequence.query_of(keys.size)) : sequence.q_first;
      for (Index i = first; i < sequence.q_end; i += width_) {
        const Index n = std::min(width_, sequence.q_end - i);
        panel.go_through_queries(state, call, i, n, 0, denominators_of(call));
        panel.add_queries(state, n);
      }
    }
    while (at-- > 0) go_back(worker, group, sequence, at);
  }

  // The panel of keys number `at`, or the parts into which moves of references cut it, last one first.
  void go_back(Worker& worker, Index group, const FeatureSequence& sequence, Index at) const {
    const Index start = at * width_, n = std::min(width_, sequence.keys.size - start);
    const TokenSet some = sequence.keys.part(start, n);
    Part part = make_keys(worker, group, at, some, Mask::unlimited);
    for (;;) {
      add_part(worker, group, sequence, start + part.first, part.n);
      if (part.number == 0) return;
      part = make_keys(worker, group, at, some, part.number);
    }
  }

  // Keys [first, first + n) of a panel, in the part `number`.
  struct Part {
    Index number = 0, first = 0, n = 0;
  };

  // Makes features of the keys of a panel part by part, as on the way there, at most `most` parts; returns the last.
  Part make_keys(Worker& worker, Index group, Index at, const TokenSet& some, Index most) const {
    if constexpr (Map::has_rows) worker.panel.restore_references(worker.state, worker.references + at * map_.size());
    worker.panel.set_fresh(at == 0);
    Part part{-1};
    for (Index next = 0; next < some.size && part.number + 1 < most; next += part.n) {
      const TokenSet rest = some.part(next, some.size - next);
      part = {part.number + 1, next, worker.panel.keys(worker.state, call_of(group, 0).k, rest, false)};
    }
    return part;
  }

  // The n_keys keys from number t on.
  void add_part(Worker& worker, Index group, const FeatureSequence& sequence, Index t, Index n_keys) const {
    Panel& panel = worker.panel;
    const TokenSet some = sequence.keys.part(t, n_keys);
    panel.begin_keys(worker.state, call_of(group, 0), some);
    for (Index h = 0; h < heads_per_kv_ && sequence.causal; ++h) {
      const Call& call = call_of(group, h);
      panel.visit_last_seeing(sequence, t, n_keys, [&](Index i, Index n) {
        panel.add_block(worker.state, call, some, i, n, denominators_of(call));
      });
    }
    panel.end_keys(worker.state, call_of(group, 0), some);
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
  const FeatureTokens tokens = count_feature_tokens(mask, one.q.rows, one.k.rows, *own.context().workspace);
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
