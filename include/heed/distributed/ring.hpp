#pragma once
#include <algorithm>
#include <cstddef>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/block_sums.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/distributed/ring_layout.hpp"
#include "heed/distributed/transfers.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed::detail {

constexpr int ring_parts = 2;  ///< of a rank: the early and the late one

/// Who holds which queries and keys of a call over a ring, and who needs which keys. It follows from sizes and options
/// alone, on which all ranks agree: sender and receiver come to the same answer.
class RingPlan {
 public:
  /// `options`: without lengths; n_q of the queries are real.
  RingPlan(const RingLayout& queries, const RingLayout& keys, const AttentionOptions& options, Index n_q, Index n_heads)
      : queries_(queries), keys_(keys), options_(options), n_q_(n_q), n_heads_(n_heads) {}

  /// The real queries of a part; rows of a rank from first_row(part) on.
  TokenRange queries(Index rank, int part) const {
    TokenRange range = part_of(queries_, rank, part);
    range.size = std::clamp<Index>(n_q_ - range.first, 0, range.size);
    return range;
  }
  TokenRange keys(Index rank, int part) const { return part_of(keys_, rank, part); }
  Index first_query_row(int part) const { return part == 0 ? 0 : queries_.n_early(); }
  Index first_key_row(int part) const { return part == 0 ? 0 : keys_.n_early(); }
  Index n_heads() const { return n_heads_; }
  Index most_keys() const { return keys_.n_early(); }

  /// Calls visit(block) for those pairs of some queries and keys that positions do not hide.
  template <class Visit>
  void for_each_block(const TokenRange& some, const TokenRange& keys, const Visit& visit) const {
    if (some.size > 0 && keys.size > 0)
      detail::for_each_block(options_, some, keys, n_q_, keys_.n(), n_heads_, false, visit);
  }
  /// True where some query of `rank` sees some key of a part of `owner`.
  bool needs(Index rank, Index owner, int part) const {
    bool needed = false;
    for (int own = 0; own < ring_parts; ++own)
      for_each_block(queries(rank, own), keys(owner, part), [&](const CallBlock&) { needed = true; });
    return needed;
  }

 private:
  static TokenRange part_of(const RingLayout& layout, Index rank, int part) {
    return part == 0 ? TokenRange{layout.first_early(rank), layout.n_early()}
                     : TokenRange{layout.first_late(rank), layout.n_late()};
  }

  RingLayout queries_, keys_;
  AttentionOptions options_;
  Index n_q_, n_heads_;
};

/// Keys and values of a ring. Step 0 has the rank's own; in step t those of the rank t places behind arrive straight
/// from there, while those of step t - 1 are computed on. Parts that a rank does not need are not sent to it. Beside
/// its own a rank holds what two others own, never all keys; its own are copied only where rows do not lie side by
/// side. Liu et al. 2023 hand blocks on from neighbour to neighbour: as many bytes. Straight from their owner they need
/// not pass through ranks that do not see them.
template <class S>
class RingKeys {
 public:
  /// Room for as many rows as k and v have, which are this rank's, in a frame that stays open. Nothing is allocated
  /// after.
  void reserve(Workspace::Frame& frame, const Ranks& ranks, const ConstView<S>& k, const ConstView<S>& v) {
    own_ = {k, v};
    if (ranks.size() == 1) return;
    const auto packed = [](const ConstView<S>& m) { return m.col_stride == 1 && m.row_stride == m.cols; };
    const Index numbers = k.rows * (k.cols + v.cols);
    if (!packed(k) || !packed(v)) {
      own_ = slot(frame.take<S>(numbers));
      copy(k, own_.k);
      copy(v, own_.v);
    }
    for (Index t = 1; t < std::min<Index>(ranks.size(), 3); ++t) buffers_[t % 2] = frame.take<S>(numbers);
  }
  /// Sends own parts and receives others for step t >= 1.
  void begin(const Ranks& ranks, const RingPlan& plan, Index t, Transfers& transfers) {
    const int to = ranks.behind(t), from = ranks.behind(-t);
    const KeyRows<S> there = slot(buffers_[t % 2]);
    for (int part = 0; part < ring_parts; ++part) {
      const bool receives = plan.needs(ranks.rank(), from, part), sends = plan.needs(to, ranks.rank(), part);
      const Index first = plan.first_key_row(part), n = plan.keys(0, part).size;
      int tag = (static_cast<int>(t % 1024) * ring_parts + part) * 2;
      for (const auto& [theirs, mine] : {std::pair{there.k, own_.k}, std::pair{there.v, own_.v}}) {
        const auto bytes = static_cast<std::size_t>(n * mine.cols) * sizeof(S);
        if (receives) transfers.receive(const_cast<S*>(theirs.data) + first * theirs.cols, bytes, from, tag);
        if (sends) transfers.send(mine.data + first * mine.cols, bytes, to, tag);
        ++tag;
      }
    }
  }
  /// The rows of a part in step t.
  PackedRows<S> rows(const RingPlan& plan, Index t, int part, const PackedHeads& packed) {
    const KeyRows<S> all = t == 0 ? own_ : slot(buffers_[t % 2]);
    const KeyRows<S> some = all.rows(plan.first_key_row(part), plan.keys(0, part).size);
    return {some.k, some.v, packed};
  }

 private:
  KeyRows<S> slot(const S* buffer) const {
    const Index n = own_.k.rows, k_cols = own_.k.cols, v_cols = own_.v.cols;
    return {{buffer, n, k_cols, k_cols, 1}, {entry(buffer, n * k_cols), n, v_cols, v_cols, 1}};
  }
  static void copy(const ConstView<S>& from, const ConstView<S>& to) {
    S* row = const_cast<S*>(to.data);  // of the frame
    for (Index i = 0; i < from.rows; ++i, row += from.cols) {
      for (Index c = 0; c < from.cols; ++c) row[c] = from(i, c);
    }
  }

  KeyRows<S> own_;
  S* buffers_[2] = {};
};

/// Cuts the work of one step into pieces of some ten milliseconds a thread, between which messages are moved on: calls
/// visit(query part, key part, block, some heads) for each, and then poke(). Strips of queries are so long that many
/// panels share a tile of keys.
template <class Visit, class Poke>
void for_each_ring_piece(const RingPlan& plan, Index rank, Index owner, const PackedHeads& packed,
                         const Context& context, const Visit& visit, const Poke& poke) {
  constexpr Index strip = 1248;  // 26 panels of 48 (Tiling::max_share)
  constexpr double piece_flops = 1e9;
  for (int own = 0; own < ring_parts; ++own) {
    const TokenRange queries = plan.queries(rank, own);
    for (Index at = 0; at < queries.size; at += strip) {
      const TokenRange some{queries.first + at, std::min(strip, queries.size - at)};
      for (int part = 0; part < ring_parts; ++part) {
        plan.for_each_block(some, plan.keys(owner, part), [&](const CallBlock& block) {
          const double flops = 2.0 * static_cast<double>(block.queries.size * block.keys.size) *
                               static_cast<double>((packed.d + packed.d_v) * packed.per_kv());
          const auto most = static_cast<Index>(piece_flops * thread_count(context.threads) / std::max(flops, 1.0)) + 1;
          for (Index h = 0; h < packed.n_kv_heads; h += most) {
            visit(own, part, block, HeadRange{h, std::min(most, packed.n_kv_heads - h)});
            poke();
          }
        });
      }
    }
  }
}

}  // namespace heed::detail
