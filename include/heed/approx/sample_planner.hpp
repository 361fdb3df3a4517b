#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "heed/approx/sample_plan.hpp"
#include "heed/approx/threshold_counts.hpp"
#include "heed/approx/token_rows.hpp"
#include "heed/core/context.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/kept_keys.hpp"
#include "heed/core/mask.hpp"
#include "heed/core/options.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/column_panel.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/exact/importance.hpp"
#include "heed/kernels/select.hpp"
#include "heed/sampling/monte_carlo_options.hpp"
#include "heed/sampling/sample_counts.hpp"

namespace heed::detail {

/// True where the weights that a method gives single keys can be found.
template <class Run, class Call>
inline constexpr bool has_weights = Run::template weighs_keys<Call>() || Run::template names_pairs<Call>();

/// Throws where the budget needs weights and the method has none.
template <class Call, class Run>
void check_weights(const Run& run, Budget budget) {
  if (budget == Budget::constant) return;
  if constexpr (has_weights<Run, Call>) {
    run.check_key_weights();
  } else {
    throw OptionError(
        "heed: MonteCarloOptions::budget must be Budget::constant for a method that neither has a softmax over a "
        "pattern of pairs nor weighs keys itself: there are no weights to take the importance from");
  }
}

/// Decides how many products each token of each key head gets, for calls that share x. One object serves one call.
template <class S>
class SamplePlanner {
 public:
  using T = Accumulator<S>;

  SamplePlanner(const ConstView<S>& x, const ConstView<S>& w, const MonteCarloOptions& options, Workspace& workspace,
                int threads)
      : x_(x), w_(w), options_(options), workspace_(workspace), threads_(threads), isa_(active_isa()) {}

  template <class Call, class Run>
  PlanArrays<T> plan(Workspace::Frame& frame, std::span<const Call> calls, Index heads_per_kv,
                     const AttentionOptions& options, const Run& run, const Context& context) {
    check_weights<Call>(run, options_.budget);
    const Index n_q = calls.front().q.rows;
    PlanArrays<T> plan;
    plan.n_k = x_.rows;
    plan.d_in = x_.cols;
    plan.n_kv = static_cast<Index>(calls.size()) / heads_per_kv;
    plan.centred = options_.centred;
    const Index n_all = plan.n_kv * plan.n_k;
    plan.sequence = frame.take<Index>(plan.n_k);
    plan.x_norm = frame.take<T>(plan.n_k);
    plan.largest = frame.take<T>(n_all);
    plan.norm = frame.take<T>(n_all);
    plan.kept = frame.take<unsigned char>(n_all);
    plan.counts = frame.take<Index>(n_all);
    plan.floors = frame.take<T>(n_all);
    std::fill(plan.floors, plan.floors + n_all, T(0));
    find_sequences(plan, options.mask);
    if (options_.budget == Budget::constant) {
      std::fill(plan.largest, plan.largest + n_all, T(0));
      std::fill(plan.norm, plan.norm + n_all, T(0));
      std::fill(plan.kept, plan.kept + n_all, static_cast<unsigned char>(0));
      for (std::size_t c = 0; c < calls.size(); ++c) {
        flag_kept_keys(KeptKeys(options.mask, n_q, plan.n_k, calls[c].head), n_q,
                       plan.kept + static_cast<Index>(c) / heads_per_kv * plan.n_k, plan.n_k);
      }
    } else if constexpr (has_weights<Run, Call>) {
      key_importance(calls, heads_per_kv, options, run, context, ColumnSums<T>{plan.largest, plan.norm});
      for (Index j = 0; j < n_all; ++j) plan.kept[j] = plan.largest[j] > 0 ? 1 : 0;
    }
    measure_rows(frame, plan);
    count(plan);
    return plan;
  }

 private:
  void find_sequences(PlanArrays<T>& plan, const Mask& mask) const {
    std::fill(plan.sequence, plan.sequence + plan.n_k, Index(0));
    const std::span<const Index> offsets =
        mask.key_sequence_offsets.empty() ? mask.sequence_offsets : mask.key_sequence_offsets;
    if (offsets.empty()) return;
    plan.n_sequences = static_cast<Index>(offsets.size()) - 1;
    for (Index b = 0; b < plan.n_sequences; ++b) {
      const auto s = static_cast<std::size_t>(b);
      std::fill(plan.sequence + offsets[s], plan.sequence + offsets[s + 1], b);
    }
  }

  bool kept_somewhere(const PlanArrays<T>& plan, Index j) const {
    for (Index kv = 0; kv < plan.n_kv; ++kv) {
      if (plan.kept[kv * plan.n_k + j] != 0) return true;
    }
    return false;
  }

  // Norms of kept rows, less the mean row where centred. Rows that are not finite stay out of the mean: they are
  // multiplied exactly and spoil no other row.
  void measure_rows(Workspace::Frame& frame, PlanArrays<T>& plan) {
    plan.means = options_.centred ? frame.take<T>(plan.n_sequences * plan.d_in) : nullptr;
    std::fill(plan.x_norm, plan.x_norm + plan.n_k, T(0));
    row_norms(plan, nullptr);
    if (!options_.centred) return;
    plan.in_mean = frame.take<unsigned char>(plan.n_k);
    plan.n_in_mean = frame.take<Index>(plan.n_sequences);
    std::fill(plan.n_in_mean, plan.n_in_mean + plan.n_sequences, Index(0));
    Workspace::Frame inside(workspace_);
    std::fill(plan.means, plan.means + plan.n_sequences * plan.d_in, T(0));
    T* room = inside.take<T>(plan.d_in);
    const TokenRows<S> rows(x_, isa_);
    for (Index j = 0; j < plan.n_k; ++j) {
      plan.in_mean[j] = is_finite(plan.x_norm[j]) && kept_somewhere(plan, j) ? 1 : 0;
      if (plan.in_mean[j] == 0) continue;
      T* mean = plan.means + plan.sequence[j] * plan.d_in;
      project_kernels<T>(isa_).finish_row(plan.d_in, rows.row(j, room), T(1), mean, mean);
      ++plan.n_in_mean[plan.sequence[j]];
    }
    for (Index b = 0; b < plan.n_sequences; ++b) {
      const T share = T(1) / static_cast<T>(std::max<Index>(1, plan.n_in_mean[b]));
      for (Index k = 0; k < plan.d_in; ++k) plan.means[b * plan.d_in + k] *= share;
    }
    row_norms(plan, plan.means);
  }

  void row_norms(PlanArrays<T>& plan, const T* means) {
    Workspace::Frame inside(workspace_);
    constexpr Index chunk = 64;
    const TokenRows<S> rows(x_, isa_);
    for_each_task((plan.n_k + chunk - 1) / chunk, threads_, inside,
                  [&](Scratch& scratch) { return scratch.take<T>(plan.d_in); },
                  [&](T* room, Index task) {
                    for (Index j = task * chunk; j < std::min(plan.n_k, (task + 1) * chunk); ++j) {
                      if (!kept_somewhere(plan, j)) continue;  // masked rows are not even read
                      const T* mean = means == nullptr ? nullptr : means + plan.sequence[j] * plan.d_in;
                      const T square = project_kernels<T>(isa_).square(plan.d_in, rows.row(j, room), mean);
                      plan.x_norm[j] = std::sqrt(square);
                    }
                  });
  }

  void count(PlanArrays<T>& plan) {
    Workspace::Frame inside(workspace_);
    double* weights = inside.take<double>(plan.n_k);
    for (Index kv = 0; kv < plan.n_kv; ++kv) {
      for (Index first = 0, last = 0; first < plan.n_k; first = last) {  // a sequence at a time
        while (last < plan.n_k && plan.sequence[last] == plan.sequence[first]) ++last;
        count_sequence(plan, kv, first, last, weights);
      }
      Index* counts = plan.counts + kv * plan.n_k;
      for (Index j = 0; j < plan.n_k; ++j) {
        const Index at = kv * plan.n_k + j;
        if (plan.kept[at] == 0) counts[j] = 0;
        if (plan.kept[at] != 0 && !is_finite(plan.x_norm[j])) counts[j] = plan.d_in;
        if (options_.skip_below > 0 && options_.budget != Budget::constant &&
            static_cast<double>(plan.largest[at]) < options_.skip_below)
          counts[j] = 0;
      }
    }
  }

  void count_sequence(PlanArrays<T>& plan, Index kv, Index first, Index last, double* weights) {
    const Index offset = kv * plan.n_k;
    double n_kept = 0;
    for (Index j = first; j < last; ++j) n_kept += plan.kept[offset + j];
    if (options_.budget == Budget::column_max) {
      const double n = options_.rounding == Rounding::up ? n_kept : static_cast<double>(last - first);
      for (Index j = first; j < last; ++j) {
        plan.counts[offset + j] = published_count(static_cast<double>(plan.largest[offset + j]), n, options_.alpha,
                                                  plan.d_in, options_.rounding);
      }
      return;
    }
    // The mean row costs as much as one exact row; where the budget is all products, none is needed.
    const bool uses_mean = plan.centred && options_.fraction < 1;
    const double d_in = static_cast<double>(plan.d_in), total = (options_.fraction * n_kept - uses_mean) * d_in;
    if (options_.budget == Budget::column_norm && options_.estimator == Estimator::largest) {
      count_above_floor(plan, kv, first, last, total);
      return;
    }
    for (Index j = first; j < last; ++j) {
      const double share = options_.budget == Budget::constant
                               ? 1.0
                               : static_cast<double>(plan.norm[offset + j]) * static_cast<double>(plan.x_norm[j]);
      weights[j - first] = plan.kept[offset + j] != 0 ? share : 0.0;
    }
    const auto size = static_cast<std::size_t>(last - first);
    proportional_counts({weights, size}, total, plan.d_in, options_.rounding, {plan.counts + offset + first, size});
  }

  // For Estimator::largest the least error has one floor for all tokens of the sequence.
  void count_above_floor(PlanArrays<T>& plan, Index kv, Index first, Index last, double total) {
    Workspace::Frame inside(workspace_);
    const Index offset = kv * plan.n_k, d_v = w_.cols / plan.n_kv, n = last - first;
    T* weights = inside.take<T>(n);
    for (Index j = first; j < last; ++j) {
      const bool usable = plan.kept[offset + j] != 0 && is_finite(plan.x_norm[j]) && is_finite(plan.norm[offset + j]);
      weights[j - first] = usable ? plan.norm[offset + j] : T(0);
    }
    const Index padded = (plan.d_in + 15) / 16 * 16;
    T* norms = inside.take<T>(padded);
    T* row = inside.take<T>(d_v);
    std::fill(norms, norms + padded, T(0));
    const TokenRows<S> weight_rows(w_.columns(kv * d_v, d_v), isa_), rows(x_, isa_);
    const ProjectKernels<T>& kernels = project_kernels<T>(isa_);
    for (Index k = 0; k < plan.d_in; ++k) norms[k] = std::sqrt(kernels.square(d_v, weight_rows.row(k, row), nullptr));
    const T* mean = plan.centred ? plan.means + plan.sequence[first] * plan.d_in : nullptr;
    const auto centred_row = [&](Index j, T* room) {
      const T* at = rows.row(first + j, room);
      if (mean == nullptr) return at;
      kernels.centre(plan.d_in, at, mean, room);
      return static_cast<const T*>(room);
    };
    ThresholdCounts<T, decltype(centred_row)>(n, plan.d_in, weights, norms, centred_row, workspace_, threads_)
        .fill(total, plan.counts + offset + first, plan.floors + offset + first);
  }

  ConstView<S> x_, w_;
  const MonteCarloOptions& options_;
  Workspace& workspace_;
  int threads_;
  Isa isa_;
};

}  // namespace heed::detail
