#pragma once
#include <algorithm>
#include <concepts>
#include <cstddef>
#include <type_traits>

#include "heed/core/key_bounds.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/score_mod.hpp"
#include "heed/core/types.hpp"
#include "heed/exact/exact_attention.hpp"

namespace heed::detail {

/// Consecutive tokens of all that the ranks hold together.
struct TokenRange {
  Index first = 0, size = 0;
  Index end() const { return first + size; }
};

/// Some queries and keys of a call over all ranks, as a call of their own.
struct CallBlock {
  TokenRange queries, keys;  ///< in positions of the whole call
  AttentionOptions options;  ///< in positions of the block
};

/// The options of a whole call of n_q queries and n_k keys in n_heads heads, for the pairs of `queries` and `keys`,
/// which lie in one sequence whose diagonal is j = i + shift. `options` have no lengths (real_tokens_of).
inline AttentionOptions options_of_block(const AttentionOptions& options, const TokenRange& queries,
                                         const TokenRange& keys, Index shift, Index n_q, Index n_heads) {
  AttentionOptions own = options;
  Mask& mask = own.mask;
  mask.causal = mask.causal == Causal::none ? Causal::none : Causal::top_left;
  mask.shift = shift + queries.first - keys.first;
  if (mask.n_real_keys != Mask::unlimited)
    mask.n_real_keys = std::clamp<Index>(mask.n_real_keys - keys.first, 0, keys.size);
  mask.keys = mask.keys.of_columns(keys.first, keys.size);
  mask.allowed = mask.allowed.of_columns(keys.first, keys.size);
  mask.bias = mask.bias.of_columns(keys.first, keys.size);
  if (queries.first != 0 || queries.size != n_q) {
    mask.allowed = mask.allowed.of_queries(queries.first, queries.size, n_q, n_heads);
    mask.bias = mask.bias.of_queries(queries.first, queries.size, n_q, n_heads);
  }
  mask.sequence_offsets = mask.key_sequence_offsets = SequenceOffsets();
  return own;
}

/// True where positions let some query of a block see some key of it.
inline bool some_pair_is_seen(const Mask& mask, Index n_q, Index n_k) {
  const Index reach = reach_of(mask, n_q, n_k), shift = mask.shift.value_or(0);
  const Index left = std::min(mask.window_left, reach);
  const Index right = mask.causal != Causal::none ? 0 : std::min(mask.window_right, reach);
  const Index real = std::min(mask.n_real_keys, n_k);
  return n_q > 0 && std::max<Index>(shift - left, 0) < std::min(n_q - 1 + shift + right + 1, real);
}

/// Calls visit(block) for the pairs of `queries` and `keys` of a whole call, a block a packed sequence. Blocks of which
/// positions hide all are left out unless `unseen`.
template <class Visit>
void for_each_block(const AttentionOptions& options, const TokenRange& queries, const TokenRange& keys, Index n_q,
                    Index n_k, Index n_heads, bool unseen, const Visit& visit) {
  const Mask& mask = options.mask;
  const auto cut = [](const TokenRange& range, Index from, Index to) {
    const Index first = std::clamp(from, range.first, range.end());
    return TokenRange{first, std::clamp(to, first, range.end()) - first};
  };
  const auto add = [&](Index q_from, Index q_to, Index k_from, Index k_to) {
    const TokenRange own_q = cut(queries, q_from, q_to), own_k = cut(keys, k_from, k_to);
    Index shift = k_from - q_from + mask.shift.value_or(0);
    if (mask.causal == Causal::bottom_right) shift += (k_to - k_from) - (q_to - q_from);
    const CallBlock block{own_q, own_k, options_of_block(options, own_q, own_k, shift, n_q, n_heads)};
    if (unseen || some_pair_is_seen(block.options.mask, own_q.size, own_k.size)) visit(block);
  };
  const SequenceOffsets& q_offsets = mask.sequence_offsets;
  const SequenceOffsets& k_offsets = mask.key_sequence_offsets.empty() ? q_offsets : mask.key_sequence_offsets;
  if (q_offsets.empty()) return add(0, n_q, 0, n_k);
  for (std::size_t b = 1; b < q_offsets.size(); ++b)
    add(q_offsets[b - 1], q_offsets[b], k_offsets[b - 1], k_offsets[b]);
}

/// A score functor of the whole call, for a block of it.
template <class ScoreMod>
struct BlockScoreMod {
  const ScoreMod* mod;
  Index first_query, first_key;

  template <class T>
  T operator()(T s, Index i, Index j) const {
    return static_cast<T>((*mod)(s, i + first_query, j + first_key));
  }
  template <class T>
  T derivative(T s, Index i, Index j) const requires requires {
    mod->derivative(s, i, j);
  }
  { return static_cast<T>(mod->derivative(s, i + first_query, j + first_key)); }
};

/// What ranks can merge: exact attention, with a score functor or without. Other methods choose pairs by what they see
/// of all keys at once, or have no softmax.
template <class Method>
inline constexpr bool is_exact = false;
template <class ScoreMod>
inline constexpr bool is_exact<ExactAttention<ScoreMod>> = true;

template <class Method>
constexpr void require_exact() {
  static_assert(is_exact<Method>,
                "heed: attention over several ranks is exact attention (ExactAttention, with a score functor or "
                "without): other methods need all keys in one place");
}

/// The method for a block that begins at these positions.
template <class ScoreMod>
auto method_of_block(const ExactAttention<ScoreMod>& method, const CallBlock& block) {
  if constexpr (std::is_same_v<ScoreMod, NoScoreMod>) {
    return method;
  } else {
    return ExactAttention{BlockScoreMod<ScoreMod>{&method.score_mod, block.queries.first, block.keys.first}};
  }
}

}  // namespace heed::detail
