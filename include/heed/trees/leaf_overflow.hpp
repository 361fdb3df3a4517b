#pragma once
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstddef>

#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/kept_keys.hpp"
#include "heed/core/number_range.hpp"
#include "heed/core/options.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/trees/leaf_lists.hpp"
#include "heed/trees/leaf_tiles.hpp"

namespace heed::detail {

/// Running sums over some keys of one leaf, to stand for them as one key.
template <class T>
struct KeySums {
  KeySums(Scratch& scratch, Index d, Index d_v) : k(scratch.take<T>(d)), v(scratch.take<T>(d_v)) {}

  template <class Call>
  void clear(const Call& call) {
    std::fill_n(k, call.k.cols, T(0));
    std::fill_n(v, call.v.cols, T(0));
    position = bias = 0;
    count = 0;
  }
  template <class Call>
  void add(const Call& call, Index j, double bias_term) {
    for (Index c = 0; c < call.k.cols; ++c) k[c] += static_cast<T>(call.k(j, c));
    for (Index c = 0; c < call.v.cols; ++c) v[c] += static_cast<T>(call.v(j, c));
    position += static_cast<double>(j);
    bias += bias_term;
    ++count;
  }

  T *k, *v;
  double position = 0, bias = 0;
  Index count = 0;
};

/// What the keys beyond the first `cap` of each leaf are to the queries of `tiles`: per query and leaf, those the mask
/// keeps stand as one key, their mean key, value, position and bias, of weight their number N:
///   score = softcap(scale q . mean k) + mean bias - slope |i + s - mean j| + log N.
/// Adds them to the rows of `call`, whose out and lse hold 0 and -inf. Returns the query-centroid pairs.
///
/// Cost    2 (d + d_v) flops and one exponential per query and capped leaf it sees, and d + d_v additions per key that
///         joins: once a leaf under causal and padding masks, once a pair where a pair mask or a window decides.
template <class Call>
Index add_overflow(const Call& call, const LeafTiles& tiles, const LeafLists& keys, Index cap,
                   const AttentionOptions& options, Workspace::Frame& frame, int threads) {
  using T = typename Call::Sum;
  const Index n_q = call.q.rows, d = call.k.cols, d_v = call.v.cols;
  const KeptKeys kept(options.mask, n_q, call.k.rows, call.head);
  const double scale = options.scale.value_or(1.0 / std::sqrt(static_cast<double>(d)));
  const double slope = options.mask.alibi_slope.given() ? options.mask.alibi_slope.of(call.head) : 0.0;
  std::atomic<Index> pairs{0};

  const auto add_centroid = [&](Index i, const KeyRange& range, const KeySums<T>& sums) {
    const T inverse = T(1) / static_cast<T>(sums.count);
    T product = 0;
    for (Index c = 0; c < d; ++c) product += static_cast<T>(call.q(i, c)) * sums.k[c];
    const double n = static_cast<double>(sums.count);
    double score = scale * static_cast<double>(product * inverse);
    if (options.softcap) score = *options.softcap * std::tanh(score / *options.softcap);
    score += sums.bias / n;
    if (slope != 0) score -= slope * std::abs(static_cast<double>(range.diagonal) - sums.position / n);
    const T s = static_cast<T>(score + std::log(n));
    T& lse = call.lse[i];
    T mine = 0, theirs = 1;
    if (is_minus_infinity(lse)) {
      lse = s;
    } else {
      const T top = lse < s ? s : lse, all = top + std::log(std::exp(lse - top) + std::exp(s - top));
      mine = std::exp(lse - all);
      theirs = std::exp(s - all);
      lse = all;
    }
    for (Index c = 0; c < d_v; ++c)
      call.out(i, c) = (mine == 0 ? T(0) : mine * call.out(i, c)) + theirs * (sums.v[c] * inverse);
  };

  const auto add_leaf = [&](const TokenSet& queries, Index leaf, KeySums<T>& sums) {
    const TokenSet over{0, keys.size(leaf) - cap, keys.list(leaf) + cap};
    Index low = 0, high = 0, added = 0;  // over[low .. high) are in the sums
    sums.clear(call);
    for (Index t = 0; t < queries.size; ++t) {
      const Index i = queries[t];
      const KeyRange range = kept.bounds().of(i);
      const Index from = tokens_below(over, range.low), to = tokens_below(over, range.high);
      if (kept.has_pairs() || from != low || to < high) {  // sums only grow: what left would leave its rounding behind
        sums.clear(call);
        low = high = from;
      }
      for (; high < to; ++high) {
        if (kept.pair(i, over[high]))
          sums.add(call, over[high], static_cast<double>(saturated<T>(kept.bias(i, over[high]))));
      }
      if (sums.count == 0) continue;
      add_centroid(i, range, sums);
      ++added;
    }
    return added;
  };

  for_each_task(
      tiles.n_groups(), threads, frame, [&](Scratch& scratch) { return KeySums<T>(scratch, d, d_v); },
      [&](KeySums<T>& sums, Index group) {
        const TokenSet queries = tiles.queries(group);
        Index added = 0;
        for (Index leaf = tiles.first_leaf[queries[0]]; leaf < tiles.end_leaf[queries[0]]; ++leaf) {
          if (keys.size(leaf) > cap) added += add_leaf(queries, leaf, sums);
        }
        pairs += added;
      });
  return pairs;
}

}  // namespace heed::detail
