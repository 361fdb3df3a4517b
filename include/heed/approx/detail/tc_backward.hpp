#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "heed/approx/detail/query_blocks.hpp"
#include "heed/approx/detail/tc_head.hpp"
#include "heed/approx/detail/tc_shares.hpp"
#include "heed/approx/detail/tc_signals.hpp"
#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/trees/path_gradients.hpp"
#include "heed/trees/path_sums.hpp"

namespace heed::detail {

/// The backward pass of one head of TC-attention; TcAttention documents what it computes. Sequence by sequence it sums
/// keys as the forward pass does, finds what each level gives the sums of its nodes, and reads that back along the
/// paths of the keys.
template <class Call>
class TcBackward {
 public:
  using T = typename Call::Sum;

  /// d_logits: sums, one a level. routing: null where its gradient is not wanted.
  TcBackward(const TcHead<Call>& head, double* d_logits, const TcRouting<T>* routing, const Context& context)
      : head_(head), d_logits_(d_logits), routing_(routing), context_(context), isa_(active_isa()) {}

  void run() {
    const Call& call = head_.call;
    Workspace::Frame frame(head_.workspace);
    sums_ = PathSums<T>::take(frame, head_.height, call.v.cols, head_.key_width());
    to_ = PathGradients<T>::take(frame, head_.height, call.v.cols, head_.key_width());
    const OwnKeys own(head_.mask, call.q.rows, call.k.rows);
    if (by_leaf()) {
      queries_ = LeafLists(head_.query_leaf, call.q.rows, head_.n_leaves(), frame);
      leaves_ = TcLeaves<T>::take(frame, head_.height, call.v.cols);
    } else {
      shares_ = PathShares<T>::take(frame, head_.n_levels(), call.q.rows);
    }
    for (Index first = 0, end = 0; first < call.q.rows; first = end) {
      end = end_of_sequence(head_.mask, first, call.q.rows);
      const KeyRange last = own.of(end - 1);
      const TcSequence sequence{first, end, last.low, last.high, head_.keys.count_between(last.low, last.high), &own};
      if (sequence.n_keys > 0) run(sequence);
    }
    if (context_.flops != nullptr) count(*context_.flops);
  }

 private:
  // Queries of a leaf see the same: one row a leaf stands for all of them.
  bool by_leaf() const { return !head_.causal() && !head_.levels.by_query; }

  void run(const TcSequence& sequence) {
    const Call& call = head_.call;
    const double additions =
        static_cast<double>(sequence.n_keys) * static_cast<double>(call.v.cols + head_.key_width());
    to_.clear();
    if (head_.causal()) {
      TcShares<Call> shares(head_, shares_, sums_, isa_);
      sums_.clear();
      levels_read_ += shares.find(sequence, d_logits_);
      shares.add_to_queries(sequence);
      shares.sweep(sequence, to_);
      rows_added_ += 2 * head_.n_levels() * sequence.n_keys;
      key_rows_added_ += (head_.levels.by_query ? 3 : 2) * head_.n_levels() * sequence.n_keys;
    } else {
      sum_keys(sums_, call.k, call.v, head_.keys, sequence.low, sequence.high, head_.addition_threads(additions));
      if (by_leaf()) {
        run_leaves(sequence);
      } else {
        TcShares<Call> shares(head_, shares_, sums_, isa_);
        levels_read_ += shares.find(sequence, d_logits_);
        shares.add_to_queries(sequence);
        shares.sweep(sequence, to_);
      }
      to_.sum_down();
      give_keys(sequence, head_.addition_threads(additions));
      // Keys to leaves and back, nodes upwards and downwards.
      const Index rows = 2 * sequence.n_keys + 3 * (head_.n_leaves() - 1);
      rows_added_ += rows;
      key_rows_added_ += rows;
    }
    if (routing_ != nullptr && head_.height > 0) add_routing(sequence);
  }

  // to_ and the gradient by the logits, from one row a leaf: the sum of d_out of its queries.
  void run_leaves(const TcSequence& sequence) {
    const Call& call = head_.call;
    const Index n_leaves = head_.n_leaves(), d_v = call.v.cols;
    const double n_q = static_cast<double>(sequence.end - sequence.first);
    const int threads = head_.addition_threads((n_q + 4.0 * static_cast<double>(n_leaves)) * static_cast<double>(d_v));
    Workspace::Frame frame(head_.workspace);
    for_each_task(
        n_leaves, threads, frame, [&](Scratch& scratch) { return LeafWorker(scratch, head_, isa_); },
        [&](LeafWorker& worker, Index leaf) {
          const TokenSet some = queries_.tokens_between(leaf, sequence.first, sequence.end);
          T* sum = leaves_.d_out + leaf * d_v;
          std::fill_n(sum, d_v, T(0));
          add_token_rows(call.d_out, some, d_v, static_cast<const T*>(nullptr), sum, isa_);
          leaves_.levels[leaf] = some.size == 0 ? 0 : weigh_leaf(worker, leaf);
          for (Index t = 0; t <= head_.height && some.size == 0; ++t)
            leaves_.share(t, leaf) = leaves_.by_logit(t, leaf) = 0;
          leaves_.read[leaf] = routing_ == nullptr ? 0
                                                   : read_path(sums_, leaf, head_.levels, call.q, 0, worker.weights,
                                                               leaves_.out + leaf * d_v);
        });
    for_each_task(to_.n_nodes() - 1, threads, [&](Index task) { gather_node(task + 1); });
    for (Index leaf = 0; leaf < n_leaves; ++leaf) {
      for (Index t = 0; t <= head_.height; ++t) d_logits_[t] += static_cast<double>(leaves_.by_logit(t, leaf));
      levels_read_ += leaves_.levels[leaf];
      out_levels_read_ += leaves_.read[leaf];
    }
    query_rows_added_ += sequence.end - sequence.first;
  }

  struct LeafWorker {
    LeafWorker(Scratch& scratch, const TcHead<Call>& head, Isa isa)
        : row(scratch, head.call.v.cols, isa),
          weights(scratch.take<T>(head.n_levels())),
          products(scratch.take<T>(head.n_levels())) {}
    WidenedRow<T> row;
    T *weights, *products;
  };

  // Returns how many levels count.
  Index weigh_leaf(const LeafWorker& worker, Index leaf) const {
    const Index d_v = head_.call.v.cols;
    worker.row.load(ConstView<T>{leaves_.d_out, head_.n_leaves(), d_v, d_v, 1}, leaf);
    const PathWeights<T> found = weigh_path(sums_, leaf, head_.levels, head_.call.q, 0, worker.weights);
    T mean = 0;
    for (Index t = 0; t <= head_.height; ++t) {
      if (worker.weights[t] < 0) continue;
      const Index node = head_.node(leaf, t);
      worker.weights[t] /= found.total;
      worker.products[t] = worker.row.dot(sums_.v + node * d_v) / static_cast<T>(sums_.counts[node]);
      mean += worker.weights[t] * worker.products[t];
    }
    for (Index t = 0; t <= head_.height; ++t) {
      const bool counts = !(worker.weights[t] < 0);
      leaves_.share(t, leaf) = counts ? worker.weights[t] : T(0);
      leaves_.by_logit(t, leaf) = counts ? worker.weights[t] * (worker.products[t] - mean) : T(0);
    }
    return found.levels;
  }

  // dL / d(sum of value rows) and dL / d(number of keys) of one node, from the leaves below it.
  void gather_node(Index node) const {
    const Index t = level_of(node), d_v = to_.d_v, below = Index(1) << (head_.height - t);
    if (sums_.counts[node] == 0 || is_minus_infinity(head_.levels.logits[t])) return;
    const Index leaf = (node << (head_.height - t)) - head_.n_leaves();
    T* row = to_.v + node * d_v;
    storage_kernels<T, T>(isa_).add_rows(leaves_.d_out + leaf * d_v, d_v, nullptr, below, d_v, &leaves_.share(t, leaf),
                                         row);
    const T n = static_cast<T>(sums_.counts[node]);
    T product = 0;
    for (Index c = 0; c < d_v; ++c) {
      row[c] /= n;
      product += row[c] * sums_.v[node * d_v + c];
    }
    to_.count[node] = -product / n;
  }

  void give_keys(const TcSequence& sequence, int threads) const {
    const Call& call = head_.call;
    for_each_task(head_.n_leaves(), threads, [&](Index leaf) {
      const TokenSet some = head_.keys.tokens_between(leaf, sequence.low, sequence.high);
      const Index node = head_.n_leaves() + leaf;
      for (Index j = 0; j < some.size; ++j) {
        add_row(call.d_v, some[j], to_.v + node * to_.d_v);
        if (to_.d > 0) add_row(call.d_k, some[j], to_.k + node * to_.d);
      }
    });
  }

  void add_routing(const TcSequence& sequence) {
    using Signals = TcSignals<Call>;
    const T* out = by_leaf() ? leaves_.out : nullptr;
    Workspace::Frame frame(head_.workspace);
    for (const TokenRole role : {TokenRole::query, TokenRole::key}) {
      Workspace::Frame own(head_.workspace);
      const Signals signals(head_, sequence, role, sums_, to_, shares_, out, own);
      signals.add(*routing_, context_, own);
    }
  }

  void count(FlopCounter& flops) const {
    const double d_v = static_cast<double>(head_.call.v.cols), d = static_cast<double>(head_.key_width());
    const double read = static_cast<double>(levels_read_);
    const double added = static_cast<double>(rows_added_ + query_rows_added_ + 2 * out_levels_read_);
    flops.add_products(Phase::backward_values, (added + 4.0 * read) * d_v);
    flops.add_products(Phase::backward_scores, (static_cast<double>(key_rows_added_) + 6.0 * read) * d);
    flops.add_exponentials(read + static_cast<double>(out_levels_read_));
  }

  TcHead<Call> head_;
  double* d_logits_;
  const TcRouting<T>* routing_;
  const Context& context_;
  Isa isa_;
  PathSums<T> sums_;
  PathGradients<T> to_;
  PathShares<T> shares_;
  LeafLists queries_;
  TcLeaves<T> leaves_;
  Index rows_added_ = 0, query_rows_added_ = 0, key_rows_added_ = 0, levels_read_ = 0, out_levels_read_ = 0;
};

}  // namespace heed::detail
