#pragma once
#include <limits>
#include <optional>

#include "heed/core/pair_view.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/sequence_offsets.hpp"
#include "heed/core/types.hpp"

namespace heed {

/// Which corner the causal diagonal starts from. With shift s, query i sees keys j <= i + s:
///   square        s = 0; refused unless n_q = n_k          top_left      s = 0
///   bottom_right  s = n_k - n_q: the last query sees every key (decoding); of the real lengths where they are given
enum class Causal { none, square, top_left, bottom_right };

/// Which (query, key) pairs take part. All parts intersect. Positions are those of the token's own sequence, and the
/// aligned diagonal is j = i + s with the shift of `causal` or, where it is given, `shift` (s = 0 for Causal::none).
struct Mask {
  static constexpr Index unlimited = std::numeric_limits<Index>::max();

  Causal causal = Causal::none;        ///< hides the future; off by default
  std::optional<Index> shift{};        ///< s: query i stands at position i + s; refused with square and bottom_right
  Index window_left = unlimited;       ///< keeps j >= i + s - window_left (inclusive); >= 0
  Index window_right = unlimited;      ///< keeps j <= i + s + window_right (inclusive); >= 0
  Index n_real_keys = unlimited;       ///< keys from here on are padding; 0 .. n_k
  BoolView keys{};                     ///< 1 x n_k, or batch x n_k: true = a key that is there; others are skipped
  SequenceOffsets key_lengths{};       ///< one an entry of the batch: keys from there on are padding
  SequenceOffsets query_lengths{};     ///< one an entry: queries from there on are padding, out = 0 and lse = -inf
  BoolView allowed{};                  ///< true = may attend; n_q x n_k, or as PairView has it
  BiasView bias{};                     ///< added after softcap, -inf masks; n_q x n_k, or as PairView has it
  PerHead alibi_slope{};               ///< adds -slope * |i + s - j|; one for all heads or one per head
  SequenceOffsets sequence_offsets{};  ///< packed batch: query rows [o_b, o_{b+1}) see only keys of sequence b
  SequenceOffsets key_sequence_offsets{};  ///< offsets of the keys where they differ; default: sequence_offsets
};

}  // namespace heed
