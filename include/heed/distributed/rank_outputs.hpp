#pragma once
#include <type_traits>
#include <utility>

#include "heed/core/errors.hpp"
#include "heed/core/result.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/exact/attend.hpp"
#include "heed/exact/multi_head.hpp"

namespace heed::detail {

/// Where a rank writes what a call over ranks gives it. out: n_q x (n_heads * d_v), lse: n_q x n_heads, its data null
/// where it is not wanted.
template <class To, class T>
struct RankOutputs {
  View<To> out;
  View<T> lse;

  RankOutputs rows_from(Index first, Index count) const {
    return {out.rows_from(first, count), lse.rows_from(first, count)};
  }
};

/// Outputs of n_q queries that the caller owns: a function of the call's heads, which gives them or says what is wrong
/// with them. All ranks come to an agreement on that.
template <class S, class Out, class Lse>
auto outputs_of_caller(Out&& out, Lse&& lse, Index n_q) {
  const auto to = output_of<S>(std::forward<Out>(out));
  const auto lse_to = lse_output_of<S>(std::forward<Lse>(lse));
  return [to, lse_to, n_q](const PackedHeads& packed) {
    RankOutputs<typename std::remove_cvref_t<decltype(to)>::Scalar, Accumulator<S>> checked{to, lse_to};
    check_head_outputs(checked.out, checked.lse, n_q, packed.n_heads, packed.d_v);
    return checked;
  };
}

/// The same of one head.
template <class S, class Out>
auto outputs_of_caller_head(Out&& out, const LseSpan<Accumulator<S>>& lse, Index n_q) {
  const auto to = output_of<S>(std::forward<Out>(out));
  return [to, lse, n_q](const PackedHeads& packed) {
    if (lse.wanted() && lse.size() != n_q)
      throw ShapeError(message("lse has ", lse.size(), " entries but must have rows(q) = ", n_q));
    check_output(to.rows, to.cols, n_q, packed.d_v);
    return RankOutputs<typename std::remove_cvref_t<decltype(to)>::Scalar, Accumulator<S>>{
        to, {lse.data(), lse.size(), 1, lse.stride(), 1}};
  };
}

/// Makes room for the result of n_q queries: a function of the call's heads, as outputs_of_caller.
template <class S>
auto outputs_of_result(MultiHeadResult<S>& result, Index n_q) {
  return [&result, n_q](const PackedHeads& packed) {
    result.out.resize(n_q, packed.n_heads * packed.d_v);
    result.lse.resize(n_q, packed.n_heads);
    return RankOutputs<S, Accumulator<S>>{output_view_of(result.out), output_view_of(result.lse)};
  };
}

/// The same of one head.
template <class S>
auto outputs_of_result(AttentionResult<S>& result, Index n_q) {
  return [&result, n_q](const PackedHeads& packed) {
    result.out.resize(n_q, packed.d_v);
    result.lse.resize(n_q);
    return RankOutputs<S, Accumulator<S>>{output_view_of(result.out), {result.lse.data(), n_q, 1, 1, 1}};
  };
}

}  // namespace heed::detail
