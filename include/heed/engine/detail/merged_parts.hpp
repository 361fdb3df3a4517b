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
#include "heed/engine/tasks.hpp"

namespace heed::detail {

/// One head's attention over disjoint sets of keys, merged by their log-sum-exp:
///   lse = log(e^lse_1 + e^lse_2), out = e^(lse_1 - lse) out_1 + e^(lse_2 - lse) out_2.
/// A part without a key for a query leaves its row alone, bit for bit. Source: Rabe and Staats 2021.
template <class Call>
class MergedParts {
 public:
  using T = typename Call::Sum;
  using Part = HeadCall<typename Call::Query, typename Call::Key, T>;

  MergedParts(const Call& call, Workspace::Frame& frame, int threads) : call_(call), threads_(threads) {
    const auto n_q = static_cast<std::size_t>(call.q.rows), d_v = static_cast<std::size_t>(call.v.cols);
    for (Buffer* buffer : {&sum_, &part_}) {
      buffer->out = frame.take<T>(n_q * d_v);
      buffer->lse = frame.take<T>(n_q);
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
    return {call_.q, call_.k, call_.v, {buffer.out, call_.q.rows, d_v(), d_v(), 1}, buffer.lse, 1, call_.head};
  }

  /// Merges what is there, adds the head's sink and writes the call's rows.
  void finish(const PerHead& sinks) {
    const T sink = sinks.given() ? static_cast<T>(sinks.of(call_.head)) : minus_infinity<T>;
    const auto write = [&, sink](Index i, const T* row) {
      T lse = sum_.lse[i], weight = 1;
      if (!is_minus_infinity(sink)) {
        const T all = log_add(lse, sink);
        weight = is_minus_infinity(lse) ? T(0) : std::exp(lse - all);
        lse = all;
      }
      for (Index c = 0; c < d_v(); ++c) call_.out(i, c) = static_cast<typename Call::Out>(row[c] * weight);
      if (call_.lse != nullptr) call_.lse[i * call_.lse_stride] = lse;
    };
    merge(write);
  }

 private:
  struct Buffer {
    T* out = nullptr;  // n_q x d_v
    T* lse = nullptr;  // n_q
  };
  static constexpr Index block = 128;

  Index d_v() const { return call_.v.cols; }

  static T log_add(T a, T b) {
    if (is_minus_infinity(a)) return b;
    if (is_minus_infinity(b)) return a;
    const T top = a < b ? b : a;
    return top + std::log(std::exp(a - top) + std::exp(b - top));
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
    const T mine = sum_.lse[i], theirs = part_.lse[i];
    const T* part = part_.out + i * d_v();
    if (is_minus_infinity(theirs)) return;
    sum_.lse[i] = log_add(mine, theirs);
    if (is_minus_infinity(mine)) {
      std::copy_n(part, d_v(), sum);
      return;
    }
    const T a = std::exp(mine - sum_.lse[i]), b = std::exp(theirs - sum_.lse[i]);
    for (Index c = 0; c < d_v(); ++c) sum[c] = a * sum[c] + b * part[c];
  }

  const Call& call_;
  int threads_;
  Buffer sum_, part_;
  Index n_parts_ = 0;
};

}  // namespace heed::detail
