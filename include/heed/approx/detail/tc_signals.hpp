#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/approx/detail/running_nodes.hpp"
#include "heed/approx/detail/tc_head.hpp"
#include "heed/approx/detail/tc_shares.hpp"
#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/token_panel.hpp"
#include "heed/kernels/select.hpp"
#include "heed/trees/node_signals.hpp"
#include "heed/trees/path_gradients.hpp"
#include "heed/trees/path_sums.hpp"
#include "heed/trees/routing_gradient.hpp"
#include "heed/trees/tree_sums.hpp"

namespace heed::detail {

/// How tokens were routed, and where the gradient of the tree is summed (no planes: not wanted).
template <class T>
struct TcRouting {
  Router<T> router;
  TreeSums<T> sums;
  const Index* nodes = nullptr;  ///< all, in level order
};

/// The routing signals of one sequence's queries or keys, u_l = dL/dg_l for every leaf l, panel by panel: the products
/// of a panel's rows with a row a leaf or node, blocked so that nothing of n x 2^h numbers is stored.
///   query i  u_l = <G_i, out_i^l>, out_i^l what it would see from leaf l;
///   key j    u_l = sum over the path to l of <dL/dV_v, v_j> + dL/dN_v + <dL/dK_v, k_j>, V, N and K the sums of node v.
template <class Call>
class TcSignals {
 public:
  using T = typename Call::Sum;
  using Nodes = NodeRows<T>;

  /// sums: complete unless causal; gradients: likewise, summed down; out: row a leaf where all its queries see the same
  /// (null: they do not).
  TcSignals(const TcHead<Call>& head, const TcSequence& sequence, TokenRole role, const PathSums<T>& sums,
            const PathGradients<T>& gradients, const PathShares<T>& shares, const T* out, Workspace::Frame& frame)
      : head_(head),
        sequence_(sequence),
        role_(role),
        isa_(active_isa()),
        out_(role == TokenRole::query ? out : nullptr) {
    if (head.causal()) {
      running_ = RunningNodes<Call>(head, sequence, role, shares, frame);
      return;
    }
    const Index first = role == TokenRole::key ? head.n_leaves() : 0;
    still_ = role == TokenRole::key ? Nodes{gradients.v, gradients.k, gradients.count} : Nodes{sums.v, sums.k, nullptr};
    if (role == TokenRole::query && out_ == nullptr) {
      T* counts = frame.take<T>(sums.n_nodes());
      for (Index node = 1; node < sums.n_nodes(); ++node) counts[node] = static_cast<T>(sums.counts[node]);
      counts[0] = 0;
      still_.count = counts;
    }
    still_ = {entry(still_.v, first * d_v()), entry(still_.k, first * d()), entry(still_.count, first)};
  }

  /// Adds what the tokens give to the tree and to their own gradients.
  void add(const TcRouting<T>& routing, const Context& context, Workspace::Frame& frame) const {
    const Call& call = head_.call;
    const Index n_nodes = head_.n_leaves() - 1;
    if (role_ == TokenRole::query) {
      const SignalGroup group{{sequence_.first, sequence_.end - sequence_.first}, routing.nodes, n_nodes};
      add_routing_gradient(RoutedTokens<T, typename Call::Query>{&routing.router, call.q, role_, call.d_q},
                           std::span<const SignalGroup>(&group, 1), *this, routing.sums, context);
      count(group.tokens.size, context);
      return;
    }
    // Running sums of keys go from the last to the first.
    Index* list = frame.take<Index>(sequence_.high - sequence_.low);
    Index n = 0;
    for (Index j = sequence_.high; j-- > sequence_.low;) {
      if (head_.keys.has(j)) list[n++] = j;
    }
    if (!head_.causal()) std::reverse(list, list + n);
    const SignalGroup group{{0, n, list}, routing.nodes, n_nodes};
    add_routing_gradient(RoutedTokens<T, typename Call::Key>{&routing.router, call.k, role_, call.d_k},
                         std::span<const SignalGroup>(&group, 1), *this, routing.sums, context);
    count(n, context);
  }

  /// What one thread owns.
  class Worker {
   public:
    Worker(Scratch& scratch, const TcSignals& of)
        : by_value(scratch, of.d_v(), of.isa_),
          by_key(scratch, of.d(), of.isa_),
          place(scratch, of.running_, by_value.full_width()) {
      const Index n = (Index(2) << of.head_.height) * by_value.full_width();
      for (T** table : {&value, &score, &count, &top}) *table = scratch.take<T>(n);
      for (T** row : {&zero, &ignored}) *row = scratch.take<T>(by_value.full_width());
    }
    TokenPanel<T> by_value, by_key;
    typename RunningNodes<Call>::Place place;
    T *value, *score, *count, *top;  // nodes x width
    T *zero, *ignored;
  };
  Worker make_worker(Scratch& scratch) const { return Worker(scratch, *this); }

  void operator()(const SignalPanel<T>& panel, Worker& own) const {
    if (role_ == TokenRole::query) {
      load(own, panel, head_.call.d_out, head_.call.q);
    } else {
      load(own, panel, head_.call.v, head_.call.k);
    }
    const Index width = panel.width, n_leaves = head_.n_leaves();
    if (out_ != nullptr) {
      own.by_value.multiply(out_, d_v(), n_leaves, own.value + n_leaves * width);
    } else if (role_ == TokenRole::query) {
      multiply(own, panel, 0, 2 * n_leaves);
      see_from_leaves(own, width);
    } else if (head_.causal()) {
      multiply(own, panel, 0, 2 * n_leaves);
      for (Index node = 2; node < 2 * n_leaves; ++node) {
        for (Index i = 0; i < width; ++i) own.value[node * width + i] += own.value[node / 2 * width + i];
      }
    } else {
      multiply(own, panel, n_leaves, n_leaves);
    }
    const Index* leaf = role_ == TokenRole::query ? head_.query_leaf : head_.keys.leaf_of();
    shares_of_signs(
        panel.z, head_.height, width, panel.tokens.size, [&](Index i) { return leaf[panel.tokens[i]]; }, own.score);
    leaves_to_nodes(own.value, own.score, head_.height, width, panel.y);
  }

 private:
  friend class Worker;
  Index d_v() const { return head_.call.v.cols; }
  Index d() const { return head_.key_width(); }

  template <class ByValue, class ByKey>
  void load(Worker& own, const SignalPanel<T>& panel, const ByValue& by_value, const ByKey& by_key) const {
    own.by_value.load(by_value, panel.tokens);
    if (d() > 0) own.by_key.load(by_key, panel.tokens);
  }

  // Products of the panel with rows [0, n) of the nodes' tables, to rows from `first` on. Of keys: their sum with the
  // numbers of the nodes, in value. Of queries: by values in value, by keys in score, numbers in count.
  void multiply(Worker& own, const SignalPanel<T>& panel, Index first, Index n) const {
    const Index width = panel.width;
    const bool of_keys = role_ == TokenRole::key;
    T *value = own.value + first * width, *score = own.score + first * width;
    const Nodes nodes = head_.causal() ? running_.at(own.place, panel.tokens) : still_;
    own.by_value.multiply(nodes.v, d_v(), n, value);
    if (d() > 0) own.by_key.multiply(nodes.k, d(), n, score);
    for (Index row = 0; row < n; ++row) {
      if (!of_keys) {
        std::fill_n(own.count + (first + row) * width, width, nodes.count[row]);
        continue;
      }
      for (Index i = 0; i < width; ++i) {
        T& to = value[row * width + i];
        to += d() > 0 ? score[row * width + i] + nodes.count[row] : nodes.count[row];
      }
    }
    if (head_.causal())
      running_.add_inside(own.place, panel.tokens, own.by_value, own.by_key, {value, score, own.count}, width);
  }

  // out_i^l of every query and leaf from the products and numbers of all nodes: a running softmax down the paths.
  void see_from_leaves(Worker& own, Index width) const {
    const bool by_query = head_.levels.by_query;
    const Index n_nodes = Index(2) << head_.height;
    for (Index node = 1; node < n_nodes; ++node) {
      const T logit = head_.levels.logits[level_of(node)];
      T *score = own.score + node * width, *top = own.top + node * width;
      const T *count = own.count + node * width, *above = own.top + node / 2 * width;
      for (Index i = 0; i < width; ++i) {
        const T here = count[i] > 0 && !is_minus_infinity(logit)
                           ? logit + (by_query ? head_.levels.scale * (score[i] / count[i]) : T(0))
                           : minus_infinity<T>;
        const T before = node == 1 ? minus_infinity<T> : above[i];
        const bool grows = !is_minus_infinity(here) && (is_minus_infinity(before) || here > before);
        top[i] = grows ? here : before;
        const bool empty = is_minus_infinity(here) || is_minus_infinity(before);
        score[i] = empty ? minus_infinity<T> : grows ? before - here : here - before;
      }
    }
    const auto& tiles = tile_kernels<T>(isa_);
    std::fill_n(own.zero, width, T(0));
    std::fill_n(own.ignored, width, T(0));
    tiles.weigh(n_nodes - 1, width, 0, width / tiles.lanes, T(1.4426950408889634), own.zero, own.score + width,
                own.ignored);
    for (Index node = 1; node < n_nodes; ++node) {  // value: sum of weights times means, score: of weights
      T *score = own.score + node * width, *value = own.value + node * width;
      const T *total = own.score + node / 2 * width, *sum = own.value + node / 2 * width;
      const T *count = own.count + node * width, *top = own.top + node * width, *above = own.top + node / 2 * width;
      for (Index i = 0; i < width; ++i) {
        const bool first = node == 1;
        const bool grew = first ? !is_minus_infinity(top[i]) : top[i] > above[i];
        const T old = grew ? score[i] : T(1), weight = grew ? T(1) : score[i];
        const T mean = by_query || !(count[i] > 0) ? value[i] : value[i] / count[i];
        score[i] = (first ? T(0) : old * total[i]) + weight * (by_query ? count[i] : T(1));
        value[i] = (first ? T(0) : old * sum[i]) + weight * mean;
      }
    }
    for (Index at = head_.n_leaves() * width; at < n_nodes * width; ++at)
      own.value[at] = is_zero(own.score[at]) ? T(0) : own.value[at] / own.score[at];
  }

  void count(Index n_tokens, const Context& context) const {
    if (context.flops == nullptr) return;
    const bool leaves = out_ != nullptr || (role_ == TokenRole::key && !head_.causal());
    const double rows = static_cast<double>(leaves ? head_.n_leaves() : 2 * head_.n_leaves() - 1);
    const double pairs = rows * static_cast<double>(n_tokens);
    context.flops->add_products(Phase::backward_values, 2.0 * pairs * static_cast<double>(d_v()));
    context.flops->add_products(Phase::backward_scores, 2.0 * pairs * static_cast<double>(d()));
    if (role_ == TokenRole::query && out_ == nullptr) context.flops->add_exponentials(pairs);
  }

  const TcHead<Call>& head_;
  TcSequence sequence_;
  TokenRole role_;
  Isa isa_;
  const T* out_;
  Nodes still_;
  RunningNodes<Call> running_;
};

}  // namespace heed::detail
