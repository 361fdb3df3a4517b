#pragma once
#include <algorithm>
#include <cstddef>

#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/distributed/ring.hpp"
#include "heed/distributed/transfers.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed::detail {

/// Sums of the gradients of some keys and values, packed rows of all heads.
template <class T>
struct GradientRows {
  View<T> d_k, d_v;
};

/// The sums of a backward pass over a ring. Those of the rank's own keys and of its queries stay; those it makes for
/// the keys of another go home to their owner, which adds what arrives in the order of steps: the same bits in every
/// run.
template <class T>
class RingGradients {
 public:
  /// Room for a rank's n_q queries and n_k keys, in a frame that stays open. Nothing is allocated after.
  void reserve(Workspace::Frame& frame, const Ranks& ranks, Index n_q, Index n_k, const PackedHeads& packed) {
    packed_ = packed;
    n_q_ = n_q;
    n_k_ = n_k;
    d_q_ = frame.take<T>(n_q * packed.n_heads * packed.d);
    std::fill_n(d_q_, n_q * packed.n_heads * packed.d, T(0));
    means_ = frame.take<T>(n_q * packed.n_heads);
    for (Index t = 0; t < std::min<Index>(ranks.size(), 3); ++t) made_in(t) = frame.take<T>(n_k * row_numbers());
    if (ranks.size() > 1) arrived() = frame.take<T>(n_k * row_numbers());
    sinks_ = frame.take<T>(2 * packed.n_heads);
  }
  View<T> d_q() {
    const Index cols = packed_.n_heads * packed_.d;
    return {d_q_, n_q_, cols, cols, 1};
  }
  T* means() { return means_; }
  T* own_sinks() { return sinks_; }  ///< gradients of sinks by the queries of this rank, one a head
  /// Puts their sum over ranks in their place.
  void add_sinks(const Ranks& ranks) { add_in_order(ranks, sinks_, sinks_ + packed_.n_heads, packed_.n_heads); }

  void clear(Index t) { std::fill_n(made_in(t), n_k_ * row_numbers(), T(0)); }
  /// The sums of a part of the keys of step t.
  GradientRows<T> rows(const RingPlan& plan, Index t, int part) { return rows_in(made_in(t), plan, part); }

  /// Sends what step t >= 1 has made, and receives what others have made in it of this rank's keys.
  void send_home(const Ranks& ranks, const RingPlan& plan, Index t, Transfers& transfers) {
    const int owner = ranks.behind(-t), maker = ranks.behind(t);
    for (int part = 0; part < ring_parts; ++part) {
      const int tag = 4096 + static_cast<int>(t % 1024) * ring_parts + part;
      const std::size_t first = offset(plan, part), bytes = count(plan, part) * sizeof(T);
      if (plan.needs(maker, ranks.rank(), part)) transfers.receive(arrived() + first, bytes, maker, tag);
      if (plan.needs(ranks.rank(), owner, part)) transfers.send(made_in(t) + first, bytes, owner, tag);
    }
  }
  /// Adds what has arrived of step t.
  void add_arrived(const RingPlan& plan, const Ranks& ranks, Index t) {
    for (int part = 0; part < ring_parts; ++part) {
      if (!plan.needs(ranks.behind(t), ranks.rank(), part)) continue;
      T* to = made_in(0) + offset(plan, part);
      const T* from = arrived() + offset(plan, part);
      for (std::size_t i = 0; i < count(plan, part); ++i) to[i] += from[i];
    }
  }
  /// Writes the gradients of the rank's own tokens in their storage, and those of sinks where they are wanted.
  template <class Grads>
  void write(const RingPlan& plan, Grads& grads) {
    copy(d_q(), output_view_of(grads.d_q), 0);
    for (int part = 0; part < ring_parts; ++part) {
      const GradientRows<T> own = rows(plan, 0, part);
      copy(own.d_k, output_view_of(grads.d_k), plan.first_key_row(part));
      copy(own.d_v, output_view_of(grads.d_v), plan.first_key_row(part));
    }
    if constexpr (requires { grads.d_sinks; }) {
      for (Index h = 0; h < grads.d_sinks.size(); ++h) grads.d_sinks(h) = sinks_[h];
    }
  }

 private:
  Index row_numbers() const { return packed_.n_kv_heads * (packed_.d + packed_.d_v); }
  // What step t adds to: the rank's own sums, or one of two that travel in turn.
  T*& made_in(Index t) { return buffers_[static_cast<std::size_t>(t == 0 ? 0 : 1 + t % 2)]; }
  T*& arrived() { return buffers_[3]; }
  std::size_t offset(const RingPlan& plan, int part) const {
    return static_cast<std::size_t>(plan.first_key_row(part) * row_numbers());
  }
  std::size_t count(const RingPlan& plan, int part) const {
    return static_cast<std::size_t>(plan.keys(0, part).size * row_numbers());
  }
  GradientRows<T> rows_in(T* buffer, const RingPlan& plan, int part) const {
    const Index n = plan.keys(0, part).size, k_cols = packed_.n_kv_heads * packed_.d,
                v_cols = packed_.n_kv_heads * packed_.d_v;
    T* from = buffer + offset(plan, part);
    return {{from, n, k_cols, k_cols, 1}, {from + n * k_cols, n, v_cols, v_cols, 1}};
  }
  template <class S>
  static void copy(const View<T>& from, const View<S>& to, Index first) {
    for (Index i = 0; i < from.rows; ++i) {
      for (Index c = 0; c < from.cols; ++c) to(first + i, c) = static_cast<S>(from(i, c));
    }
  }

  PackedHeads packed_;
  Index n_q_ = 0, n_k_ = 0;
  T *d_q_ = nullptr, *means_ = nullptr, *sinks_ = nullptr, *buffers_[4] = {};
};

}  // namespace heed::detail
