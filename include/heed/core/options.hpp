#pragma once
#include <optional>

#include "heed/core/mask.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/types.hpp"

namespace heed {

/// How scores become weights, in this order: s = scale * q.k; softcap; bias and ALiBi; score functor; mask; softmax.
/// Numbers are judged in the scalar sums are kept in (float for float, half and bfloat16): what overflows there, or
/// vanishes without being 0, is refused. Only entries of a bias saturate: one past the largest float counts as that.
struct AttentionOptions {
  std::optional<double> scale{};    ///< multiplies q.k; any finite value; default 1/sqrt(d), d the width of the keys
  Mask mask{};                      ///< which pairs take part; default: all
  std::optional<double> softcap{};  ///< s -> softcap * tanh(s / softcap); must be > 0; default: off
  PerHead sinks{};                  ///< attention sink: a logit per head that joins the softmax and has no value row
};

/// How packed rows split into heads.
struct HeadOptions {
  Index n_heads = 1;                  ///< query heads; >= 1
  std::optional<Index> n_kv_heads{};  ///< key/value heads; must divide n_heads; default: n_heads
};

}  // namespace heed
