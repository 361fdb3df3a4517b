#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <utility>

#include "heed/core/floating.hpp"
#include "heed/core/per_head.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/split_lse.hpp"
#include "heed/engine/tasks.hpp"

namespace heed::detail {

/// One head's attention over disjoint sets of keys, merged by their log-sum-exp:
///   lse = log(e^lse_1 + e^lse_2), out = e^(lse_1 - lse) out_1 + e^(lse_2 - lse) out_2.
/// A huge lse has no digits left for the sum of weights: then what it is made of (SplitLse) is merged in its place. A
/// part without a key for a query leaves its row alone, bit for bit.
/// Source: Rabe and Staats 2021.
template <class Call>
class MergedParts {
 public:
  using T = typename Call::Sum;
  using Part = HeadCall<typename Call::Query, typename Call::Key, T, Call::products>;

  /// `factor` brings scores to base-2 exponents.
  MergedParts(const Call& call, T factor, Workspace::Frame& frame, int threads)
      : call_(call), factor_(factor), threads_(threads) {
    const Index n_q = call.q.rows, d_v = call.v.cols;
    for (Buffer* buffer : {&sum_, &part_}) {
      buffer->out = frame.take<T>(n_q * d_v);
      buffer->lse = frame.take<T>(n_q);
      buffer->split = frame.take<SplitLse>(n_q);
    }
  }

  Index n_q() const { return call_.q.rows; }

  /// Where the next part goes: rows of 0 and -inf until it is written.
  Part next() {
    if (n_parts_ > 1) merge([](Index, const T*) {});  // rows are summed in place
    ++n_parts_;
    Buffer& buffer = n_parts_ == 1 ? sum_ : part_;
    std::fill_n(buffer.out, call_.q.rows * d_v(), T(0));
    std::fill_n(buffer.lse, call_.q.rows, minus_infinity<T>);
    std::fill_n(buffer.split, call_.q.rows, SplitLse{});
    const View<T> out{buffer.out, call_.q.rows, d_v(), d_v(), 1};
    return {call_.q, call_.k, call_.v, out, buffer.lse, 1, call_.head, buffer.split};
  }

  /// Merges what is there, adds the head's sink and writes the call's rows.
  void finish(const PerHead& sinks) {
    const T sink = sinks.given() ? static_cast<T>(sinks.of(call_.head)) : minus_infinity<T>;
    const auto write = [&, sink](Index i, const T* row) {
      const T weight = is_minus_infinity(sink)
                           ? T(1)
                           : add_to_lse(i, sink, SplitLse::of_sink(static_cast<double>(sink), factor_)).mine;
      for (Index c = 0; c < d_v(); ++c) call_.out(i, c) = static_cast<typename Call::Out>(row[c] * weight);
      if (call_.lse != nullptr) call_.lse[i * call_.lse_stride] = sum_.lse[i];
    };
    merge(write);
  }

 private:
  struct Buffer {
    T* out = nullptr;           // n_q x d_v
    T* lse = nullptr;           // n_q
    SplitLse* split = nullptr;  // n_q: nothing where only lse is known
  };
  struct Shares {
    T mine, theirs;
  };
  static constexpr Index block = 128;

  Index d_v() const { return call_.v.cols; }

  // Adds the sum of weights of another part to that of row i, and says what both are of the whole.
  Shares add_to_lse(Index i, T other, const SplitLse& split) {
    T& lse = sum_.lse[i];
    if (is_minus_infinity(lse)) {
      lse = other;
      sum_.split[i] = split;
      return {0, 1};
    }
    if (!needs_split(lse) && !needs_split(other)) {
      const T top = lse < other ? other : lse, all = top + std::log(std::exp(lse - top) + std::exp(other - top));
      const Shares shares{std::exp(lse - all), std::exp(other - all)};
      lse = all;
      sum_.split[i] = {};
      return shares;
    }
    const auto known = [](const SplitLse& two, T one) {
      return is_minus_infinity(two.top) ? SplitLse::of_lse(one) : two;
    };
    const SplitLse mine = known(sum_.split[i], lse), theirs = known(split, other), all = mine.plus(theirs);
    sum_.split[i] = all;
    lse = static_cast<T>(all.exponent() / SplitLse::log2_e);
    return {static_cast<T>(mine.share_of(all)), static_cast<T>(theirs.share_of(all))};
  }

  // Adds `part_` to `sum_` and gives every row of the sum to write(i, row).
  template <class Write>
  void merge(const Write& write) {
    const Index n_q = call_.q.rows;
    for_each_task((n_q + block - 1) / block, threads_for(static_cast<double>(n_q * d_v()), 1e5, threads_),
                  [&](Index task) {
                    const Index end = std::min(n_q, (task + 1) * block);
                    for (Index i = task * block; i < end; ++i) {
                      T* sum = sum_.out + i * d_v();
                      if (n_parts_ > 1) add_row(i, sum);
                      write(i, sum);
                    }
                  });
  }

  void add_row(Index i, T* sum) {
    if (is_minus_infinity(part_.lse[i])) return;
    const bool first = is_minus_infinity(sum_.lse[i]);
    const T* part = part_.out + i * d_v();
    const Shares shares = add_to_lse(i, part_.lse[i], part_.split[i]);
    if (first) {
      std::copy_n(part, d_v(), sum);
      return;
    }
    for (Index c = 0; c < d_v(); ++c) sum[c] = shares.mine * sum[c] + shares.theirs * part[c];
  }

  const Call& call_;
  T factor_;
  int threads_;
  Buffer sum_, part_;
  Index n_parts_ = 0;
};

}  // namespace heed::detail
