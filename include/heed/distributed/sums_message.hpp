#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <span>

#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/distributed/failure.hpp"
#include "heed/distributed/ranks.hpp"
#include "heed/engine/softmax_sums.hpp"

namespace heed::detail {

/// What goes from rank to rank while sums are merged: who has failed, and the sums of all heads. A rank that fails
/// stays in the chain, so that nobody waits for it.
template <class T>
class SumsMessage {
 public:
  /// Room for so many queries, in a frame that stays open: what follows allocates nothing.
  void reserve(Workspace::Frame& frame, Index n_heads, Index n_q, Index d_v) {
    const Index numbers = n_heads * SoftmaxSums<T>::size(n_q, d_v);
    memory_ = frame.take<std::byte>(static_cast<Index>(head_bytes) + static_cast<Index>(sizeof(T)) * numbers);
    sums_ = {frame.take<SoftmaxSums<T>>(n_heads), static_cast<std::size_t>(n_heads)};
  }
  /// Of n_q queries now, the scores of head h having the factor factor_of(h).
  template <class FactorOf>
  void begin(Index n_heads, Index n_q, Index d_v, const FactorOf& factor_of) {
    const Index size = SoftmaxSums<T>::size(n_q, d_v);
    bytes_ = head_bytes + sizeof(T) * static_cast<std::size_t>(n_heads * size);
    T* numbers = reinterpret_cast<T*>(memory_ + head_bytes);
    for (Index h = 0; h < n_heads; ++h)
      new (&sums_[static_cast<std::size_t>(h)]) SoftmaxSums<T>{numbers + h * size, n_q, d_v, 1, factor_of(h)};
    set_failed(-1);
  }
  std::span<const SoftmaxSums<T>> sums() const { return sums_; }

  /// Merges the sums of all ranks in their order, which is that of their keys, and gives them to every rank: from rank
  /// to rank, then from the last to all. `own`: this rank's, one a head. Where a rank has failed, all throw what it
  /// kept.
  void merge_over(const Ranks& ranks, std::span<const SoftmaxSums<T>> own, const Failure& failure) {
    constexpr int tag = 1;
    if (ranks.rank() > 0) receive(ranks, memory_, bytes_, ranks.behind(-1), tag);
    if (failure && failed() < 0) set_failed(ranks.rank());
    for (std::size_t h = 0; h < own.size() && failed() < 0; ++h) {
      if (ranks.rank() == 0) {
        std::copy_n(own[h].numbers, SoftmaxSums<T>::size(own[h].n_q, own[h].d_v), sums_[h].numbers);
        for (Index c = 1; c < own[h].n_chunks; ++c) sums_[h].chunk(0).merge(own[h].chunk(c));
      } else {
        sums_[h].merge(own[h]);
      }
    }
    if (ranks.rank() + 1 < ranks.size()) detail::send(ranks, memory_, bytes_, ranks.behind(1), tag);
    broadcast(ranks, memory_, bytes_, ranks.size() - 1);
    if (failed() >= 0) failure.throw_that_of(ranks, static_cast<Index>(failed()));
  }

 private:
  static constexpr std::size_t head_bytes = 64;  // the sums stand aligned behind it

  std::int64_t failed() const {
    std::int64_t rank = 0;
    std::memcpy(&rank, memory_, sizeof rank);
    return rank;
  }
  void set_failed(std::int64_t rank) { std::memcpy(memory_, &rank, sizeof rank); }

  std::size_t bytes_ = 0;
  std::byte* memory_ = nullptr;
  std::span<SoftmaxSums<T>> sums_;
};

}  // namespace heed::detail
