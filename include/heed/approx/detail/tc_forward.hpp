#pragma once
#include <algorithm>
#include <cstddef>
#include <type_traits>

#include "heed/approx/detail/query_blocks.hpp"
#include "heed/approx/detail/tc_head.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/key_bounds.hpp"
#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/trees/path_sums.hpp"

namespace heed::detail {

/// The forward pass of one head of TC-attention.
template <class Call>
class TcForward {
 public:
  using T = typename Call::Sum;

  explicit TcForward(const TcHead<Call>& head) : head_(head) {}

  /// Writes all rows of out. `flops`: null, or counts additions of rows as one flop an entry, weights times rows as
  /// two.
  void run(FlopCounter* flops) {
    head_.causal() ? attend_causal() : attend_whole();
    if (flops == nullptr) return;
    const double d_v = static_cast<double>(head_.call.v.cols), d = static_cast<double>(head_.key_width());
    const double added = static_cast<double>(rows_added_), read = static_cast<double>(levels_read_);
    const Index n_k = head_.call.k.rows;
    flops->add_products(Phase::values, (added + 2.0 * read) * d_v);
    flops->add_products(Phase::scores, (added + 2.0 * read) * d);
    flops->add_exponentials(read);
    flops->add_tokens(static_cast<double>(std::min(n_k, head_.mask.n_real_keys)), static_cast<double>(n_k));
  }

 private:
  using Sums = PathSums<T>;

  // All keys of a sequence at once: sums in the leaves, then upwards, then read.
  void attend_whole() {
    const Call& call = head_.call;
    Workspace::Frame frame(head_.workspace);
    const Index n_leaves = head_.n_leaves(), d_v = call.v.cols;
    const Sums sums = Sums::take(frame, head_.height, d_v, head_.key_width());
    T* table = frame.take<T>(n_leaves * d_v);
    bool* ready = frame.take<bool>(n_leaves);
    T* weights = frame.take<T>(head_.n_levels());
    const OwnKeys own(head_.mask, call.q.rows, call.k.rows);
    rows_added_ = head_.keys.size(0, n_leaves);
    for (Index first = 0, end = 0; first < call.q.rows; first = end) {
      const KeyRange range = own.of(first);
      end = end_of_sequence(head_.mask, first, call.q.rows);
      const double additions = static_cast<double>((range.high - range.low) * d_v);
      sum_keys(sums, call.k, call.v, head_.keys, range.low, range.high, head_.addition_threads(additions));
      rows_added_ += n_leaves - 1;
      std::fill_n(ready, n_leaves, false);
      for (Index i = first; i < end; ++i) {
        const Index leaf = head_.query_leaf[i];
        T* known = table + leaf * d_v;
        if (head_.levels.by_query || !ready[leaf]) {
          ready[leaf] = true;
          levels_read_ += read_path(sums, leaf, head_.levels, call.q, i, weights, known);
        }
        write(i, 0, d_v, known);
      }
    }
  }

  // Running sums along the keys, which every query reads in turn. Threads share out the columns.
  void attend_causal() {
    const Call& call = head_.call;
    const Index d_v = call.v.cols;
    const double additions = 2.0 * static_cast<double>(call.q.rows * d_v * head_.n_levels());
    // A task is a few columns for all tokens; by_query weighs by whole rows of keys: one task.
    const int share = head_.levels.by_query ? 1 : head_.addition_threads(additions);
    const Index width = shared_columns(d_v, share), n_tasks = std::max<Index>(1, (d_v + width - 1) / width);
    Workspace::Frame frame(head_.workspace);
    const OwnKeys own(head_.mask, call.q.rows, call.k.rows);
    const Index* key_leaf = head_.keys.leaf_of();
    rows_added_ = head_.n_levels() * head_.keys.size(0, head_.n_leaves());
    for_each_task(
        n_tasks, share, frame, [&](Scratch& scratch) { return CausalState(scratch, head_, width); },
        [&](CausalState& state, Index task) {
          const Index first = task * width, n = std::min(width, d_v - first);
          Sums& sums = state.sums;
          sums.d_v = n;
          const auto values = call.v.columns(first, n);
          Index low = -1, next = 0;
          for (Index i = 0; i < call.q.rows; ++i) {
            const KeyRange range = own.of(i);
            if (range.low != low) {  // another sequence
              sums.clear();
              low = next = range.low;
            }
            for (; next < range.high; ++next) {
              if (head_.keys.has(next)) sums.add_path(key_leaf[next], call.k, values, next);
            }
            const Index read = read_path(sums, head_.query_leaf[i], head_.levels, call.q, i, state.weights, state.row);
            if (task == 0) levels_read_ += read;  // every task reads them
            write(i, first, n, state.row);
          }
        });
  }

  // Columns [first, first + n) of row i of the call's output.
  void write(Index i, Index first, Index n, const T* row) const {
    const auto& out = head_.call.out;
    if constexpr (std::is_same_v<typename Call::Out, T>) {
      if (out.col_stride == 1) {
        std::copy_n(row, n, out.data + i * out.row_stride + first);
        return;
      }
    }
    for (Index c = 0; c < n; ++c) out(i, first + c) = static_cast<typename Call::Out>(row[c]);
  }

  struct CausalState {
    CausalState(Scratch& scratch, const TcHead<Call>& head, Index width)
        : sums(Sums::take(scratch, head.height, width, head.key_width())),
          weights(scratch.take<T>(head.n_levels())),
          row(scratch.take<T>(width)) {}
    Sums sums;
    T* weights;
    T* row;
  };

  TcHead<Call> head_;
  Index rows_added_ = 0;   // to nodes
  Index levels_read_ = 0;  // of paths
};

}  // namespace heed::detail
