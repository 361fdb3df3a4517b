#pragma once
#include <algorithm>
#include <cmath>

#include "heed/core/types.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// Shares a total of products among the tokens of one sequence and one key head, where the largest products of each
/// token are taken: r_j = #{ k : weight_j |y_jk| |W_k| >= floor } with one floor for all. That makes the summed squared
/// error least, because what is left out is whatever weighs least, wherever it stands.
///
/// `row(j, room)` gives y_j; weight_j = 0 leaves token j out.
template <class T, class Row>
class ThresholdCounts {
 public:
  ThresholdCounts(Index n, Index d_in, const T* weights, const T* norms, const Row& row, Workspace& workspace,
                  int threads)
      : n_(n),
        d_in_(d_in),
        weights_(weights),
        norms_(norms),
        row_(row),
        workspace_(workspace),
        threads_(threads),
        kernels_(project_kernels<T>(active_isa())) {}

  /// Fills counts so that they sum to `total` or a little less. floors[j] becomes the floor in units of |y_jk| |W_k|.
  void fill(double total, Index* counts, T* floors) {
    Workspace::Frame frame(workspace_);
    std::fill(counts, counts + n_, Index(0));
    if (d_in_ == 0) return;
    // One eighth of each row, another one for each token, tells the floor well enough to start from.
    const Index lanes = kernels_.lanes, part = ((d_in_ + 7) / 8 + lanes - 1) / lanes * lanes;
    const Index n_parts = (d_in_ + part - 1) / part;
    padded_ = (d_in_ + lanes - 1) / lanes * lanes;
    some_ = frame.take<T>(n_ * part);
    T* room = frame.take<T>(padded_);
    double all = 0;
    T largest = 0;
    for (Index j = 0; j < n_; ++j) {
      if (!(weights_[j] > 0)) continue;
      const Index from = j % n_parts * part, size = std::min(part, d_in_ - from);
      T* to = some_ + n_some_;
      kernels_.products(size, row_(j, room) + from, norms_ + from, to);
      for (Index k = 0; k < size; ++k) largest = std::max(largest, to[k] *= weights_[j]);
      n_some_ += (size + lanes - 1) / lanes * lanes;  // entries behind the part are -1 and stay below every floor
      n_sized_ += static_cast<double>(size);
      all += static_cast<double>(d_in_);
    }
    if (!(largest > 0) || !(total >= 1)) return;
    if (total >= all) {
      for (Index j = 0; j < n_; ++j) counts[j] = weights_[j] > 0 ? d_in_ : 0;
      return;
    }
    double aim = total, sum = 0;
    T many = 0, few = 0;  // floors that left too many and too few products; 0: none yet
    for (int pass = 0; pass < 6; ++pass) {
      const T floor = many > 0 && few > 0 ? std::sqrt(many * few) : floor_for(aim / all * n_sized_, largest);
      count(floor, counts, floors);
      sum = 0;
      for (Index j = 0; j < n_; ++j) sum += static_cast<double>(counts[j]);
      if (sum <= total && sum >= 0.99 * total) break;
      (sum > total ? many : few) = floor;
      aim *= 0.998 * total / std::max(sum, 1.0);
    }
    for (const Index least : {1, 0}) {  // the last few one by one; the only product of a token goes last
      for (double before = sum + 1; sum > total && sum < before;) {
        before = sum;
        for (Index j = 0; j < n_ && sum > total; ++j) {
          if (counts[j] > least) --counts[j], --sum;
        }
      }
    }
  }

 private:
  // The floor at which `wanted` entries of the part of all rows are left.
  T floor_for(double wanted, T largest) const {
    T low = largest * T(1e-6), high = largest;
    for (int step = 0; step < 26; ++step) {
      const T middle = std::sqrt(low * high);
      (static_cast<double>(kernels_.count_above(n_some_, some_, middle)) > wanted ? low : high) = middle;
    }
    return high;
  }

  void count(T floor, Index* counts, T* floors) {
    Workspace::Frame inside(workspace_);
    constexpr Index chunk = 32;
    for_each_task((n_ + chunk - 1) / chunk, threads_, inside,
                  [&](Scratch& scratch) { return scratch.take<T>(2 * padded_); },
                  [&](T* room, Index task) {
                    for (Index j = task * chunk; j < std::min(n_, (task + 1) * chunk); ++j) {
                      if (!(weights_[j] > 0)) continue;
                      kernels_.products(d_in_, row_(j, room), norms_, room + padded_);
                      floors[j] = floor / weights_[j];
                      counts[j] = kernels_.count_above(d_in_, room + padded_, floors[j]);
                    }
                  });
  }

  Index n_, d_in_;
  const T *weights_, *norms_;
  const Row& row_;
  Workspace& workspace_;
  int threads_;
  const ProjectKernels<T>& kernels_;
  Index padded_ = 0, n_some_ = 0;
  double n_sized_ = 0;
  T* some_ = nullptr;
};

}  // namespace heed::detail
