#pragma once
#include <algorithm>
#include <cstddef>
#include <vector>

#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
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
/// from there, while those of step t - 1 are computed on. Parts that a rank does not need are not sent to it. It holds
/// what two ranks own beside a copy of its own, never all keys.
/// Liu et al. 2023 hand blocks on from neighbour to neighbour: as many bytes. Straight from their owner they need not
/// pass through ranks that do not see them.
template <class S>
class RingKeys {
 public:
  /// Room for n_own rows of keys and values, as wide as all heads of `packed`. Nothing is allocated after.
  void reserve(const Ranks& ranks, Index n_own, const PackedHeads& packed) {
    packed_ = packed;
    n_own_ = n_own;
    const auto numbers = static_cast<std::size_t>(n_own * row_numbers());
    for (std::size_t b = 0; b < (ranks.size() > 1 ? 3 : 1); ++b) buffers_[b].resize(numbers);
  }
  /// Copies the rank's own rows.
  void pack(const RingPlan& plan, Index rank, const ConstView<S>& k, const ConstView<S>& v) {
    for (int part = 0; part < ring_parts; ++part) {
      const Index first = plan.first_key_row(part), n = plan.keys(rank, part).size;
      S* to = at(plan, 0, part);
      for (const ConstView<S>* m : {&k, &v}) {
        for (Index i = 0; i < n; ++i) {
          for (Index c = 0; c < m->cols; ++c) *to++ = (*m)(first + i, c);
        }
      }
    }
  }
  /// Sends own parts and receives others for step t >= 1.
  void begin(const Ranks& ranks, const RingPlan& plan, Index t, Transfers& transfers) {
    const int to = ranks.behind(t), from = ranks.behind(-t);
    for (int part = 0; part < ring_parts; ++part) {
      const int tag = static_cast<int>(t % 1024) * ring_parts + part;
      if (plan.needs(ranks.rank(), from, part)) transfers.receive(at(plan, t, part), bytes(plan, part), from, tag);
      if (plan.needs(to, ranks.rank(), part)) transfers.send(at(plan, 0, part), bytes(plan, part), to, tag);
    }
  }
  /// The rows of a part in step t.
  PackedRows<S> rows(const RingPlan& plan, Index t, int part) {
    const Index n = plan.keys(0, part).size, k_cols = packed_.n_kv_heads * packed_.d,
                v_cols = packed_.n_kv_heads * packed_.d_v;
    const S* from = at(plan, t, part);
    return {{from, n, k_cols, k_cols, 1}, {from + n * k_cols, n, v_cols, v_cols, 1}, packed_};
  }

 private:
  Index row_numbers() const { return packed_.n_kv_heads * (packed_.d + packed_.d_v); }
  S* at(const RingPlan& plan, Index t, int part) {
    return buffers_[static_cast<std::size_t>(t == 0 ? 0 : 1 + t % 2)].data() + plan.first_key_row(part) * row_numbers();
  }
  std::size_t bytes(const RingPlan& plan, int part) const {
    return static_cast<std::size_t>(plan.keys(0, part).size * row_numbers()) * sizeof(S);
  }

  PackedHeads packed_;
  Index n_own_ = 0;
  std::vector<S> buffers_[3];
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
