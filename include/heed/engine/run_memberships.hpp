#pragma once
#include <algorithm>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/tile_list.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/detail/bf16_operands.hpp"
#include "heed/engine/detail/membership_panel.hpp"
#include "heed/engine/detail/softmax_engine.hpp"
#include "heed/engine/detail/tiling.hpp"
#include "heed/engine/detail/widened_operands.hpp"
#include "heed/engine/pair_rule.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Sums over the memberships of pairs, column after column: of query i in column c at of_queries[c * n_q + i], of key j
/// at of_keys[c * n_k + j]. Null: not wanted.
template <class T>
struct MembershipSums {
  T* of_queries = nullptr;
  T* of_keys = nullptr;
};

/// What thread and task of run_memberships work with.
template <class Operands, class Call>
class MembershipWorker {
 public:
  using T = typename Operands::Sum;
  using Panel = MembershipPanel<Operands, Call>;
  static constexpr Index share = 6;  ///< panels that visit a tile: what they hold stays in the second level cache

  MembershipWorker(Scratch& scratch, Index keys, Index d, Index d_v, Isa isa)
      : lanes_(tile_kernels<T>(isa).lanes),
        width_(lanes_ * tile_kernels<T>(isa).vectors),
        scored_(scratch, keys, d, 0, isa),
        values_(scratch, keys, d_v, 0, isa),
        room_(scratch, keys, tile_kernels<T>(isa).vectors, lanes_),
        panels_(scratch.make(share, [&](Scratch& own) { return Panel(own, room_, d, d_v, isa); })) {}

  /// The pairs of `queries` and `keys`; sums of both, and of nobody else, go to `of_queries` and `of_keys`.
  void visit(const Call& call, const TokenSet& queries, const TokenSet& keys, const KeyBounds& bounds,
             const AttentionOptions& options, const PairRule& rule, bool bounded, T* of_queries, T* of_keys) {
    const MembershipWants wants{bounded, of_queries != nullptr, of_keys != nullptr};
    for (Index at = 0; at < queries.size; at += share * width_) {
      const TokenSet some = queries.part(at, std::min(share * width_, queries.size - at));
      const Index n = (some.size + width_ - 1) / width_;
      for (Index p = 0; p < n; ++p)
        panels_[p].begin(call, some.part(p * width_, std::min(width_, some.size - p * width_)), bounds, options, rule,
                         wants);
      // Ranges of consecutive queries do not decrease.
      const Index from = tokens_below(keys, bounds.of(some[0]).low);
      const Index end = tokens_below(keys, bounds.of(some[some.size - 1]).high);
      for (Index k = from; k < end; k += largest_tile)
        visit_tile(call, keys.part(k, std::min(largest_tile, end - k)), n, of_keys);
      for (Index p = 0; p < n && wants.queries; ++p) panels_[p].write(of_queries);
    }
  }

 private:
  void visit_tile(const Call& call, const TokenSet& tile, Index n_panels, T* of_keys) {
    const auto no_rows = [](const auto& view) { return view.columns(0, 0); };
    scored_.load(call.k, no_rows(call.k), tile, share);
    values_.load(call.v, no_rows(call.v), tile, share);
    std::fill_n(room_.columns, tile.size * lanes_, T(0));
    for (Index p = 0; p < n_panels; ++p) {
      if (panels_[p].low() <= tile[tile.size - 1] && panels_[p].high() > tile[0])
        panels_[p].add_keys(scored_, values_, tile);
    }
    for (Index j = 0; of_keys != nullptr && j < tile.size; ++j) {
      T sum = 0;
      for (Index i = 0; i < lanes_; ++i) sum += room_.columns[j * lanes_ + i];
      of_keys[tile[j]] += sum;
    }
  }

  Index lanes_, width_;
  typename Operands::Tile scored_;
  typename Panel::Rows values_;
  MembershipRoom<T> room_;
  Panel* panels_;
};

/// What keys would be to queries, and queries to keys, if pairs were members of what the queries see: see
/// MembershipPanel for the sums. Group g of `tiles` has one segment; its sums go to column columns[g], in which no two
/// groups share a query, where sums of queries are wanted, or a key, where those of keys are. `rule` leaves pairs out.
/// Sums must hold zeros for the tokens of the tiles.
///
/// Cost    2 (d + d_v) flops and one exponential per kept pair: 2 d in Phase::backward_scores, 2 d_v in
///         Phase::backward_values.
/// Threads a group is a task, so sums do not depend on context.threads. The context brings a workspace.
template <class Operands, class Call>
void run_membership_groups(const TileList& tiles, const Index* columns, const PairRule& rule, const Call& call,
                           const AttentionOptions& options, bool bounded,
                           const MembershipSums<typename Call::Sum>& sums, Workspace& workspace, int threads) {
  const Index n_q = call.q.rows, n_k = call.k.rows;
  const KeyBounds bounds(options.mask, n_q, n_k);
  using Worker = MembershipWorker<Operands, Call>;
  Workspace::Frame frame(workspace);
  for_each_task(
      tiles.n_groups(), threads, frame,
      [&](Scratch& scratch) { return Worker(scratch, tile_size(tiles), call.k.cols, call.v.cols, active_isa()); },
      [&](Worker& worker, Index g) {
        worker.visit(call, tiles.queries(g), tiles.keys(g, 0), bounds, options, rule, bounded,
                     entry(sums.of_queries, columns[g] * n_q), entry(sums.of_keys, columns[g] * n_k));
      });
}

/// The same with the operands that the forward pass used, so that scores are those behind its lse.
template <class Call>
void run_memberships(const TileList& tiles, const Index* columns, const PairRule& rule, const Call& call,
                     const AttentionOptions& options, bool bounded, const MembershipSums<typename Call::Sum>& sums,
                     const Context& context) {
  if (tiles.n_groups() == 0) return;
  const double work = tile_pairs(tiles) * static_cast<double>(call.k.cols + call.v.cols);
  const int threads = threads_for(work, 2e5, thread_count(context.threads));
  if (context.flops != nullptr) {
    const double pairs = kept_pairs(tiles, rule, options.mask, call.q.rows, call.k.rows, call.head);
    context.flops->add_products(Phase::backward_scores, 2.0 * pairs * static_cast<double>(call.k.cols));
    context.flops->add_products(Phase::backward_values, 2.0 * pairs * static_cast<double>(call.v.cols));
    context.flops->add_exponentials(pairs);
  }
  if constexpr (Bf16Operands<Call>::serves) {
    if (bf16_kernels(active_isa()) != nullptr) {
      run_membership_groups<Bf16Operands<Call>>(tiles, columns, rule, call, options, bounded, sums, *context.workspace,
                                                threads);
      return;
    }
  }
  run_membership_groups<WidenedOperands<Call>>(tiles, columns, rule, call, options, bounded, sums, *context.workspace,
                                               threads);
}

}  // namespace heed::detail
