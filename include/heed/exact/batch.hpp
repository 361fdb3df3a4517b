#pragma once
#include <array>
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>
#include <vector>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/entry_options.hpp"
#include "heed/core/options.hpp"
#include "heed/core/result.hpp"
#include "heed/core/tensor_view.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/call_values.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed {

namespace detail {

template <class Q, class K, class V>
constexpr void require_tensors() {
  static_assert(
      is_tensor_view<Q> && is_tensor_view<K> && is_tensor_view<V>,
      "heed: batch_attend takes q, k and v as heed::TensorView (heads_first, tokens_first, or with strides of "
      "your own); matrices go to multi_head_attend");
  using S = typename Q::Scalar;
  static_assert(RealScalar<S>, "heed: attention runs on float, double, Eigen::half or Eigen::bfloat16 tensors");
  static_assert(std::is_same_v<S, typename K::Scalar> && std::is_same_v<S, typename V::Scalar>,
                "heed: q, k and v must have one scalar type");
}

/// The rows of one head of one entry.
template <class T>
auto head_of(const TensorView<T>& t, Index entry, Index head) {
  using Head = std::conditional_t<std::is_const_v<T>, ConstView<std::remove_const_t<T>>, View<T>>;
  return Head{detail::entry(t.data, entry * t.strides[0] + head * t.strides[1]), t.sizes[2], t.sizes[3], t.strides[2],
              t.strides[3]};
}

template <class T>
TensorView<const std::remove_const_t<T>> read_only(const TensorView<T>& t) {
  return t;
}

inline void check_same_size(Index size, const char* what, Index expected, const char* like) {
  if (size != expected) throw ShapeError(message(what, " = ", size, " must be ", like, " = ", expected));
}

inline constexpr const char* tensor_dimensions[] = {"batch", "heads", "tokens", "width"};

/// A tensor that must have the sizes that q, k and v give it.
inline void check_tensor_sizes(const std::array<Index, 4>& sizes, const std::array<Index, 4>& expected,
                               const char* name) {
  for (std::size_t d = 0; d < 4; ++d) {
    if (sizes[d] != expected[d])
      throw ShapeError(message(tensor_dimensions[d], " of ", name, " = ", sizes[d], " must be ", expected[d]));
  }
}

template <class T>
void check_tensor(const TensorView<T>& t, const char* name) {
  for (std::size_t d = 0; d < 4; ++d) {
    if (t.sizes[d] < 0 || t.sizes[d] > most_size) {
      throw ShapeError(
          message(name, " has a ", tensor_dimensions[d], " size of ", t.sizes[d], " but must have 0 .. 2^", size_bits));
    }
  }
  if (!can_be_counted({t.sizes[0], t.sizes[1], t.sizes[2], t.sizes[3]})) {
    throw ShapeError(message(name, " is ", t.sizes[0], " x ", t.sizes[1], " x ", t.sizes[2], " x ", t.sizes[3],
                             " but must have at most 2^", number_bits, " numbers"));
  }
  const Index product = checked_product(name, {t.sizes[0], t.sizes[1], t.sizes[2], t.sizes[3]});
  if (t.data == nullptr && product > 0)
    throw ShapeError(message(name, ".data is null but must point to ", product, " numbers"));
}

/// Sizes of a batch, per head.
struct BatchShape {
  Index n_entries = 0, n_heads = 1, n_kv_heads = 1, n_q = 0, n_k = 0, d = 0, d_v = 0;
  Index per_kv() const { return n_heads / n_kv_heads; }
};

/// Checks tensors, options and methods.
template <class S, class Method>
BatchShape check_batch(const TensorView<const S>& q, const TensorView<const S>& k, const TensorView<const S>& v,
                       const AttentionOptions& options, const Method& method, const Context& context) {
  check_running(context);
  check_tensor(q, "q");
  check_tensor(k, "k");
  check_tensor(v, "v");
  check_same_size(k.batch(), "batch of k", q.batch(), "that of q");
  check_same_size(v.batch(), "batch of v", q.batch(), "that of q");
  check_same_size(v.n_heads(), "heads of v", k.n_heads(), "those of k");
  if (k.n_heads() < 1) throw ShapeError(message("heads of k = ", k.n_heads(), " must be >= 1"));
  if (q.n_heads() < 1 || q.n_heads() % k.n_heads() != 0)
    throw ShapeError(message("heads of q = ", q.n_heads(), " must be a multiple of those of k = ", k.n_heads()));
  const BatchShape shape{q.batch(), q.n_heads(), k.n_heads(), q.tokens(), k.tokens(), k.width(), v.width()};
  checked_product("batch * tokens of q * heads of q * (width of v + 1)",
                  {shape.n_entries, shape.n_q, shape.n_heads, shape.d_v + 1});
  check_attention<Accumulator<S>>(q.width(), k.tokens(), k.width(), v.tokens(),
                                  {shape.n_q, shape.n_k, shape.d, shape.d_v, shape.n_heads, shape.n_entries}, options);
  check_methods(method, shape.n_heads, shape.n_kv_heads);
  check_heads_of(method, {shape.n_q, shape.n_k, shape.d, shape.d_v, shape.n_heads}, options);
  return shape;
}

/// A row of lse for each token of one head of one entry; null where it is not wanted.
template <class Sum>
struct BatchLse {
  Sum* data = nullptr;
  Index entry_stride = 0, head_stride = 0, token_stride = 0;
  Sum* of(Index entry, Index head) const {
    return data == nullptr ? nullptr : data + entry * entry_stride + head * head_stride;
  }
};

/// Calls run(entry, first head, number of heads, context) for all heads of a batch, in tasks that hold heads which
/// share keys, or, of a list of methods, all heads of an entry. Where tasks keep all threads busy, each runs on one of
/// them; else one after the other on all. Contexts bring workspaces.
template <class Run>
void for_each_batch_task(const BatchShape& shape, bool whole_entries, const Context& context, const Run& run) {
  const Index groups = whole_entries ? 1 : shape.n_kv_heads, each = shape.n_heads / groups;
  const Index n_tasks = shape.n_entries * groups;
  const auto run_task = [&](Index task, const Context& own) { run(task / groups, task % groups * each, each, own); };
  constexpr double least_work = 5e5;  // as in run_part: small batches run on fewer threads than they may
  const double work = static_cast<double>(n_tasks * each) * static_cast<double>(shape.n_q) *
                      static_cast<double>(shape.n_k) * static_cast<double>(shape.d + shape.d_v);
  const int threads = threads_for(work, least_work, thread_count(context.threads));
  const WithWorkspace inner(context);
  if (threads == 1 || (n_tasks % threads != 0 && n_tasks < 4 * threads)) {
    for (Index task = 0; task < n_tasks; ++task) run_task(task, inner.context());
    return;
  }
  std::vector<Workspace>& workspaces = inner.workspace().of_threads(static_cast<std::size_t>(threads));
  Workspace::Frame frame(inner.workspace());
  const bool counts = context.flops != nullptr;
  FlopCounter* flops = frame.take<FlopCounter>(counts ? threads : 0);
  for (int t = 0; counts && t < threads; ++t) new (flops + t) FlopCounter();
  parallel_tasks(n_tasks, threads, [&](int thread) {
    const Context own{counts ? flops + thread : nullptr, &workspaces[static_cast<std::size_t>(thread)], 1};
    return [&run_task, own](Index task) { run_task(task, own); };
  });
  for (int t = 0; counts && t < threads; ++t) *context.flops += flops[t];
}

/// Runs checked tensors.
template <class S, class To, class Method>
void attend_batch(const TensorView<To>& out, const BatchLse<Accumulator<S>>& lse, const TensorView<const S>& q,
                  const TensorView<const S>& k, const TensorView<const S>& v, const BatchShape& shape,
                  const AttentionOptions& options, const Method& method, const Context& context) {
  using Call = HeadCall<S, S, To>;
  for_each_batch_task(shape, method_list<Method>, context, [&](Index b, Index first, Index n, const Context& own) {
    Workspace::Frame frame(*own.workspace);
    Call* calls = frame.take<Call>(n);
    for (Index c = 0; c < n; ++c) {
      const Index h = first + c, kv = h / shape.per_kv();
      new (calls + c) Call{head_of(q, b, h),
                           head_of(k, b, kv),
                           head_of(v, b, kv),
                           head_of(out, b, h),
                           lse.of(b, h),
                           lse.token_stride,
                           h};
    }
    const std::span<Call> heads(calls, static_cast<std::size_t>(n));
    run_real_queries(heads, shape.n_heads, options_of_entry(options, b),
                     [&](std::span<Call> real, const AttentionOptions& mine) {
                       attend_all_heads(method, std::span<const Call>(real), shape.per_kv(), mine, own);
                     });
  });
}

template <class S, class Lse>
BatchLse<Accumulator<S>> batch_lse_of(const Lse& lse, const BatchShape& shape) {
  if constexpr (std::is_null_pointer_v<Lse>) {
    return {};
  } else {
    static_assert(is_tensor_view<Lse>, "heed: lse must be a heed::TensorView of width 1, or nullptr");
    static_assert(std::is_same_v<Lse, TensorView<Accumulator<S>>>,
                  "heed: lse must have the scalar sums are kept in: double for double, float otherwise");
    if (lse.data == nullptr) return {};
    check_tensor_sizes(lse.sizes, {shape.n_entries, shape.n_heads, shape.n_q, 1}, "lse");
    return {lse.data, lse.strides[0], lse.strides[1], lse.strides[2]};
  }
}

}  // namespace detail

/// `batch_attend` into tensors the caller owns; nothing is allocated on one thread with a grown Workspace.
///
/// Shapes  out: batch x n_heads x n_q x d_v in any strides, in the scalar of q (or float for half and bfloat16); lse:
///         batch x n_heads x n_q x 1, or nullptr. Neither may overlap q, k or v.
/// Errors  as batch_attend; out and lse are untouched when it throws, but for what attend_into says.
template <class Out, class Lse, class Q, class K, class V, class Method = ExactAttention<>>
void batch_attend_into(const Out& out, const Lse& lse, const Q& q, const K& k, const V& v,
                       const AttentionOptions& options = {}, const Method& method = {}, const Context& context = {}) {
  detail::require_tensors<Q, K, V>();
  using S = typename Q::Scalar;
  static_assert(detail::is_tensor_view<Out>, "heed: out must be a heed::TensorView");
  using To = std::remove_pointer_t<decltype(out.data)>;
  static_assert(!std::is_const_v<To>, "heed: out must be writable, it is const");
  static_assert(std::is_same_v<To, S> || std::is_same_v<To, Accumulator<S>>,
                "heed: out must have the scalar type of q, or the one sums are kept in (float for half and bfloat16)");
  const auto read_q = detail::read_only(q), read_k = detail::read_only(k), read_v = detail::read_only(v);
  const detail::BatchShape shape = detail::check_batch<S>(read_q, read_k, read_v, options, method, context);
  detail::check_tensor(out, "out");
  detail::check_tensor_sizes(out.sizes, {shape.n_entries, shape.n_heads, shape.n_q, shape.d_v}, "out");
  const auto lse_to = detail::batch_lse_of<S>(lse, shape);
  detail::attend_batch<S>(out, lse_to, read_q, read_k, read_v, shape, options, method, context);
}

/// Attention of all heads of all entries of a batch, over other people's tensors without copies: head h of entry b
/// attends with key/value head h / (n_heads / n_kv_heads) of entry b.
///
/// Shapes  q: batch x n_heads x n_q x d, k: batch x n_kv_heads x n_k x d, v: batch x n_kv_heads x n_k x d_v, each a
///         TensorView in any strides; returns out: (batch * n_q) x (n_heads * d_v), the queries of entry 0 first, and
///         lse: (batch * n_q) x n_heads, 0 x 0 for methods without a softmax.
/// Masks   keys, key_lengths and query_lengths may differ between entries; matrices of pairs are those of all entries,
///         tensors of pairs name each.
/// Method  one for all heads, or a list (vector, span) of one per head or one per key/value head.
/// Errors  as attend; ShapeError where sizes do not fit.
/// Cost    batch times multi_head_attend.
/// Threads parallel over entries and heads, and within heads where there are fewer of them than threads; the bits of
///         `attend` on each head.
template <class Q, class K, class V, class Method = ExactAttention<>>
auto batch_attend(const Q& q, const K& k, const V& v, const AttentionOptions& options = {}, const Method& method = {},
                  const Context& context = {}) -> MultiHeadResult<detail::OperandScalar<Q>> {
  detail::require_tensors<Q, K, V>();
  using S = typename Q::Scalar;
  using Sum = Accumulator<S>;
  const auto read_q = detail::read_only(q), read_k = detail::read_only(k), read_v = detail::read_only(v);
  const detail::BatchShape shape = detail::check_batch<S>(read_q, read_k, read_v, options, method, context);
  auto result = detail::result_of_heads<S, Method>(shape.n_entries * shape.n_q, shape.n_heads, shape.d_v);
  const auto out = tokens_first(result.out.data(), shape.n_entries, shape.n_q, shape.n_heads, shape.d_v);
  detail::BatchLse<Sum> lse;
  if (result.lse.size() > 0) lse = {result.lse.data(), shape.n_q * shape.n_heads, 1, shape.n_heads};
  detail::attend_batch<S>(out, lse, read_q, read_k, read_v, shape, options, method, context);
  return result;
}

}  // namespace heed
