#pragma once
#include <algorithm>
#include <utility>
#include <vector>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

/// Keys and values of the tokens decoded so far, growing by `append`; stored head by head, so that decoding streams them.
/// Storage scalar S: float, double, Eigen::half or Eigen::bfloat16 (half the bytes, so up to twice the speed of decoding).
template <RealScalar S>
class KeyValueCache {
 public:
  /// d: width of a key head; d_v: of a value head (default d); n_kv_heads heads; room for `capacity` tokens at once.
  /// Errors  OptionError for widths or heads below 1 or a negative capacity.
  explicit KeyValueCache(Index d, Index d_v = 0, Index n_kv_heads = 1, Index capacity = 0)
      : d_(d), d_v_(d_v == 0 ? d : d_v), n_kv_heads_(n_kv_heads) {
    if (d < 1) throw OptionError(detail::message("KeyValueCache: d = ", d, " must be >= 1"));
    if (d_v < 0) throw OptionError(detail::message("KeyValueCache: d_v = ", d_v, " must be >= 1 (or 0: as d)"));
    if (n_kv_heads < 1) throw OptionError(detail::message("KeyValueCache: n_kv_heads = ", n_kv_heads, " must be >= 1"));
    if (capacity < 0) throw OptionError(detail::message("KeyValueCache: capacity = ", capacity, " must be >= 0"));
    reserve(capacity);
  }

  Index size() const { return size_; }          ///< tokens held
  Index capacity() const { return capacity_; }  ///< tokens it has room for
  Index d() const { return d_; }
  Index d_v() const { return d_v_; }
  Index n_kv_heads() const { return n_kv_heads_; }

  /// Makes room for `capacity` tokens.
  void reserve(Index capacity) {
    if (capacity <= capacity_) return;
    regrow(keys_, d_, capacity);
    regrow(values_, d_v_, capacity);
    capacity_ = capacity;
  }

  /// Forgets the tokens from position `size` on; the memory stays.
  void truncate(Index size) {
    if (size < 0 || size > size_)
      throw OptionError(detail::message("KeyValueCache::truncate: size = ", size, " must be 0 .. ", size_));
    size_ = size;
  }
  void clear() { size_ = 0; }

  /// Adds tokens. k_new: n x (n_kv_heads * d), v_new: n x (n_kv_heads * d_v), rounded to S. Amortised O(n) copies.
  /// Errors  ShapeError; the cache is then unchanged.
  template <class K, class V>
  void append(const K& k_new, const V& v_new) {
    detail::require_token_matrix<K>();
    detail::require_token_matrix<V>();
    check_cols(k_new.cols(), d_, "k_new", "d");
    check_cols(v_new.cols(), d_v_, "v_new", "d_v");
    if (k_new.rows() != v_new.rows()) {
      throw ShapeError(
          detail::message("rows(k_new) = ", k_new.rows(), " but rows(v_new) = ", v_new.rows(), ": they must be equal"));
    }
    const Index n = k_new.rows();
    if (size_ + n > capacity_) reserve(std::max(size_ + n, 2 * capacity_));
    store(view_of(k_new), keys_, d_);
    store(view_of(v_new), values_, d_v_);
    size_ += n;
  }

  /// Keys and values of one head: size() x d and size() x d_v. Valid until the next append or reserve.
  ConstView<S> keys(Index head) const { return {keys_.data() + head * capacity_ * d_, size_, d_, d_, 1}; }
  ConstView<S> values(Index head) const { return {values_.data() + head * capacity_ * d_v_, size_, d_v_, d_v_, 1}; }

 private:
  void check_cols(Index cols, Index width, const char* name, const char* width_name) const {
    if (cols != n_kv_heads_ * width) {
      throw ShapeError(detail::message("cols(", name, ") = ", cols, " must be n_kv_heads * ", width_name, " = ",
                                       n_kv_heads_ * width));
    }
  }

  void regrow(std::vector<S>& rows, Index width, Index capacity) const {
    std::vector<S> grown(static_cast<std::size_t>(n_kv_heads_ * capacity * width));
    for (Index h = 0; h < n_kv_heads_; ++h) {
      std::copy_n(rows.data() + h * capacity_ * width, size_ * width, grown.data() + h * capacity * width);
    }
    rows.swap(grown);
  }

  template <class From>
  void store(const ConstView<From>& rows, std::vector<S>& to, Index width) const {
    for (Index h = 0; h < n_kv_heads_; ++h) {
      S* at = to.data() + (h * capacity_ + size_) * width;
      for (Index i = 0; i < rows.rows; ++i) {
        for (Index c = 0; c < width; ++c) *at++ = static_cast<S>(rows(i, h * width + c));
      }
    }
  }

  Index d_;
  Index d_v_;
  Index n_kv_heads_;
  Index size_ = 0;
  Index capacity_ = 0;
  std::vector<S> keys_;
  std::vector<S> values_;
};

namespace detail {
template <class Q, class S>
Index heads_over(const Q& q, const KeyValueCache<S>& cache) {
  const Index n_heads = q.cols() / cache.d();
  if (n_heads < 1 || n_heads * cache.d() != q.cols() || n_heads % cache.n_kv_heads() != 0) {
    throw ShapeError(message("cols(q) = ", q.cols(), " must be n_heads * d with d = ", cache.d(),
                             " and n_heads a multiple of n_kv_heads = ", cache.n_kv_heads()));
  }
  return n_heads;
}
}  // namespace detail

/// `attend` over a cache into storage the caller owns: out: n_q x (n_heads * d_v), lse: n_q x n_heads, or 0 x 0 where not wanted.
template <class Out, class Lse, class Q, class S, class Method = ExactAttention<>>
void attend_into(Out&& out, Lse&& lse, const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options = {},
                 const Method& method = {}, const Context& context = {}) {
  detail::require_token_matrix<Q>();
  using SQ = typename Q::Scalar;
  static_assert(RealScalar<SQ>,
                "heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 matrices; cast others first");
  auto to = detail::output_of<SQ>(std::forward<Out>(out));
  auto lse_to = output_view_of(std::forward<Lse>(lse));
  using Call = detail::HeadCall<SQ, S, typename decltype(to)::Scalar>;
  const Index n_heads = detail::heads_over(q, cache);
  detail::check_options(options, {q.rows(), cache.size(), cache.d(), cache.d_v(), n_heads});
  detail::check_methods(method, n_heads, cache.n_kv_heads());
  detail::check_head_outputs(to, lse_to, q.rows(), n_heads, cache.d_v());
  if (q.rows() == 0) return;
  detail::attend_packed<Call>(
      view_of(q), [&](Index h) { return cache.keys(h); }, [&](Index h) { return cache.values(h); }, to, lse_to, n_heads,
      cache.n_kv_heads(), options, method, context);
}

/// Attention of new queries over the tokens of a cache (decoding): with several new tokens, already appended, ask for
/// Causal::bottom_right.
///
/// Shapes  q: n_q x (n_heads * d), n_heads a multiple of the cache's n_kv_heads; returns out: n_q x (n_heads * d_v) in the scalar
///         of q, lse: n_q x n_heads.
/// Cost    2 (d + d_v) flops per kept pair; a single query is bound by reading the cache once for up to four heads that share it.
/// Threads over heads and chunks of keys, merged in order: the same bits for any context.threads.
template <class Q, class S, class Method = ExactAttention<>>
auto attend(const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options = {}, const Method& method = {},
            const Context& context = {}) -> MultiHeadResult<detail::OperandScalar<Q>> {
  detail::require_token_matrix<Q>();
  MultiHeadResult<detail::OperandScalar<Q>> result;
  const Index n_heads = detail::heads_over(q, cache);
  result.out.resize(q.rows(), n_heads * cache.d_v());
  if constexpr (detail::returns_lse<Method>()) result.lse.resize(q.rows(), n_heads);
  attend_into(result.out, result.lse, q, cache, options, method, context);
  return result;
}

/// The same without a method: exact attention.
template <class Out, class Lse, class Q, class S>
void attend_into(Out&& out, Lse&& lse, const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options,
                 const Context& context) {
  attend_into(std::forward<Out>(out), std::forward<Lse>(lse), q, cache, options, ExactAttention<>{}, context);
}

/// The same without a method: exact attention.
template <class Q, class S>
auto attend(const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options, const Context& context) {
  return attend(q, cache, options, ExactAttention<>{}, context);
}

}  // namespace heed
