#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/approx/detail/tc_head.hpp"
#include "heed/approx/detail/tc_shares.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/engine/token_panel.hpp"
#include "heed/trees/path_gradients.hpp"
#include "heed/trees/route.hpp"

namespace heed::detail {

/// A row for each node of a tree by value rows, one by key rows, and a number.
template <class T>
struct NodeRows {
  T* v = nullptr;      // x d_v
  T* k = nullptr;      // x key width
  T* count = nullptr;  // one each
};

/// What nodes hold when a token of a causal sequence looks at them. Tokens come in an order in which what they see only
/// grows: queries from the first to the last, for which keys are added one after the other; keys from the last to the
/// first, for which the shares of queries are. Events are what is added, numbered from 0: keys from the sequence's
/// first on, or queries from its last on downwards.
///
/// A panel of tokens takes what its first token sees from running sums, and what comes in between its first and its
/// last from the products of its tokens with those events. Running sums are kept at a few places along the sequence,
/// so that threads begin at any of them.
template <class Call>
class RunningNodes {
 public:
  using T = typename Call::Sum;
  using Nodes = NodeRows<T>;

  RunningNodes() = default;
  RunningNodes(const TcHead<Call>& head, const TcSequence& sequence, TokenRole role, const PathShares<T>& shares,
               Workspace::Frame& frame)
      : head_(&head), shares_(&shares), sequence_(sequence), role_(role), isa_(active_isa()) {
    if (role == TokenRole::key) find_first_queries(frame);
    const Index n_tokens = role == TokenRole::query ? sequence.end - sequence.first : sequence.high - sequence.low;
    constexpr Index piece = 512, most_kept = 16, kept_entries = Index(1) << 20;  // 4 MiB of floats
    const Index n_pieces = (n_tokens + piece - 1) / piece, entries = n_nodes() * (d_v() + d() + 1);
    const Index most = std::clamp<Index>(kept_entries / entries, 1, most_kept);
    spacing_ = piece * ((n_pieces + most - 1) / most);
    n_kept_ = (n_tokens + spacing_ - 1) / spacing_;
    kept_ = frame.take<Nodes>(n_kept_);
    for (Index s = 0; s < n_kept_; ++s) kept_[s] = take(frame);
    const int threads = head.addition_threads(static_cast<double>(n_tokens) * static_cast<double>(d_v() + d()));
    for_each_task(head.n_levels(), threads, [&](Index t) { keep_level(t); });
  }

  /// Where one thread is: the running sums of its last panel, and room for the events inside a panel.
  struct Place {
    Place(Scratch& scratch, const RunningNodes& of, Index panel) : full_width(panel) {
      if (of.head_ == nullptr) return;
      now = of.take(scratch);
      rows = scratch.take<T>(full_width * std::max(of.d_v(), of.d()));
      by_value = scratch.take<T>(full_width * full_width);
      by_key = scratch.take<T>(full_width * full_width);
    }
    Index full_width;
    Nodes now{};
    Index event = -1;  // events in `now`; -1: it holds nothing yet
    T *rows = nullptr, *by_value = nullptr, *by_key = nullptr;
  };

  /// What the first of `tokens` sees; row 0 is unused.
  Nodes at(Place& place, const TokenSet& tokens) const {
    const Index position = position_of(tokens[0]), want = events_before(position), s = position / spacing_;
    const Index kept = events_before(s * spacing_);
    if (place.event < kept || place.event > want) {
      copy(kept_[s], place.now, 0, n_nodes());
      place.event = kept;
    }
    for (; place.event < want; ++place.event) add_event(place.event, 0, head_->n_levels(), place.now);
    return place.now;
  }

  /// Adds what comes in between the first of `tokens` and each other: to products by value and by key and numbers, rows
  /// of `width` entries; of keys all goes to `to.v`.
  void add_inside(Place& place, const TokenSet& tokens, const TokenPanel<T>& by_value, const TokenPanel<T>& by_key,
                  const Nodes& to, Index width) const {
    const Index last = events_before(position_of(tokens[tokens.size - 1]));
    Index start = 0;
    for (Index from = events_before(position_of(tokens[0])); from < last; from += place.full_width) {
      const Index n = std::min(place.full_width, last - from);
      multiply(place, from, n, by_value, by_key);
      for (Index e = 0; e < n; ++e) {
        if (!counts(from + e)) continue;
        while (events_before(position_of(tokens[start])) <= from + e) ++start;
        add_event_inside(from + e, place.by_value + e * width, place.by_key + e * width, start, width, to);
      }
    }
  }

 private:
  bool of_keys() const { return role_ == TokenRole::key; }
  Index d_v() const { return head_->call.v.cols; }
  Index d() const { return head_->key_width(); }
  Index n_nodes() const { return Index(2) << head_->height; }
  Index position_of(Index token) const { return of_keys() ? sequence_.high - 1 - token : token - sequence_.first; }
  Index row_of(Index event) const { return of_keys() ? sequence_.end - 1 - event : sequence_.low + event; }
  Index leaf_of(Index row) const { return of_keys() ? head_->query_leaf[row] : head_->keys.leaf_of()[row]; }
  Index events_before(Index position) const {
    if (!of_keys()) return sequence_.own->of(sequence_.first + position).high - sequence_.low;
    return sequence_.end - first_query_[sequence_.high - 1 - position - sequence_.low];
  }

  template <class Memory>
  Nodes take(Memory& memory) const {
    T* v = memory.template take<T>(n_nodes() * d_v());
    T* k = memory.template take<T>(n_nodes() * d());
    return {v, k, memory.template take<T>(n_nodes())};
  }

  // The first query that sees each key.
  void find_first_queries(Workspace::Frame& frame) {
    first_query_ = frame.take<Index>(sequence_.high - sequence_.low);
    Index next = sequence_.low;
    for (Index i = sequence_.first; i < sequence_.end; ++i) {
      for (const Index high = sequence_.own->of(i).high; next < high; ++next) first_query_[next - sequence_.low] = i;
    }
  }

  void copy(const Nodes& from, const Nodes& to, Index node, Index n) const {
    std::copy_n(from.v + node * d_v(), n * d_v(), to.v + node * d_v());
    std::copy_n(from.k + node * d(), n * d(), to.k + node * d());
    std::copy_n(from.count + node, n, to.count + node);
  }

  // The nodes of one level at all places; level 0 also clears the row that is unused.
  void keep_level(Index t) {
    const Index first = t == 0 ? 0 : Index(1) << t, n = (Index(2) << t) - first;
    const Nodes& start = kept_[0];
    std::fill_n(start.v + first * d_v(), n * d_v(), T(0));
    std::fill_n(start.k + first * d(), n * d(), T(0));
    std::fill_n(start.count + first, n, T(0));
    Index event = 0;
    for (Index s = 0; s < n_kept_; ++s) {
      if (s > 0) copy(kept_[s - 1], kept_[s], first, n);
      for (const Index want = events_before(s * spacing_); event < want; ++event) add_event(event, t, t + 1, kept_[s]);
    }
  }

  // False of keys that are absent.
  bool counts(Index event) const { return of_keys() || head_->keys.has(row_of(event)); }

  void add_event(Index event, Index from_level, Index to_level, const Nodes& to) const {
    if (!counts(event)) return;
    const Call& call = head_->call;
    const Index row = row_of(event), leaf = leaf_of(row);
    for (Index t = from_level; t < to_level; ++t) {
      const Index node = head_->node(leaf, t);
      if (!of_keys()) {
        add(call.v, row, T(1), d_v(), to.v + node * d_v());
        if (d() > 0) add(call.k, row, T(1), d(), to.k + node * d());
        to.count[node] += T(1);
        continue;
      }
      const Index at = t * shares_->n_q + row;
      if (!shares_->counts(at)) continue;
      add(call.d_out, row, shares_->v[at], d_v(), to.v + node * d_v());
      if (d() > 0) add(call.q, row, shares_->k[at], d(), to.k + node * d());
      to.count[node] += shares_->count[at];
    }
  }
  template <class S>
  void add(const ConstView<S>& rows, Index row, T weight, Index width, T* to) const {
    add_token_rows(rows, {row, 1}, width, &weight, to, isa_);
  }

  // Products of events [from, from + n) with the panel's tokens.
  void multiply(Place& place, Index from, Index n, const TokenPanel<T>& by_value, const TokenPanel<T>& by_key) const {
    const Call& call = head_->call;
    const auto rows = [&](const auto& all, Index width) {
      using S = typename std::remove_cvref_t<decltype(all)>::Scalar;
      for (Index e = 0; e < n; ++e) {
        storage_kernels<T, KernelScalar<S>>(isa_).gather(kernel_pointer(all.data) + row_of(from + e) * all.row_stride,
                                                         all.row_stride, all.col_stride, nullptr, 1, width,
                                                         place.rows + e * width, width);
      }
    };
    of_keys() ? rows(call.d_out, d_v()) : rows(call.v, d_v());
    by_value.multiply(place.rows, d_v(), n, place.by_value);
    if (d() == 0) return;
    of_keys() ? rows(call.q, d()) : rows(call.k, d());
    by_key.multiply(place.rows, d(), n, place.by_key);
  }

  // To the tokens from `start` on.
  void add_event_inside(Index event, const T* by_value, const T* by_key, Index start, Index width,
                        const Nodes& to) const {
    const Index row = row_of(event), leaf = leaf_of(row);
    for (Index t = 0; t <= head_->height; ++t) {
      const Index node = head_->node(leaf, t) * width, at = of_keys() ? t * shares_->n_q + row : 0;
      if (of_keys()) {
        if (!shares_->counts(at)) continue;
        const T weight = shares_->v[at], by_number = shares_->count[at];
        for (Index i = start; i < width; ++i) to.v[node + i] += weight * by_value[i] + by_number;
        for (Index i = start; i < width && d() > 0; ++i) to.v[node + i] += shares_->k[at] * by_key[i];
        continue;
      }
      for (Index i = start; i < width; ++i) {
        to.v[node + i] += by_value[i];
        to.count[node + i] += T(1);
      }
      for (Index i = start; i < width && d() > 0; ++i) to.k[node + i] += by_key[i];
    }
  }

  const TcHead<Call>* head_ = nullptr;
  const PathShares<T>* shares_ = nullptr;
  TcSequence sequence_;
  TokenRole role_ = TokenRole::query;
  Isa isa_ = active_isa();
  Index* first_query_ = nullptr;  // of the sequence's keys
  Index spacing_ = 1, n_kept_ = 0;
  Nodes* kept_ = nullptr;
};

}  // namespace heed::detail
