#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/sizes.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

/// Keys and values of the tokens decoded so far, growing by `append`; stored head by head, so that decoding streams
/// them. Storage scalar S: float, double, Eigen::half or Eigen::bfloat16 (half the bytes, so up to twice the speed of
/// decoding). A call that throws, std::bad_alloc included, leaves the cache as it was. One that was moved from is
/// empty.
template <RealScalar S>
class KeyValueCache {
 public:
  /// d: width of a key head; d_v: of a value head (default d); n_kv_heads heads; room for `capacity` tokens at once.
  /// Errors  OptionError for widths or heads below 1, a negative capacity, or more of them than memory can hold.
  explicit KeyValueCache(Index d, Index d_v = 0, Index n_kv_heads = 1, Index capacity = 0)
      : d_(d), d_v_(d_v == 0 ? d : d_v), n_kv_heads_(n_kv_heads) {
    if (d < 1) throw OptionError(detail::message("KeyValueCache: d = ", d, " must be >= 1"));
    if (d_v < 0) throw OptionError(detail::message("KeyValueCache: d_v = ", d_v, " must be >= 1 (or 0: as d)"));
    if (n_kv_heads < 1) throw OptionError(detail::message("KeyValueCache: n_kv_heads = ", n_kv_heads, " must be >= 1"));
    if (capacity < 0) throw OptionError(detail::message("KeyValueCache: capacity = ", capacity, " must be >= 0"));
    detail::checked_size(d, "KeyValueCache: d");
    detail::checked_size(d_v, "KeyValueCache: d_v");
    detail::checked_size(n_kv_heads, "KeyValueCache: n_kv_heads");
    if (!detail::can_be_counted({n_kv_heads, std::max(d_, d_v_)})) {
      throw OptionError(detail::message("KeyValueCache: n_kv_heads = ", n_kv_heads, " of d = ", d_, " and d_v = ", d_v_,
                                        " must have at most 2^58 numbers a token"));
    }
    reserve(capacity);
  }
  KeyValueCache(const KeyValueCache&) = default;
  KeyValueCache(KeyValueCache&& other) noexcept
      : d_(other.d_),
        d_v_(other.d_v_),
        n_kv_heads_(other.n_kv_heads_),
        size_(std::exchange(other.size_, 0)),
        rows_(std::exchange(other.rows_, Rows())) {}
  KeyValueCache& operator=(KeyValueCache other) {  // by value: what may throw is over
    d_ = other.d_;
    d_v_ = other.d_v_;
    n_kv_heads_ = other.n_kv_heads_;
    size_ = other.size_;
    rows_ = std::move(other.rows_);
    return *this;
  }

  Index size() const { return size_; }               ///< tokens held
  Index capacity() const { return rows_.capacity; }  ///< tokens it has room for
  Index d() const { return d_; }
  Index d_v() const { return d_v_; }
  Index n_kv_heads() const { return n_kv_heads_; }

  /// Makes room for `capacity` tokens.
  /// Errors  OptionError for more than memory can hold.
  void reserve(Index capacity) {
    if (capacity > rows_.capacity) rows_ = grown(capacity);
  }

  /// Forgets the tokens from position `size` on; the memory stays.
  void truncate(Index size) {
    if (size < 0 || size > size_)
      throw OptionError(detail::message("KeyValueCache::truncate: size = ", size, " must be 0 .. ", size_));
    size_ = size;
  }
  void clear() { size_ = 0; }

  /// Adds tokens. k_new: n x (n_kv_heads * d), v_new: n x (n_kv_heads * d_v), rounded to S; they may be rows of the
  /// cache itself. Amortised O(n) copies.
  /// Errors  ShapeError; OptionError for more tokens than memory can hold.
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
    if (n > most_capacity() - size_) refuse_capacity("rows(k_new)", n, most_capacity() - size_);
    const bool fits = size_ + n <= rows_.capacity;
    if (fits && !lies_here(view_of(k_new)) && !lies_here(view_of(v_new))) {
      store(view_of(k_new), view_of(v_new), rows_);
    } else {  // the old rows stay until the new ones are read
      const Index doubled = std::min(2 * rows_.capacity, most_capacity());
      Rows more = grown(fits ? rows_.capacity : std::max(size_ + n, doubled));
      store(view_of(k_new), view_of(v_new), more);
      rows_ = std::move(more);
    }
    size_ += n;
  }

  /// Keys and values of one head: size() x d and size() x d_v. Valid until the next append or reserve.
  ConstView<S> keys(Index head) const { return {rows_.keys.data() + head * rows_.capacity * d_, size_, d_, d_, 1}; }
  ConstView<S> values(Index head) const {
    return {rows_.values.data() + head * rows_.capacity * d_v_, size_, d_v_, d_v_, 1};
  }

 private:
  struct Rows {
    std::vector<S> keys, values;  // n_kv_heads x capacity x d, and x d_v
    Index capacity = 0;
  };

  void check_cols(Index cols, Index width, const char* name, const char* width_name) const {
    if (cols != n_kv_heads_ * width) {
      throw ShapeError(detail::message("cols(", name, ") = ", cols, " must be n_kv_heads * ", width_name, " = ",
                                       n_kv_heads_ * width));
    }
  }

  // Tokens of which neither keys nor values have more numbers than memory can hold.
  Index most_capacity() const { return detail::most_numbers / (n_kv_heads_ * std::max(d_, d_v_)); }
  [[noreturn]] void refuse_capacity(const char* name, Index tokens, Index most) const {
    throw OptionError(detail::message("KeyValueCache: ", name, " = ", tokens, " must be at most ", most,
                                      ": memory holds no more tokens of n_kv_heads = ", n_kv_heads_, ", d = ", d_,
                                      ", d_v = ", d_v_));
  }

  // The rows held, with room for `capacity` tokens.
  Rows grown(Index capacity) const {
    if (capacity > most_capacity()) refuse_capacity("capacity", capacity, most_capacity());
    Rows more;
    more.keys.resize(static_cast<std::size_t>(n_kv_heads_ * capacity * d_));
    more.values.resize(static_cast<std::size_t>(n_kv_heads_ * capacity * d_v_));
    more.capacity = capacity;
    for (Index h = 0; h < n_kv_heads_; ++h) {
      std::copy_n(rows_.keys.data() + h * rows_.capacity * d_, size_ * d_, more.keys.data() + h * capacity * d_);
      std::copy_n(rows_.values.data() + h * rows_.capacity * d_v_, size_ * d_v_,
                  more.values.data() + h * capacity * d_v_);
    }
    return more;
  }

  // True where some of the rows may be the cache's own memory.
  template <class From>
  bool lies_here(const ConstView<From>& from) const {
    if (from.rows == 0 || from.cols == 0) return false;
    const auto place = [](const auto* p) { return reinterpret_cast<std::uintptr_t>(p); };
    const auto [first, last] =
        std::minmax({place(&from(0, 0)), place(&from(from.rows - 1, 0)), place(&from(0, from.cols - 1)),
                     place(&from(from.rows - 1, from.cols - 1))});
    for (const std::vector<S>* own : {&rows_.keys, &rows_.values}) {
      if (first < place(own->data() + own->size()) && last >= place(own->data())) return true;
    }
    return false;
  }

  template <class From>
  void store_rows(const ConstView<From>& rows, std::vector<S>& to, Index capacity, Index width) const {
    for (Index h = 0; h < n_kv_heads_; ++h) {
      S* at = to.data() + (h * capacity + size_) * width;
      for (Index i = 0; i < rows.rows; ++i) {
        for (Index c = 0; c < width; ++c) *at++ = static_cast<S>(rows(i, h * width + c));
      }
    }
  }
  template <class FromK, class FromV>
  void store(const ConstView<FromK>& k, const ConstView<FromV>& v, Rows& to) const {
    store_rows(k, to.keys, to.capacity, d_);
    store_rows(v, to.values, to.capacity, d_v_);
  }

  Index d_;
  Index d_v_;
  Index n_kv_heads_;
  Index size_ = 0;
  Rows rows_;
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

namespace detail {

/// Checks all but the outputs of a call over a cache, and returns its heads.
template <class Q, class S, class Method>
PackedHeads check_cached_heads(const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options,
                               const Method& method, const Context& context) {
  require_token_matrix<Q>();
  using SQ = OperandScalar<Q>;
  static_assert(RealScalar<SQ>,
                "heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 matrices; cast others first");
  check_running(context);
  const PackedHeads packed{heads_over(q, cache), cache.n_kv_heads(), cache.d(), cache.d_v()};
  check_options<Accumulator<SQ>>(options, {q.rows(), cache.size(), packed.d, packed.d_v, packed.n_heads});
  check_methods(method, packed.n_heads, packed.n_kv_heads);
  return packed;
}

/// Runs checked heads over a cache.
template <class To, class Sum, class Q, class S, class Method>
void attend_cached_heads(const View<To>& out, const View<Sum>& lse, const Q& q, const KeyValueCache<S>& cache,
                         const PackedHeads& packed, const AttentionOptions& options, const Method& method,
                         const Context& context) {
  using Call = HeadCall<OperandScalar<Q>, S, To>;
  const WithWorkspace inner(context);
  Workspace::Frame frame(inner.workspace());
  const auto key_of = [&](Index h) { return cache.keys(h); };
  const std::span<Call> calls = calls_of_heads<Call>(frame, view_of(q), key_of, out, lse, packed);
  for (Call& call : calls) call.v = cache.values(call.head / packed.per_kv());
  run_real_queries(calls, packed.n_heads, options, [&](std::span<Call> real, const AttentionOptions& own) {
    attend_all_heads(method, std::span<const Call>(real), packed.per_kv(), own, inner.context());
  });
}

}  // namespace detail

/// `attend` over a cache into storage the caller owns: out: n_q x (n_heads * d_v), lse: n_q x n_heads, or
/// nullptr or 0 x 0 where not wanted.
template <class Out, class Lse, class Q, class S, class Method = ExactAttention<>>
void attend_into(Out&& out, Lse&& lse, const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options = {},
                 const Method& method = {}, const Context& context = {}) {
  using SQ = detail::OperandScalar<Q>;
  auto to = detail::output_of<SQ>(std::forward<Out>(out));
  auto lse_to = detail::lse_output_of<SQ>(std::forward<Lse>(lse));
  const detail::PackedHeads packed = detail::check_cached_heads(q, cache, options, method, context);
  detail::check_head_outputs(to, lse_to, q.rows(), packed.n_heads, packed.d_v);
  detail::attend_cached_heads(to, lse_to, q, cache, packed, options, method, context);
}

/// Attention of new queries over the tokens of a cache (decoding): with several new tokens, already appended, ask for
/// Causal::bottom_right.
///
/// Shapes  q: n_q x (n_heads * d), n_heads a multiple of the cache's n_kv_heads; returns out: n_q x (n_heads * d_v) in
///         the scalar of q, lse: n_q x n_heads.
/// Cost    2 (d + d_v) flops per kept pair; a single query is bound by reading the cache once for up to four heads that
///         share it.
/// Threads over heads and chunks of keys, merged in order: the same bits for any context.threads.
template <class Q, class S, class Method = ExactAttention<>>
auto attend(const Q& q, const KeyValueCache<S>& cache, const AttentionOptions& options = {}, const Method& method = {},
            const Context& context = {}) -> MultiHeadResult<detail::OperandScalar<Q>> {
  const detail::PackedHeads packed = detail::check_cached_heads(q, cache, options, method, context);
  auto result = detail::result_of_heads<detail::OperandScalar<Q>, Method>(q.rows(), packed.n_heads, packed.d_v);
  detail::attend_cached_heads(output_view_of(result.out), output_view_of(result.lse), q, cache, packed, options, method,
                              context);
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
