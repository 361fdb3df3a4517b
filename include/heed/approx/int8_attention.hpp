#pragma once
#include <cstddef>
#include <new>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/check.hpp"
#include "heed/core/context.hpp"
#include "heed/core/errors.hpp"
#include "heed/core/method.hpp"
#include "heed/core/options.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/run_pairs.hpp"
#include "heed/exact/exact_attention.hpp"
#include "heed/exact/run_method.hpp"

namespace heed {

/// Softmax attention over the pairs of another method, by default all, with products of 8-bit whole numbers: for many
/// queries on CPUs that multiply bytes (AVX-512 VNNI), faster than bfloat16.
///
///     attend(q, k, v, {.mask = {.causal = Causal::square}}, Int8Attention{});
///     attend(q, k, v, {}, Int8Attention{WindowAttention(512)});
///
///     q_i = a_i Q_i,   k_j = m + b_j K_j,   v_j = g_j V_j,   w_ij g_j = h_iB W_ij for the keys j of block B
///     out_i = sum_B h_iB sum_{j in B} W_ij V_j / sum_j w_ij
///
/// Q, K, V and W are whole numbers of 8 bits. Each row of q, k and v has a scale of its own (a, b, g); m is the mean of
/// up to 128 keys beside each other, without those that stand out, or 0 for a key that it would not help. A block is 64
/// keys, and h_iB such that its largest W_ij is 255. Scores, masks, biases, functors, sums of weights and of blocks are
/// float. The error is that of rounding: on trained heads .009 of the norm of out (bfloat16 .003). It is more where one
/// number of a row is far larger than the others: a column of v a hundred times as large as the rest leaves the others
/// one of their 127 steps. What a mask hides costs the rest no digits, but may change the last of them, through m.
///
/// NaN and Inf of a query or a key make NaN of the rows that keep it, those of a value are as in the other method.
/// Numbers below 1e-34 lose digits, and scores of numbers above 1e34 may overflow. One query over all keys (decoding)
/// is answered by the other method.
///
/// Shapes  as attend; float, half and bfloat16. In double, and on other CPUs, the other method runs as it is.
/// Errors  as the other method; OptionError where its softmax is over more than pairs (TfOptions::leaf_cap). Gradients
///         and key importance do not compile: ask the other method for them.
/// Cost    the FLOPs of the other method, counted as such, in .4 of its time in float and .74 of that in bfloat16
///         (n = 2048, d = 64; Zen 5); a tile a thread of memory.
/// Threads const and re-entrant; the same bits for any context.threads.
/// Source  Zhang et al. 2024 (SageAttention: keys less their mean, a scale a block).
template <class Method = ExactAttention<>>
class Int8Attention {
 public:
  static constexpr bool has_softmax = true;
  static constexpr bool reads_no_keys = detail::reads_no_keys<Method>;
  static_assert(Method::has_softmax, "heed: Int8Attention needs a method with a softmax over pairs of keys");

  Int8Attention() = default;
  explicit Int8Attention(Method method) : method_(std::move(method)) {}

  const Method& method() const { return method_; }

  /// See core/method.hpp.
  void check_heads(const CallShape& heads, const AttentionOptions& options) const {
    if constexpr (requires { method_.names_pairs(); }) {
      if (!method_.names_pairs())
        throw OptionError("Int8Attention: the softmax of its method must be over pairs of keys alone (no leaf_cap)");
    }
    if constexpr (requires { method_.check_heads(heads, options); }) method_.check_heads(heads, options);
  }

  /// See core/method.hpp.
  template <class Call>
    requires detail::NamesPairs<Method, Call>
  void attend_heads(std::span<const Call> calls, Index heads_per_kv, const AttentionOptions& options,
                    const Context& context) const {
    using InBytes =
        detail::HeadCall<typename Call::Query, typename Call::Key, typename Call::Out, detail::Products::of_int8>;
    Workspace::Frame frame(*context.workspace);
    InBytes* in_bytes = frame.template take<InBytes>(static_cast<Index>(calls.size()));
    for (std::size_t c = 0; c < calls.size(); ++c)
      new (in_bytes + c) InBytes(calls[c].template with<detail::Products::of_int8>());
    detail::MethodRun<Method> run(method_, frame);
    run.prepare(calls, heads_per_kv, options, context);
    run.visit_pairs(calls, heads_per_kv, [&](const detail::Pairs& pairs, auto, Index share, const auto& score_mod) {
      detail::run_pairs(pairs, std::span<const InBytes>(in_bytes, calls.size()), share, options, score_mod, context);
    });
  }

 private:
  Method method_{};
};

Int8Attention()->Int8Attention<ExactAttention<>>;

}  // namespace heed
