#pragma once

namespace heed {

/// Stands for "no score functor": costs nothing. A functor is any copyable, const-callable object (s, i, j) -> s that gets the
/// score of query i and key j after softcap and bias, in natural units, and returns the score the softmax sees.
struct NoScoreMod {};

}  // namespace heed
