#pragma once

namespace heed {

/// Stands for "no score functor": costs nothing. A functor is any copyable, const-callable object (s, i, j) -> s that
/// gets the score of query i and key j after softcap and bias, in natural units, and returns the score the softmax
/// sees. It is called from all threads of a call, while rows are being written: where it throws, the call throws the
/// same when its threads are done, and rows of out and lse may then be written or not. Whatever else is wrong with a
/// call is found before the first row is written.
struct NoScoreMod {};

}  // namespace heed
