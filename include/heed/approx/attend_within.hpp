#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/count.hpp"
#include "heed/engine/tolerance_decode.hpp"
#include "heed/exact/key_value_cache.hpp"

namespace heed {

/// How attend_within answered a head's query.
enum class TolerancePath {
  scan,           ///< a scan in 4 bits, and keys in full where it pays
  probe,          ///< all keys in 8 bits, and every level beside them to choose by
  few_keys,       ///< all keys in 8 bits: the query sees fewer than 2048, or more that are narrow
  not_tolerant,   ///< all keys: the tolerance is below what 8 bits, any level, or this query's own budget reach
  other_options,  ///< all keys: options the scan does not know
};

/// What attend_within returns. out: n_q x (n_heads * d_v); the others n_q x n_heads.
template <class S>
struct ToleranceResult {
  Matrix<S> out;
  Matrix<Accumulator<S>> lse;
  Matrix<double> reported;           ///< |out - exact| / |out| of a head's row, estimated: see attend_within
  double visited = 0;                ///< keys read in full, of those seen
  std::vector<TolerancePath> paths;  ///< row by row

  TolerancePath path(Index query, Index head) const {
    return paths[static_cast<std::size_t>(query * reported.cols() + head)];
  }
};

namespace detail {

/// True where the scan knows all of the options: scale, sinks and what positions hide.
inline bool scan_knows(const AttentionOptions& options) {
  const Mask& mask = options.mask;
  return !options.softcap && !mask.allowed.given() && !mask.bias.given() && !mask.keys.given() &&
         !mask.alibi_slope.given() && mask.sequence_offsets.empty() && !has_lengths(mask);
}

/// Options of query i alone, for those the scan knows.
inline AttentionOptions options_of_query(AttentionOptions options, Index i, Index n_q, Index n_k) {
  Mask& mask = options.mask;
  const Index shift = mask.causal == Causal::bottom_right ? n_k - n_q : mask.shift.value_or(0);
  mask.shift = shift + i;
  if (mask.causal != Causal::none) mask.causal = Causal::top_left;
  return options;
}

/// Keys that queries read in full, and those they see, counted for each head.
struct ToleranceKeys {
  double read = 0, seen = 0;
  double visited() const { return seen > 0 ? read / seen : 1; }
};

/// Answers the queries of a call one by one, and keeps what probes say in `probes`, one a head.
template <class Call>
class ToleranceCalls {
 public:
  ToleranceCalls(double tolerance, std::vector<ToleranceProbes>& probes, const AttentionOptions& options,
                 const PackedHeads& packed, const Context& context)
      : tolerance_(tolerance), probes_(probes), options_(options), packed_(packed), context_(context) {}

  /// Query i, whose calls have one row. `found`: reports and paths, one a head. Returns keys read in full and seen.
  ToleranceKeys run(std::span<Call> calls, Index i, Index n_q, double* reported, TolerancePath* paths) const {
    bool knows = true;
    for (Index h = 0; h < packed_.n_heads; ++h)
      knows = knows && !ScoreRule<float>(options_, packed_.d, h, false).adjusts_all;
    const Index n_k = calls.front().k.rows;
    const AttentionOptions own = options_of_query(options_, i, n_q, n_k);
    const Int8Rows& tokens = *calls.front().k.tokens;
    using Decode = ToleranceDecode<Call>;
    const typename Decode::Reach reach(tokens, KeyBounds(own.mask, 1, n_k).of(0));
    const double seen = static_cast<double>(reach.high - reach.low);
    ToleranceKeys keys{0, seen * static_cast<double>(packed_.n_heads)};
    Workspace::Frame frame(*context_.workspace);
    Call* scanned = frame.take<Call>(packed_.n_heads);
    Call* whole = frame.take<Call>(packed_.n_heads);
    ToleranceWish* wishes = frame.take<ToleranceWish>(packed_.n_heads);
    Index n_scanned = 0, n_whole = 0;
    for (Index h = 0; h < packed_.n_heads; ++h) {
      ToleranceProbes& head = probes_[static_cast<std::size_t>(h)];
      const bool can_scan = knows && reach.n_pages() > 0;
      const ToleranceWish wish{head.level_for(tolerance_), can_scan && head.is_due(n_k)};
      const bool tolerant = can_scan && tolerance_ > 0 && pays_over(seen) && wish.level < ToleranceLevels::n_levels;
      const Call& call = calls[static_cast<std::size_t>(h)];
      paths[h] = wish.is_probe ? TolerancePath::probe : tolerant ? TolerancePath::scan : why_all(knows, seen);
      if (wish.is_probe || tolerant) {
        new (wishes + n_scanned) ToleranceWish(wish);
        new (scanned + n_scanned++) Call(call);
      } else {
        reported[h] = can_scan || (knows && !reach.cuts(tokens)) ? head.floor() : head.unprobed_floor();
        head.count_query();
      }
      if (!tolerant || wish.is_probe) new (whole + n_whole++) Call(call);
    }
    read_all({whole, static_cast<std::size_t>(n_whole)}, own);
    keys.read += seen * static_cast<double>(n_whole);
    if (n_scanned == 0) return keys;
    const auto n = static_cast<std::size_t>(n_scanned);
    const std::span<ToleranceAnswer> answers(frame.take<ToleranceAnswer>(n_scanned), n);
    for (ToleranceAnswer& answer : answers) new (&answer) ToleranceAnswer;
    Decode({scanned, n}, packed_.per_kv(), reach, own, {wishes, n}, answers, *context_.workspace,
           thread_count(context_.threads))
        .run();
    n_whole = 0;
    for (std::size_t s = 0; s < n; ++s) {
      const Index h = scanned[s].head;
      const ToleranceAnswer& answer = answers[s];
      reported[h] = learn(probes_[static_cast<std::size_t>(h)], wishes[s], answer, n_k);
      const bool serves = answer.found && (wishes[s].is_probe || !(reported[h] > most_past * tolerance_));
      if (!serves) {
        paths[h] = TolerancePath::not_tolerant;
        reported[h] = answer.floor;
        new (whole + n_whole++) Call(scanned[s]);
      }
      if (!wishes[s].is_probe) keys.read += serves ? answer.keys_read : seen;
      count(answer, reach);
      // Where all keys are read, that counts tokens.
      if (context_.flops != nullptr && serves && !wishes[s].is_probe) count_tokens(*context_.flops, own.mask, n_k, 1);
    }
    read_all({whole, static_cast<std::size_t>(n_whole)}, own);
    return keys;
  }

 private:
  static constexpr double most_past = 2;  // an answer whose report is further past the tolerance is read in full
  // Below, a scan and what comes with it cost as much as reading all: 2048 keys, and as many numbers as they have with
  // keys and values of 64 columns.
  bool pays_over(double keys) const {
    return keys >= 2048 && keys * static_cast<double>(packed_.d + packed_.d_v) >= 2048 * 128;
  }

  TolerancePath why_all(bool knows, double seen) const {
    if (!knows) return TolerancePath::other_options;
    return pays_over(seen) ? TolerancePath::not_tolerant : TolerancePath::few_keys;
  }
  // In 8 bits, as attend does.
  void read_all(std::span<const Call> calls, const AttentionOptions& options) const {
    if (calls.empty()) return;
    const Index shared = static_cast<Index>(calls.size()) == packed_.n_heads ? packed_.per_kv() : 1;
    attend_all_heads(ExactAttention<>{}, calls, shared, options, context_);
  }

  double learn(ToleranceProbes& head, const ToleranceWish& wish, const ToleranceAnswer& answer, Index n_k) const {
    double report = answer.floor;
    if (wish.is_probe) {
      head.add(answer.probe, n_k);
    } else if (!answer.found) {
      head.alarm();
    } else {
      report = std::hypot(head.report_of(wish.level, answer.budget), answer.floor);
      if (report > tolerance_) head.alarm();
    }
    head.count_query();
    return report;
  }
  void count(const ToleranceAnswer& answer, const typename ToleranceDecode<Call>::Reach& reach) const {
    if (context_.flops == nullptr) return;
    const double pages = static_cast<double>(reach.n_pages()), scanned = answer.pages * Int8Layout::keys;
    const auto d = static_cast<double>(packed_.d), d_v = static_cast<double>(packed_.d_v);
    context_.flops->add_products(Phase::scores, 2 * d * (scanned + answer.keys_read));
    context_.flops->add_products(Phase::values, 2 * d_v * answer.keys_read);
    context_.flops->add_products(Phase::far_field, 2 * pages * (2 * d + 2 * d_v));
    context_.flops->add_exponentials(scanned + answer.keys_read);
  }

  double tolerance_;
  std::vector<ToleranceProbes>& probes_;
  const AttentionOptions& options_;
  const PackedHeads& packed_;
  const Context& context_;
};

inline void check_tolerance(double tolerance) {
  if (!(tolerance >= 0 && std::isfinite(tolerance)))
    throw OptionError(message("tolerance = ", tolerance, " must be >= 0 and finite"));
}

/// Queries in float: what probes learn is then of levels, and not of how the caller stores outputs.
template <class SQ>
Matrix<float> queries_in_float(const ConstView<SQ>& q) {
  Matrix<float> queries(q.rows, q.cols);
  for (Index i = 0; i < q.rows; ++i) {
    for (Index c = 0; c < q.cols; ++c) queries(i, c) = static_cast<float>(q(i, c));
  }
  return queries;
}

/// The same answer with outputs rounded to the storage of the caller, into `out`: nothing is allocated where it has
/// their size.
template <class S>
ToleranceResult<S> rounded_answer(ToleranceResult<float> found, Matrix<S> out = {}) {
  if constexpr (std::is_same_v<S, float>) {
    return found;
  } else {
    out = found.out.template cast<S>();
    return {std::move(out), std::move(found.lse), std::move(found.reported), found.visited, std::move(found.paths)};
  }
}

/// attend_within of checked heads and tolerance; fills `result` but for `visited`.
inline ToleranceKeys attend_heads_within(double tolerance, const Matrix<float>& q, KeyValueCache<Int8>& cache,
                                         const PackedHeads& packed, const AttentionOptions& options,
                                         const Context& context, ToleranceResult<float>& result) {
  using Call = HeadCall<float, Int8, float>;
  const Index n_q = q.rows();
  auto made = result_of_heads<float, ExactAttention<>>(n_q, packed.n_heads, packed.d_v);
  result.reported = Matrix<double>::Zero(n_q, packed.n_heads);
  result.paths.resize(static_cast<std::size_t>(n_q * packed.n_heads));
  const WithWorkspace inner(context);
  const auto out = output_view_of(made.out);
  const auto lse = output_view_of(made.lse);
  Workspace::Frame frame(inner.workspace());
  const CachedTokens<Int8> tokens(cache, frame);
  std::vector<ToleranceProbes>& probes = cache.probes(packed.n_heads);
  ToleranceKeys all;
  if (!scan_knows(options)) {
    attend_cached_heads(out, lse, q, cache, packed, options, ExactAttention<>{}, inner.context());
    result.paths.assign(result.paths.size(), TolerancePath::other_options);
    for (Index h = 0; h < packed.n_heads; ++h)
      result.reported.col(h).setConstant(probes[static_cast<std::size_t>(h)].unprobed_floor());
    const KeyBounds bounds(options.mask, n_q, cache.size());
    for (Index i = 0; i < n_q; ++i) all.seen += static_cast<double>(bounds.of(i).high - bounds.of(i).low);
    all.seen *= static_cast<double>(packed.n_heads);
    all.read = all.seen;
  } else {
    const ToleranceCalls<Call> run(tolerance, probes, options, packed, inner.context());
    for (Index i = 0; i < n_q; ++i) {
      Workspace::Frame row(inner.workspace());
      ConstView<float> own = view_of(q);
      own.data = entry(own.data, i * own.row_stride);
      own.rows = 1;
      const auto calls = calls_over<Call>(tokens, own, out.rows_from(i, 1), lse.rows_from(i, 1), packed, row);
      const ToleranceKeys keys =
          run.run(calls, i, n_q, result.reported.data() + i * packed.n_heads, result.paths.data() + i * packed.n_heads);
      all.read += keys.read;
      all.seen += keys.seen;
    }
  }
  result.out = std::move(made.out);
  result.lse = std::move(made.lse);
  return all;
}

}  // namespace detail

/// Decoding to a tolerance: softmax attention of new queries over an 8-bit cache, as close to exact attention over the
/// tokens that were appended as asked, with fewer bytes read. A head's query looks at all keys in 4 bits; what those it
/// does not read in full add comes of their pages' mean values, corrected by the regression of values on scores; keys
/// whose share of the error is too large are read in 8 bits. Pages of 32 keys whose means and variances say that no key
/// of theirs can matter are not looked at, where they are more than half of all: those statistics say what they weigh.
/// How far, every head learns from probes, queries answered from all keys and at every level: the first, then ever
/// fewer, at last one in 61, and anew where tokens have become a quarter more. They change the cache's memory of them,
/// which is why it is not const; its tokens stay as they are. A key that is unlike its page in the one direction that a
/// query turns to may be missed, and not be reported, until the next probe.
///
/// All keys are read in 8 bits where that is as cheap (fewer than 2048 keys of d = 64), where the tolerance asks for
/// it, and with options the scan does not know (softcap, bias, boolean masks, ALiBi, absent keys, lengths, packed
/// sequences). The result says which: `path(query, head)`.
///
/// Shapes  as attend over a cache; queries are answered one after another, so that this is for decoding.
/// Returns out, lse; reported: the relative error of each head and query, estimated, so that the true one is at most
///         1.5 times that for 95% of them on real activations. It may be past the tolerance, by a factor of 2 at most
///         where the query was scanned, and then probes come sooner. Where all keys are read it is the error of 8 bits:
///         as it was in the head's probes, where the query was not scanned, and at least .012 where it cannot be a
///         probe: with options the scan does not know, and where it sees no whole page. Rounding is taken to be
///         independent from key to key: of thousands of keys of two kinds, alike among themselves, it is not, and the
///         truth was up to .06 in such inputs. visited: the share of keys read in full.
/// Errors  as attend; OptionError for a tolerance that is negative or not finite.
/// Cost    a scan reads a third of the bytes of an 8-bit cache, the statistics a twelfth; 2 d flops a key looked at,
///         2 (d + d_v) a key read, and 4 (d + d_v) a page.
/// Threads over heads and chunks of pages; results do not depend on context.threads.
template <class Q>
auto attend_within(double tolerance, const Q& q, KeyValueCache<Int8>& cache, const AttentionOptions& options = {},
                   const Context& context = {}) -> ToleranceResult<detail::OperandScalar<Q>> {
  const detail::PackedHeads packed = detail::check_cached_heads(q, cache, options, ExactAttention<>{}, context);
  detail::check_tolerance(tolerance);
  ToleranceResult<float> found;
  found.visited = detail::attend_heads_within(tolerance, detail::queries_in_float(view_of(q)), cache, packed, options,
                                              context, found)
                      .visited();
  return detail::rounded_answer<detail::OperandScalar<Q>>(std::move(found));
}

}  // namespace heed
