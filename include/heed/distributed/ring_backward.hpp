#pragma once
#include <new>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/block_sums.hpp"
#include "heed/distributed/ring.hpp"
#include "heed/distributed/ring_attend.hpp"
#include "heed/distributed/ring_bias.hpp"
#include "heed/distributed/ring_gradients.hpp"
#include "heed/engine/gradient_call.hpp"
#include "heed/engine/run_backward.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/exact/backward_operands.hpp"
#include "heed/exact/multi_head.hpp"
#include "heed/exact/run_method.hpp"

namespace heed::detail {

/// What one rank's backward pass over a ring works on.
template <class S, class Out>
struct RingBackward {
  using T = Accumulator<S>;
  using Call = GradientCall<S, S>;

  const RingCall<S>& call;
  RingPlan plan;
  Index rank;
  BackwardOperands<S, Out> in;  // rows of this rank
  const BackwardOptions& backward;
  View<T> d_q;  // sums
  T* means;     // n_heads x rows of this rank
  const RingBiasSums<T>& bias;

  /// One head's queries `some`, which stand from row `row` on, without keys.
  Call head(Index h, Index row, Index n) const {
    const PackedHeads& packed = call.packed;
    Call one{};
    one.q = rows_of(in.q, row, n).columns(h * packed.d, packed.d);
    one.known_lse = entry(in.lse.data, row * in.lse.row_stride + h * in.lse.col_stride);
    one.known_lse_stride = in.lse.row_stride;
    one.head = h;
    one.d_out = rows_of(in.d_out, row, n).columns(h * packed.d_v, packed.d_v);
    one.v.cols = packed.d_v;
    one.d_q = d_q.rows_from(row, n).columns(h * packed.d, packed.d);
    one.mean = means + h * in.q.rows + row;
    return one;
  }

  /// means[i] of all heads: d_out_i . out_i - d_lse_i. Rows of padding get none.
  void find_means() const {
    for (int part = 0; part < ring_parts; ++part) {
      const Index row = plan.first_query_row(part), n = plan.queries(rank, part).size;
      for (Index h = 0; h < call.packed.n_heads && n > 0; ++h) {
        const Call one = head(h, row, n);
        const BiasView d_lse = backward.d_lse.given() ? backward.d_lse.of_rows(row, n) : BiasView();
        row_means(one, rows_of(in.out, row, n).columns(h * call.packed.d_v, call.packed.d_v), d_lse,
                  means + h * in.q.rows + row);
      }
    }
  }

  /// Adds what the pairs of a block and some heads give to d_q and to the sums of its keys and values.
  template <class Method>
  void add(const CallBlock& block, int own, const PackedRows<S>& rows, const GradientRows<T>& sums, Index first_key,
           const HeadRange& some, const Method& method, const Context& context) const {
    const PackedHeads& packed = call.packed;
    Workspace::Frame frame(*context.workspace);
    const Index first = some.first * packed.per_kv(), n_calls = some.count * packed.per_kv();
    const Index row = plan.first_query_row(own) + block.queries.first - plan.queries(rank, own).first;
    const Index key = block.keys.first - first_key;
    Call* calls = frame.take<Call>(n_calls);
    for (Index c = 0; c < n_calls; ++c) {
      const Index h = first + c, kv = h / packed.per_kv();
      Call* one = new (calls + c) Call(head(h, row, block.queries.size));
      const KeyRows<S> keys = rows.of_head(kv).rows(key, block.keys.size);
      one->k = keys.k;
      one->v = keys.v;
      one->d_bias = bias.part(h, row, block.queries.size, block.keys);
      one->d_k = sums.d_k.rows_from(key, block.keys.size).columns(kv * packed.d, packed.d);
      one->d_v = sums.d_v.rows_from(key, block.keys.size).columns(kv * packed.d_v, packed.d_v);
    }
    make_split_room(std::span<Call>(calls, static_cast<std::size_t>(n_calls)), frame);
    const std::span<const Call> all(calls, static_cast<std::size_t>(n_calls));
    const auto of_block = method_of_block(method, block);
    using Run = MethodRun<std::remove_cvref_t<decltype(of_block)>>;
    Run run(of_block, frame);
    run.prepare(all, packed.per_kv(), block.options, context);
    run.visit_pairs(all, packed.per_kv(),
                    [&](const Pairs& pairs, std::span<const Call> heads, Index share, const auto& mod) {
                      run_backward(pairs, heads, share, block.options, mod, context);
                    });
  }

  /// The gradients of sinks by the queries of this rank.
  template <class ScoreMod>
  void sinks(T* d_sinks) const {
    for (Index h = 0; h < call.packed.n_heads; ++h) {
      d_sinks[h] = 0;
      for (int part = 0; part < ring_parts; ++part) {
        Call one = head(h, plan.first_query_row(part), plan.queries(rank, part).size);
        one.k.cols = call.packed.d;
        d_sinks[h] += gradient_of_sink<ScoreMod>(one, call.real.options);
      }
    }
  }
};

}  // namespace heed::detail
