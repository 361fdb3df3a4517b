#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>

#include "heed/approx/detail/query_blocks.hpp"
#include "heed/approx/detail/tc_head.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/trees/path_gradients.hpp"
#include "heed/trees/path_sums.hpp"

namespace heed::detail {

/// One packed sequence: its queries, and the keys that they see. Those that are absent lie among them, in no leaf.
struct TcSequence {
  Index first = 0, end = 0;  // queries
  Index low = 0, high = 0;   // keys
  Index n_keys = 0;          // of them, without the absent ones
  const OwnKeys* own = nullptr;
};

/// Gradients of TC-attention query by query, where sums run along or queries weigh the levels. With p_t = <G_i, C_t>,
/// G = d_out, alpha and C those of query i, and w_t its logit of level t:
///   dL/dw_t = alpha_t (p_t - sum_s alpha_s p_s),
///   by the sum of value rows of node t: (alpha_t / N_t) G_i,
///   by its sum of key rows: (scale / N_t) dL/dw_t q_i,
///   by its number of keys: (dL/dw_t (1 - scale q_i . c_t) - alpha_t p_t) / N_t, without the first term where queries
///   do not weigh the levels,
///   and d_q_i += scale sum_t dL/dw_t c_t.
/// Threads share out levels, queries or columns, whose results do not depend on one another.
template <class Call>
class TcShares {
 public:
  using T = typename Call::Sum;

  /// sums: of all keys of the sequence, or cleared under a causal mask, where they run along here.
  TcShares(const TcHead<Call>& head, const PathShares<T>& shares, const PathSums<T>& sums, Isa isa)
      : head_(head), shares_(shares), sums_(sums), isa_(isa) {}

  /// Fills the shares of a sequence and adds dL/dw_t of all its queries to d_logits. Returns how many levels count.
  Index find(const TcSequence& sequence, double* d_logits) const {
    const Call& call = head_.call;
    const Index n_levels = head_.n_levels(), n_blocks = (sequence.end - sequence.first + block - 1) / block;
    const int threads = head_.addition_threads(work(sequence, call.v.cols + head_.key_width()));
    Workspace::Frame frame(head_.workspace);
    T* mean_scores = frame.take<T>(n_levels * shares_.n_q);
    double* partial = frame.take<double>(n_levels * n_blocks);
    Index* read = frame.take<Index>(n_blocks);
    for_each_task(
        n_levels, threads, frame, [&](Scratch& scratch) { return WidenedRow<T>(scratch, call.v.cols, isa_); },
        [&](const WidenedRow<T>& row, Index t) { score_level(sequence, t, row, mean_scores + t * shares_.n_q); });
    for_each_task(n_blocks, threads, [&](Index b) {
      double* d_logit = partial + b * n_levels;
      std::fill_n(d_logit, n_levels, 0.0);
      read[b] = 0;
      const Index first = sequence.first + b * block, end = std::min(sequence.end, first + block);
      for (Index i = first; i < end; ++i) read[b] += share_query(i, mean_scores, d_logit);
    });
    Index levels_read = 0;
    for (Index b = 0; b < n_blocks; ++b) {
      for (Index t = 0; t < n_levels; ++t) d_logits[t] += partial[b * n_levels + t];
      levels_read += read[b];
    }
    return levels_read;
  }

  /// Adds the gradient by q that comes through the weights of the levels; after find(). Clears running sums first.
  void add_to_queries(const TcSequence& sequence) const {
    const Call& call = head_.call;
    const Index d = head_.key_width();
    if (d == 0) return;
    if (head_.causal()) std::fill_n(sums_.k, sums_.n_nodes() * d, T(0));
    for_columns(sequence, d, [&](Index first, Index n, T* room) {
      const ConstView<T> table = ConstView<T>{sums_.k, sums_.n_nodes(), d, d, 1}.columns(first, n);
      const auto keys = call.k.columns(first, n);
      const View<T> to = call.d_q.columns(first, n);
      Index next = sequence.low;
      for (Index i = sequence.first; i < sequence.end; ++i) {
        const Index high = head_.causal() ? sequence.own->of(i).high : next;
        for (; next < high; ++next) {
          for (Index t = 0; t <= head_.height && head_.keys.has(next); ++t)
            add_one(keys, next, n, T(1), sums_.k + head_.node(head_.keys.leaf_of()[next], t) * d + first);
        }
        std::fill_n(room, n, T(0));
        for (Index t = 0; t <= head_.height; ++t) {
          const Index at = t * shares_.n_q + i;
          if (shares_.counts(at)) add_one(table, head_.node(head_.query_leaf[i], t), n, shares_.k[at], room);
        }
        add_row(to, i, room);
      }
    });
  }

  /// Adds the shares of all queries to their nodes; under a causal mask, where a key has its gradient from the queries
  /// that see it, it goes from the last query to the first and gives each key what has been added by then.
  void sweep(const TcSequence& sequence, const PathGradients<T>& to) const {
    const Call& call = head_.call;
    sweep(sequence, call.d_out, shares_.v, to.v, to.d_v, call.d_v);
    if (to.d > 0) sweep(sequence, call.q, shares_.k, to.k, to.d, call.d_k);
    for (Index t = 0; t <= head_.height && !head_.causal(); ++t) {
      for (Index i = sequence.first; i < sequence.end; ++i) {
        const Index at = t * shares_.n_q + i;
        if (shares_.counts(at)) to.count[head_.node(head_.query_leaf[i], t)] += shares_.count[at];
      }
    }
  }

 private:
  static constexpr Index block = 256;

  double work(const TcSequence& sequence, Index width) const {
    const Index rows = sequence.end - sequence.first + sequence.high - sequence.low;
    return static_cast<double>(rows) * static_cast<double>(head_.n_levels() * width);
  }

  template <class S>
  void add_one(const ConstView<S>& rows, Index row, Index n, T weight, T* to) const {
    add_token_rows(rows, {row, 1}, n, &weight, to, isa_);
  }

  // Calls body(first, n, room for n numbers) for columns that threads share out.
  template <class Body>
  void for_columns(const TcSequence& sequence, Index columns, const Body& body) const {
    const int threads = head_.addition_threads(work(sequence, columns));
    const Index width = shared_columns(columns, threads);
    Workspace::Frame frame(head_.workspace);
    for_each_task((columns + width - 1) / width, threads, frame,
                  [&](Scratch& scratch) { return scratch.take<T>(width); },
                  [&](T* room, Index task) { body(task * width, std::min(width, columns - task * width), room); });
  }

  // Of level t: logits to shares_.v, p to shares_.k, numbers of keys to shares_.count, scale q . c to mean_scores.
  void score_level(const TcSequence& sequence, Index t, const WidenedRow<T>& row, T* mean_scores) const {
    const Call& call = head_.call;
    Index next = sequence.low;
    for (Index i = sequence.first; i < sequence.end; ++i) {
      const Index high = head_.causal() ? sequence.own->of(i).high : next;
      for (; next < high; ++next) {
        if (head_.keys.has(next)) sums_.add(head_.node(head_.keys.leaf_of()[next], t), call.k, call.v, {next, 1});
      }
      const Index node = head_.node(head_.query_leaf[i], t), at = t * shares_.n_q + i;
      T mean_score = 0;
      const T score = level_score(sums_, node, t, head_.levels,
                                  [&] { return mean_score = mean_key_score(sums_, node, head_.levels, call.q, i); });
      shares_.v[at] = score;
      mean_scores[i] = mean_score;
      if (is_minus_infinity(score)) continue;
      row.load(call.d_out, i);
      shares_.count[at] = static_cast<T>(sums_.counts[node]);
      shares_.k[at] = row.dot(sums_.v + node * sums_.d_v) / shares_.count[at];
    }
  }

  // From these to the shares of query i. Returns how many of its levels count.
  Index share_query(Index i, const T* mean_scores, double* d_logit) const {
    T top = 0, total = 0, mean = 0;
    Index levels = 0;
    const auto visit = [&](const auto& act) {
      for (Index t = 0; t <= head_.height; ++t) {
        const Index at = t * shares_.n_q + i;
        if (shares_.counts(at)) act(t, at);
      }
    };
    for (Index t = 0; t <= head_.height; ++t) {
      const T score = shares_.v[t * shares_.n_q + i];
      if (is_minus_infinity(score)) continue;
      top = levels++ == 0 || top < score ? score : top;
    }
    for (Index t = 0; t <= head_.height; ++t) {
      T& score = shares_.v[t * shares_.n_q + i];
      score = is_minus_infinity(score) ? no_weight<T> : std::exp(score - top);
    }
    visit([&](Index, Index at) { total += shares_.v[at]; });
    visit([&](Index, Index at) { mean += shares_.v[at] / total * shares_.k[at]; });
    visit([&](Index t, Index at) {
      const T weight = shares_.v[at] / total, product = shares_.k[at], n = shares_.count[at];
      const T by_logit = weight * (product - mean);
      d_logit[t] += static_cast<double>(by_logit);
      const T by_score = head_.levels.by_query ? by_logit * (T(1) - mean_scores[at]) : T(0);
      shares_.v[at] = weight / n;
      shares_.k[at] = by_logit * head_.levels.scale / n;
      shares_.count[at] = (by_score - weight * product) / n;
    });
    return levels;
  }

  template <class S>
  void sweep(const TcSequence& sequence, const ConstView<S>& rows, const T* shares, T* nodes, Index width,
             const View<T>& to) const {
    const Index* key_leaf = head_.keys.leaf_of();
    const ConstView<T> table{nodes, Index(2) << head_.height, width, width, 1};
    for_columns(sequence, width, [&](Index first, Index n, T* room) {
      const auto own_rows = rows.columns(first, n);
      const ConstView<T> own_table = table.columns(first, n);
      const View<T> own_to = to.columns(first, n);
      Index next = sequence.high;
      const auto read_down_to = [&](Index high) {
        for (; next > high; --next) {
          if (!head_.keys.has(next - 1)) continue;
          Index path[max_path];
          for (Index t = 0; t <= head_.height; ++t) path[t] = head_.node(key_leaf[next - 1], t);
          std::fill_n(room, n, T(0));
          add_token_rows(own_table, {0, head_.n_levels(), path}, n, static_cast<const T*>(nullptr), room, isa_);
          add_row(own_to, next - 1, room);
        }
      };
      for (Index i = sequence.end; i-- > sequence.first;) {
        if (head_.causal()) read_down_to(sequence.own->of(i).high);
        for (Index t = 0; t <= head_.height; ++t) {
          const Index at = t * shares_.n_q + i;
          if (shares_.counts(at))
            add_one(own_rows, i, n, shares[at], nodes + head_.node(head_.query_leaf[i], t) * width + first);
        }
      }
      if (head_.causal()) read_down_to(sequence.low);
    });
  }

  const TcHead<Call>& head_;
  const PathShares<T>& shares_;
  const PathSums<T>& sums_;
  Isa isa_;
};

}  // namespace heed::detail
