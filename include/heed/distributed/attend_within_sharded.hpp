#pragma once
#include <cmath>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include <mpi.h>

#include "heed/approx/attend_within.hpp"
#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/distributed/agreement.hpp"
#include "heed/distributed/attend_sharded.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/rank_outputs.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/distributed/shards.hpp"
#include "heed/engine/softmax_sums.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/engine/tolerance_levels.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

namespace detail {

/// What one shard answers to a tolerance, in float.
struct ShardAnswer {
  ToleranceResult<float> found;
  ToleranceKeys keys;
};

/// An 8-bit cache that is read to a tolerance. Sinks are left to the merge.
struct ToleranceShard : AnsweringShard {
  static constexpr const char* call = "attend_within_sharded";
  double tolerance;
  KeyValueCache<Int8>& cache;
  ShardAnswer& answer;

  ToleranceShard(double given_tolerance, KeyValueCache<Int8>& given_cache, ShardAnswer& to)
      : tolerance(given_tolerance), cache(given_cache), answer(to) {}

  void agree(Agreement& agreement) const { agreement.same_number("tolerance", tolerance); }

  template <class SQ, class Method, class T>
  void sum(const ConstView<SQ>& q, const ShardedKeys&, const PackedHeads& packed, const CallBlock& block,
           std::span<SoftmaxSums<T>> sums, const Method&, const Context& context) const {
    AttentionOptions options = block.options;
    options.sinks = PerHead();
    answer.keys = attend_heads_within(tolerance, queries_in_float(q), cache, packed, options, context, answer.found);
    sums_of_answer(answer.found, packed, sums);
  }
};

/// What a shard adds to the squared error of a row of one head: the sums of the formula of attend_within_sharded.
struct ErrorTerms {
  double of_outputs = 0;  ///< w r |out_s|
  double of_weights = 0;  ///< (w r |out_s - out|)^2
};

/// Of row i of head h, of the answer of this rank's shard and the merged one.
inline ErrorTerms error_terms(const ToleranceResult<float>& shard, const ToleranceResult<float>& all, Index i, Index h,
                              Index d_v) {
  if (is_minus_infinity(shard.lse(i, h))) return {};
  const double w = std::exp(static_cast<double>(shard.lse(i, h)) - static_cast<double>(all.lse(i, h)));
  double own = 0, apart = 0;
  for (Index c = h * d_v; c < (h + 1) * d_v; ++c) {
    const double x = static_cast<double>(shard.out(i, c)), y = static_cast<double>(all.out(i, c));
    own += x * x;
    apart += (x - y) * (x - y);
  }
  const double error = w * shard.reported(i, h);
  return {error * std::sqrt(own), error * error * apart};
}

/// The relative error of a row of one head, from the terms of all shards.
inline double merged_report(const ErrorTerms& terms, const ToleranceResult<float>& all, Index i, Index h, Index d_v) {
  const double square = terms.of_outputs * terms.of_outputs + terms.of_weights;
  if (is_zero(square)) return ToleranceProbes::least_floor;  // no key was seen, or all values are 0
  double size = 0;
  for (Index c = h * d_v; c < (h + 1) * d_v; ++c) {
    const double x = static_cast<double>(all.out(i, c));
    size += x * x;
  }
  return std::sqrt(square / size);
}

}  // namespace detail

/// `attend_within` over 8-bit caches that lie in shards, as attend_sharded has them: every rank decodes over its own
/// keys to the tolerance, and every rank gets the merged answer. With w_s = exp(lse_s - lse) the weight of shard s,
///   out = sum_s w_s out_s,
///   reported^2 = ((sum_s w_s r_s |out_s|)^2 + sum_s (w_s r_s |out_s - out|)^2) / |out|^2,
/// r_s being what the shard reports. The first sum is the error of the outputs, |sum_s w_s e_s| <= sum_s w_s |e_s|; the
/// second that of w_s: a shard's sum of weights comes of the same keys as its output, and errs by as much, relatively.
/// Of one shard without a sink reported = r_1.
///
/// Independent errors of outputs would add in squares, to r / sqrt(P) of P shards of equal weight. They
/// are added as they are, for shards err alike where a text repeats, and in the rounding of the query: with 592 tokens
/// of a trained model repeated over 4 shards the true error was within 1.5 times the sum in squares for 86% of heads
/// and queries, and within 1.5 times this one for 99%. Where outputs of shards cancel, so that |out| is smaller than
/// the sum of w_s |out_s|, reported may pass the tolerance though each shard meets it.
///
/// Shapes  q: n_q x (n_heads * d), the same numbers on every rank; shards and positions as attend_sharded.
/// Returns out, lse, reported as attend_within, and visited, the share of keys read in full by all ranks, of those they
///         see: the same on every rank. paths: what this rank's shard did. A shard in which a query sees fewer than
///         2048 keys reads them all.
/// Empty   a query with no kept key gets out = 0, lse = -inf, or its sink, and reported = .003.
/// Bits    the same on every rank and in every run that decodes the same queries in the same order, for any
///         context.threads. They are not those of one process, for two reasons: the first 4 and the newest 64 to 95
///         tokens of each shard stay in float, so that pages begin elsewhere; and each shard probes for itself, and
///         chooses its own levels. On one rank out has the bits of attend_within where neither a sink nor lengths are
///         given: sinks are merged last, and lengths are cut before a shard is asked, so that it may scan.
/// Errors  as attend_sharded and attend_within, and OptionError where tolerances differ: on every rank the same, before
///         the first transfer. Where a rank fails later its error is thrown on all; probes of the other caches may have
///         learnt from the call. Mask::sequence_offsets is refused.
/// Cost    that of attend_within on the rank with the most keys; what attend_sharded sends, and 2 numbers in double a
///         query and head in as many steps more. A shard of small weight works as hard as one of large weight.
/// Threads as attend_within; one thread of each rank calls, and it alone calls MPI.
/// Source  the merge: Rabe and Staats 2021; the combined report is ours.
template <class Q>
auto attend_within_sharded(MPI_Comm comm, double tolerance, const Q& q, KeyValueCache<Int8>& cache,
                           const AttentionOptions& options = {}, const Context& context = {})
    -> ToleranceResult<detail::OperandScalar<Q>> {
  using S = detail::OperandScalar<Q>;
  static_assert(std::is_same_v<Accumulator<S>, float>,
                "heed: an 8-bit cache sums in float: cast double queries to float");
  const detail::Ranks ranks(comm);
  ToleranceResult<float> result;  // rounded to the storage of q once, when all is merged
  Matrix<S> rounded;
  detail::ShardAnswer answer;
  std::vector<double> terms, room;  // two of each row and head; then keys read and seen
  const Index n_q = q.rows();
  const auto outputs_of = [&](const detail::PackedHeads& packed) {
    const Index n = n_q * packed.n_heads;
    result.out.resize(n_q, packed.n_heads * packed.d_v);
    result.lse.resize(n_q, packed.n_heads);
    result.reported.resize(n_q, packed.n_heads);
    result.paths.assign(static_cast<std::size_t>(n), TolerancePath::few_keys);
    terms.assign(static_cast<std::size_t>(2 * n + 2), 0.0);
    room.resize(terms.size());
    if constexpr (!std::is_same_v<S, float>) rounded.resize(n_q, packed.n_heads * packed.d_v);
    return detail::RankOutputs<float, float>{output_view_of(result.out), output_view_of(result.lse)};
  };
  const auto heads_of = [&] {
    detail::check_tolerance(tolerance);
    return detail::heads_over(q.cols(), cache);
  };
  detail::attend_any_shard(ranks, q, detail::ToleranceShard{tolerance, cache, answer}, cache.size(), heads_of,
                           outputs_of, options, ExactAttention<>{}, context);

  // Nothing is allocated from here on: every rank comes to the end.
  const Index n_heads = result.lse.cols(), d_v = n_heads > 0 ? result.out.cols() / n_heads : 0;
  const auto at = [&](Index i, Index h) { return static_cast<std::size_t>(2 * (i * n_heads + h)); };
  for (Index i = 0; i < answer.found.lse.rows(); ++i) {  // padding has not been asked
    for (Index h = 0; h < n_heads; ++h) {
      const detail::ErrorTerms own = detail::error_terms(answer.found, result, i, h, d_v);
      terms[at(i, h)] = own.of_outputs;
      terms[at(i, h) + 1] = own.of_weights;
      result.paths[at(i, h) / 2] = answer.found.path(i, h);
    }
  }
  terms[at(n_q, 0)] = answer.keys.read;
  terms[at(n_q, 0) + 1] = answer.keys.seen;
  detail::add_in_order(ranks, terms.data(), room.data(), static_cast<Index>(terms.size()));
  for (Index i = 0; i < n_q; ++i) {
    for (Index h = 0; h < n_heads; ++h) {
      const detail::ErrorTerms all{terms[at(i, h)], terms[at(i, h) + 1]};
      result.reported(i, h) = detail::merged_report(all, result, i, h, d_v);
    }
  }
  result.visited = detail::ToleranceKeys{terms[at(n_q, 0)], terms[at(n_q, 0) + 1]}.visited();
  return detail::rounded_answer<S>(std::move(result), std::move(rounded));
}

}  // namespace heed
