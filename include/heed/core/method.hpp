#pragma once
#include <concepts>
#include <span>
#include <type_traits>

#include "heed/core/context.hpp"
#include "heed/core/gradients.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"

namespace heed {

// What an attention method must and may offer. A method is an immutable value; every member below is const and
// re-entrant. It is given *calls*: the heads of one call, all of one shape, `heads_per_kv` consecutive ones sharing
// keys and values (engine/head_call.hpp has their members: q, k, v, out, lse, head). Shapes, masks, options and
// outputs have been checked by then.
//
//   static constexpr bool has_softmax
//       must. Whether it writes log-sum-exp values.
//   Pairs pairs(calls, heads_per_kv, options, context, frame)
//       this or attend_heads. The pairs of all heads, for methods whose answer is a softmax over pairs of keys. It is
//       asked once a call, routes tokens there, counts that as Phase::route, and takes what it needs from `frame`;
//       the engine does the rest, and so do key importance and Monte-Carlo values. The context brings a workspace.
//   bool names_pairs()
//       may. False where this instance also sees what is no pair of keys; it then needs attend_heads.
//   score_mod
//       may. A member: the score functor of methods that name pairs (core/score_mod.hpp).
//   void attend_heads(calls, heads_per_kv, options, context)
//       this or pairs. Computes the heads, writes every row of out (and of lse where it is not null), counts its
//       work. It refuses what it cannot mean before it writes anything.
//   void check_heads(const CallShape& heads, options)
//       may. Throws what a call with such heads would throw (core/check.hpp): all methods of a list are asked before
//       the first writes. What pairs() throws needs no check: a list makes all of its pairs before the first writes.
//   void check_backward(backward)
//       may. Throws where this instance has not the gradient that is asked for (core/gradients.hpp).
//   void attend_heads_backward(calls, heads_per_kv, options, backward, gradients, context)
//       must, of methods that do not name pairs and are to have a gradient. Calls have d_out, known_lse and mean
//       (d_out . out less d_lse, of each query) as well, and sums d_q, d_k and d_v, to which it adds; heads that share
//       keys share the last two. It also writes those members of `gradients` that exist and are not of size 0,
//       summed over the calls in an order that threads do not change. Counts backward_scores and backward_values.
//   void add_gradients(calls, heads_per_kv, options, backward, gradients, context)
//       may, of methods that name pairs: the gradient beyond that of the pairs, such as that of routing. Asked once the
//       pairs' own is there; else as attend_heads_backward.
//   typename Gradients; void size_gradients(Gradients&); void check_gradients(gradients)
//       must, of methods with parameters that learn: their gradients, an aggregate of matrices that attend_backward
//       returns among others; makes room for them; throws ShapeError where a member of what the caller brought does
//       not fit, a size of 0 meaning that it is not wanted.
//   static constexpr bool sees_all_keys = true
//       may. Queries see every key that the mask keeps.
//   void check_key_weights()
//       may. Throws where this instance cannot tell what single keys weigh, though others of its kind can.
//   void add_column_weights(calls, heads_per_kv, options, sums, context)
//       may. For methods without a score for each pair: adds to sums of key head c / heads_per_kv what call c gives
//       each key. The context brings a workspace.

namespace detail {

/// Largest weight and sum of squared weights of each key, over the queries of all heads that share it: largest[kv *
/// n_k + j], squares[kv * n_k + j]. Both start at 0 and take what is added.
template <class T>
struct ColumnSums {
  T* largest;
  T* squares;
};

/// A method that says which pairs of keys its softmax is over.
template <class Method, class Call>
concept NamesPairs = requires(const Method& method, std::span<const Call> calls, Workspace::Frame& frame) {
  method.pairs(calls, Index(1), AttentionOptions{}, Context{}, frame);
};

/// A method that computes heads by itself.
template <class Method, class Call>
concept AttendsHeads = requires(const Method& method, std::span<const Call> calls) {
  method.attend_heads(calls, Index(1), AttentionOptions{}, Context{});
};

/// A method that knows what its weights make of each key without a score for each pair.
template <class Method, class Call>
concept WeighsKeys = requires(const Method& method, std::span<const Call> calls,
                              const ColumnSums<typename Call::Sum>& sums) {
  method.add_column_weights(calls, Index(1), AttentionOptions{}, sums, Context{});
};

/// A method without pairs that has a gradient.
template <class Method, class Call>
concept GoesBackwardByItself = requires(const Method& method, std::span<const Call> calls, NoGradients& gradients) {
  method.attend_heads_backward(calls, Index(1), AttentionOptions{}, BackwardOptions{}, gradients, Context{});
};

/// The score functor of a method.
template <class Method>
decltype(auto) score_mod_of(const Method& method) {
  if constexpr (requires { method.score_mod; }) {
    return (method.score_mod);
  } else {
    return NoScoreMod{};
  }
}

}  // namespace detail

/// True for what the doors take as a method for operands of this kind.
template <class Method, class Call>
concept AttentionMethod = requires {
  { Method::has_softmax } -> std::convertible_to<bool>;
}
&&(detail::NamesPairs<Method, Call> || detail::AttendsHeads<Method, Call>);

}  // namespace heed
