#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <span>
#include <type_traits>
#include <vector>

#include <Eigen/Core>

#include "heed/core/check.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"

namespace heed {

namespace detail {

/// What the mask says about one pair. Written pair by pair from the definitions and sharing nothing with the engine's
/// tile masks, so that neither can hide a mistake of the other.
struct ReferencePair {
  bool kept = false;
  Index ahead = 0;  ///< positions that key j lies after the aligned diagonal j = i + s; negative: before
};

/// First row and length of the sequence that holds `row`: all rows without offsets, none where no sequence holds it.
struct ReferenceSequence {
  Index number = 0;
  Index first = 0;
  Index length = 0;
};

inline ReferenceSequence reference_sequence(std::span<const Index> offsets, Index row, Index n_rows) {
  if (offsets.empty()) return {0, 0, n_rows};
  for (std::size_t b = 0; b + 1 < offsets.size(); ++b) {
    if (row >= offsets[b] && row < offsets[b + 1]) {
      return {static_cast<Index>(b), offsets[b], offsets[b + 1] - offsets[b]};
    }
  }
  return {-1, 0, 0};
}

inline ReferencePair reference_pair(const Mask& mask, Index i, Index j, Index n_q, Index n_k, Index head) {
  const auto key_offsets = mask.key_sequence_offsets.empty() ? mask.sequence_offsets : mask.key_sequence_offsets;
  const ReferenceSequence queries = reference_sequence(mask.sequence_offsets, i, n_q);
  const ReferenceSequence keys = reference_sequence(key_offsets, j, n_k);
  if (queries.number < 0 || queries.number != keys.number) return {};
  const Index real_queries = mask.query_lengths.empty() ? queries.length : mask.query_lengths[0];
  const Index real_keys = mask.key_lengths.empty() ? keys.length : mask.key_lengths[0];
  Index shift = mask.shift.value_or(0);
  if (mask.causal == Causal::bottom_right) shift = real_keys - real_queries;
  const Index ahead = (j - keys.first) - (i - queries.first + shift);
  bool kept = i - queries.first < real_queries && j - keys.first < real_keys;
  if (mask.keys.given() && mask.keys.at(0, j) == 0.0) kept = false;
  if (j >= mask.n_real_keys) kept = false;
  if (mask.causal != Causal::none && ahead > 0) kept = false;
  if (ahead < 0 && -ahead > mask.window_left) kept = false;
  if (ahead > 0 && ahead > mask.window_right) kept = false;
  if (mask.allowed.given() && mask.allowed.of_head(head, n_q).at(i, j) == 0.0) kept = false;
  if (mask.bias.given() && is_minus_infinity(mask.bias.of_head(head, n_q).at(i, j))) kept = false;
  return {kept, ahead};
}

/// False for a query that is padding: it has no sink either.
inline bool reference_query_is_real(const Mask& mask, Index i) {
  return mask.query_lengths.empty() || i < mask.query_lengths[0];
}

inline void check_reference_head(Index head) {
  if (checked_size(head, "head") < 0) throw OptionError(message("head = ", head, " must be >= 0"));
}

/// Heads that the options name: as many as have a number or rows of their own, and at least `head` + 1.
inline Index reference_heads(const AttentionOptions& options, Index n_q, Index head) {
  Index n_heads = head + 1;
  for (const PerHead* numbers : {&options.sinks, &options.mask.alibi_slope})
    n_heads = std::max(n_heads, numbers->size());
  for (const PairView* pairs :
       {static_cast<const PairView*>(&options.mask.allowed), static_cast<const PairView*>(&options.mask.bias)}) {
    n_heads = std::max(n_heads, pairs->n_heads());
    if (n_q > 0 && pairs->rows() % n_q == 0) n_heads = std::max(n_heads, pairs->rows() / n_q);
  }
  return n_heads;
}

/// True for a score that masks its pair. Scalars that do not convert to double have no such score.
template <class A>
bool reference_masks(const A& score) {
  if constexpr (std::is_convertible_v<A, double>) {
    return is_minus_infinity(static_cast<double>(score));
  } else {
    return false;
  }
}

/// What a bias adds: an entry past the largest float counts as that where sums are kept in float.
template <class A>
A reference_bias(double entry) {
  if constexpr (std::is_same_v<A, float>) {
    constexpr double largest = static_cast<double>(std::numeric_limits<float>::max());
    if (is_finite(entry)) return static_cast<float>(std::clamp(entry, -largest, largest));
  }
  return A(entry);
}

/// The score of a kept pair, in the order of AttentionOptions.
template <class A, class S, class ScoreMod>
A reference_score(const ConstView<S>& q, const ConstView<S>& k, const AttentionOptions& options, A scale, Index i,
                  Index j, Index ahead, const ScoreMod& score_mod, Index head) {
  using std::tanh;
  A score = A(0);
  for (Index c = 0; c < q.cols; ++c) score += static_cast<A>(q(i, c)) * static_cast<A>(k(j, c));
  score *= scale;
  if (options.softcap) score = A(*options.softcap) * tanh(score / A(*options.softcap));
  const BiasView& bias = options.mask.bias;
  if (bias.given()) score += reference_bias<A>(bias.of_head(head, q.rows).at(i, j));
  if (options.mask.alibi_slope.given()) {
    score -= A(options.mask.alibi_slope.of(head)) * A(static_cast<double>(ahead < 0 ? -ahead : ahead));
  }
  if constexpr (!std::is_same_v<ScoreMod, NoScoreMod>) score = static_cast<A>(score_mod(score, i, j));
  return score;
}

}  // namespace detail

/// The oracle: softmax attention in plain loops, one pair at a time, to judge every engine by.
/// s_ij = score_mod(softcap(scale * q_i . k_j) + bias_ij - slope * |i + s - j|), out_i = sum_j softmax_j(s_ij) v_j over
/// the kept keys j.
///
/// Shapes  q: n_q x d, k: n_k x d, v: n_k x d_v; returns out: n_q x d_v, lse: n_q (natural log).
///         Any scalar: half and bfloat16 are summed in float, any other type with arithmetic, exp, log, tanh in itself.
/// Options all of AttentionOptions, as they are for head `head`; `score_mod` (s, i, j) -> s gets rows of the call and
///         masks a pair by returning -inf.
/// Empty   a query with no kept key gets out = 0 and lse = -inf; with a sink, out = 0 and lse = the sink's logit.
/// Errors  ShapeError if cols(q) != cols(k) or rows(k) != rows(v), OptionError for options no method could run with.
///         NaN in a masked row of k or v is never read; NaN in a kept row stays in the rows that see it.
/// Cost    2 (d + d_v) flops and one exp per kept pair, slowly; memory n_k.
/// Threads const and re-entrant; runs on the caller's thread.
/// Source  Vaswani et al. 2017, section 3.2.1.
template <TokenMatrix Q, TokenMatrix K, TokenMatrix V, class ScoreMod = NoScoreMod>
AttentionResult<typename Q::Scalar> reference_attention(const Q& q_rows, const K& k_rows, const V& v_rows,
                                                        const AttentionOptions& options = {},
                                                        const ScoreMod& score_mod = {}, Index head = 0) {
  using std::exp;
  using std::log;
  using std::sqrt;
  using S = typename Q::Scalar;
  using A = Accumulator<S>;
  const ConstView<S> q = view_of(q_rows), k = view_of(k_rows), v = view_of(v_rows);
  detail::check_reference_head(head);
  const CallShape shape{q.rows, k.rows, q.cols, v.cols, detail::reference_heads(options, q.rows, head)};
  detail::check_attention<A>(q.cols, k.rows, k.cols, v.rows, shape, options);

  const A scale = options.scale ? A(*options.scale) : A(1) / sqrt(A(static_cast<double>(k.cols)));
  AttentionResult<S> result;
  result.out.resize(q.rows, v.cols);
  result.lse.resize(q.rows);
  std::vector<Index> kept;  // keys that query i sees, and their scores
  std::vector<A> scores;
  for (Index i = 0; i < q.rows; ++i) {
    kept.clear();
    scores.clear();
    for (Index j = 0; j < k.rows; ++j) {
      const detail::ReferencePair pair = detail::reference_pair(options.mask, i, j, q.rows, k.rows, head);
      if (!pair.kept) continue;  // a masked key is skipped, not multiplied by 0
      const A score = detail::reference_score<A>(q, k, options, scale, i, j, pair.ahead, score_mod, head);
      if (detail::reference_masks(score)) continue;
      kept.push_back(j);
      scores.push_back(score);
    }
    const bool has_sink = options.sinks.given() && !detail::is_minus_infinity(options.sinks.of(head)) &&
                          detail::reference_query_is_real(options.mask, i);
    if (kept.empty()) {
      for (Index c = 0; c < v.cols; ++c) result.out(i, c) = static_cast<S>(A(0));
      result.lse(i) = A(detail::minus_infinity<double>);
      if (has_sink) result.lse(i) = A(options.sinks.of(head));
      continue;
    }
    A largest = has_sink ? A(options.sinks.of(head)) : scores.front();
    for (const A& score : scores) {
      if (score > largest) largest = score;
    }
    A denominator = has_sink ? exp(A(options.sinks.of(head)) - largest) : A(0);
    for (A& score : scores) {
      score = exp(score - largest);  // from here on a weight
      denominator += score;
    }
    for (Index c = 0; c < v.cols; ++c) {
      A sum = A(0);
      for (std::size_t t = 0; t < kept.size(); ++t) sum += scores[t] * static_cast<A>(v(kept[t], c));
      result.out(i, c) = static_cast<S>(sum / denominator);
    }
    result.lse(i) = largest + log(denominator);
  }
  return result;
}

}  // namespace heed
