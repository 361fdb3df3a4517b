#pragma once
#include <algorithm>
#include <cmath>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <span>
#include <type_traits>

#include <Eigen/Core>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/distributed/agreement.hpp"
#include "heed/distributed/block_options.hpp"
#include "heed/distributed/block_sums.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/engine/softmax_sums.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/exact/key_value_cache.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

/// Keys of a block. Sharded keys are cut between blocks: every rank but the last holds a multiple of it, so that chunks
/// of keys, whose partial results are merged in order, are those of one process.
constexpr Index sharded_key_block = 4096;

/// A cache of keys and values, one rank's: KeyValueCache of any storage, or another that `attend(q, cache, options,
/// context)` takes and that says its size and widths.
template <class Cache>
concept ShardCache = requires(const Cache& cache) {
  { cache.size() } -> std::convertible_to<Index>;
  { cache.d() } -> std::convertible_to<Index>;
  { cache.d_v() } -> std::convertible_to<Index>;
  { cache.n_kv_heads() } -> std::convertible_to<Index>;
};

namespace detail {

static_assert(sharded_key_block % row_chunk_keys == 0 && sharded_key_block % panel_chunk_keys == 0);

/// The keys of this rank among all.
struct ShardedKeys {
  TokenRange own;
  Index n_k = 0;
};

/// A cache whose head rows can be viewed.
template <RealScalar S>
struct CacheRows {
  using Scalar = S;
  const KeyValueCache<S>& cache;
  Index n_keys() const { return cache.size(); }
  KeyRows<S> of_head(Index h) const { return {cache.keys(h), cache.values(h)}; }
};

/// A shard whose rows can be viewed: its chunks are kept apart until they are merged in order.
template <class Rows>
struct RowsShard {
  using Scalar = typename Rows::Scalar;
  static constexpr bool has_rows = true;
  static constexpr const char* call = "attend_sharded";
  Rows rows;

  template <class T, class Method>
  auto factor_of(const Method& method, const AttentionOptions& options, const PackedHeads& packed) const {
    return factor_of_heads<T>(method, options, packed);
  }
  /// Leaves in `sums` what the queries of the block find.
  template <class SQ, class Method, class T>
  void sum(const ConstView<SQ>& q, const ShardedKeys& keys, const PackedHeads& packed, const CallBlock& block,
           std::span<SoftmaxSums<T>> sums, const Method& method, const Context& context) const {
    sum_block(q, rows, keys.own.first, packed, block, sums, {0, packed.n_kv_heads}, method, context);
  }
  /// Adds to `sums`, those of all queries, what queries of the block find.
  template <class SQ, class Method, class T>
  void add(const ConstView<SQ>& q, const ShardedKeys& keys, const PackedHeads& packed, const CallBlock& block,
           std::span<SoftmaxSums<T>> sums, const Method& method, const Context& context) const {
    add_block(q, rows, keys.own.first, packed, block, sums, block.queries.first, {0, packed.n_kv_heads}, method,
              context);
  }
};

/// Turns out and lse of a shard, of all queries and heads, into sums: exact to the rounding of lse, which is the only
/// score there.
template <class Answer, class T>
void sums_of_answer(const Answer& part, const PackedHeads& packed, std::span<SoftmaxSums<T>> sums) {
  for (Index h = 0; h < packed.n_heads; ++h) {
    SoftmaxSums<T>& own = sums[static_cast<std::size_t>(h)];
    const SoftmaxState<T> state = own.chunk(0);
    for (Index i = 0; i < own.n_q; ++i) {
      const T lse = part.lse(i, h);
      if (is_minus_infinity(lse)) continue;
      state.m[i] = is_finite(lse) ? lse : minus_infinity<T>;
      state.l[i] = is_finite(lse) ? T(1) : lse;  // NaN stays in its row
      for (Index c = 0; c < packed.d_v; ++c)
        state.out[c * own.n_q + i] = static_cast<T>(part.out(i, h * packed.d_v + c));
    }
  }
}

/// A shard whose rows nobody else reads: its own out and lse are turned into sums.
struct AnsweringShard {
  struct Scalar {};
  static constexpr bool has_rows = false;

  template <class T, class Method>
  auto factor_of(const Method&, const AttentionOptions&, const PackedHeads&) const {
    return [](Index) { return static_cast<T>(SplitLse::log2_e); };
  }
};

/// A cache that only its own attend can read.
template <class Cache>
struct OpaqueShard : AnsweringShard {
  static constexpr const char* call = "attend_sharded";
  const Cache& cache;

  explicit OpaqueShard(const Cache& given) : cache(given) {}

  template <class SQ, class Method, class T>
  void sum(const ConstView<SQ>& q, const ShardedKeys&, const PackedHeads& packed, const CallBlock& block,
           std::span<SoftmaxSums<T>> sums, const Method&, const Context& context) const {
    static_assert(std::is_same_v<Method, ExactAttention<>>,
                  "heed: a score functor over several ranks needs a cache of float, double, half or bfloat16");
    AttentionOptions options = block.options;
    options.sinks = PerHead();  // once, when all is merged
    using Rows = Eigen::Map<const Matrix<SQ>, 0, Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>>;
    const auto part = attend(Rows(q.data, q.rows, q.cols, {q.row_stride, q.col_stride}), cache, options, context);
    sums_of_answer(part, packed, sums);
  }
};

template <RealScalar S>
auto shard_of(const KeyValueCache<S>& cache) {
  return RowsShard<CacheRows<S>>{{cache}};
}
template <class Cache>
auto shard_of(const Cache& cache) {
  return OpaqueShard<Cache>{cache};
}

/// The heads of packed rows of one rank, checked.
template <class Q, class K, class V>
PackedHeads heads_of_rows(const Q& q, const K& k, const V& v, const HeadOptions& heads,
                          const AttentionOptions& options) {
  PackedHeads packed{heads.n_heads, kv_heads_of(heads)};
  const char* const kv_heads = heads.n_kv_heads ? "n_kv_heads" : "n_heads";
  packed.d = head_width(q.cols(), packed.n_heads, "q", "n_heads");
  packed.d_v = head_width(v.cols(), packed.n_kv_heads, "v", kv_heads);
  const Index d_k = head_width(k.cols(), packed.n_kv_heads, "k", kv_heads);
  if (packed.d != d_k)
    throw ShapeError(message("cols(q) = ", packed.d, " but cols(k) = ", d_k, ": they must be equal"));
  if (k.rows() != v.rows())
    throw ShapeError(message("rows(k) = ", k.rows(), " but rows(v) = ", v.rows(), ": they must be equal"));
  if (packed.d == 0 && !options.scale)
    throw ShapeError("heed: cols(q) = 0 must be >= 1 (the default scale is 1/sqrt(cols(k)))");
  return packed;
}

/// Comes to an agreement on the queries, which every rank gives, and on the keys, of which each holds some in order.
template <class S, class KeyScalar>
ShardedKeys agree_on_shards(Agreement& agreement, const Ranks& ranks, const ConstView<S>& q, Index n_own,
                            const PackedHeads& packed, const AttentionOptions& options, bool one_sequence) {
  agreement.same_scalar<S>("the scalar of q");
  agreement.same_scalar<KeyScalar>("the scalar of the keys");
  agreement.same_size("rows(q)", q.rows);
  agreement.same_size("cols(q)", q.cols);
  agreement.same_size("n_kv_heads", packed.n_kv_heads);
  agreement.same_size("d", packed.d);
  agreement.same_size("d_v", packed.d_v);
  agree_on(agreement, options);
  Digest digest;
  for (Index i = 0; i < q.rows; ++i) {
    for (Index c = 0; c < q.cols; ++c) digest.add(static_cast<double>(q(i, c)));
  }
  agreement.same_digest("q", digest.sum());
  const std::size_t n_keys = agreement.own(n_own);
  agreement.conclude();

  ShardedKeys keys;
  for (Index r = 0; r < ranks.size(); ++r) {
    const Index n = agreement.of(n_keys, r);
    if (n < 1) {
      throw ShapeError(
          message("rank ", r, " of ", ranks.size(), " holds 0 keys but must hold at least one: use fewer ranks"));
    }
    if (r + 1 < ranks.size() && n % sharded_key_block != 0) {
      throw ShapeError(message("rank ", r, " of ", ranks.size(), " holds ", n,
                               " keys but must hold a multiple of sharded_key_block = ", sharded_key_block,
                               ": only the last rank may hold a rest"));
    }
    if (r == ranks.rank()) keys.own = {keys.n_k, n};
    keys.n_k += n;
  }
  check_options<Accumulator<S>>(options, {q.rows, keys.n_k, packed.d, packed.d_v, packed.n_heads});
  if (one_sequence && !options.mask.sequence_offsets.empty()) {
    throw OptionError("heed: Mask::sequence_offsets is given but must not be: the cache can only be read whole");
  }
  return keys;
}

}  // namespace detail
}  // namespace heed
