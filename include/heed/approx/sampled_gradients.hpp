#pragma once
#include <algorithm>
#include <cstddef>
#include <span>

#include "heed/approx/encoding_weights.hpp"
#include "heed/approx/projected_gradients.hpp"
#include "heed/approx/sample_plan.hpp"
#include "heed/approx/token_rows.hpp"
#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/matrix_product.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/engine/transposed_product.hpp"
#include "heed/sampling/monte_carlo_options.hpp"
#include "heed/sampling/row_encoder.hpp"

namespace heed::detail {

/// d_x and d_w_v of sampled value rows, for the very products that a plan and a seed choose. With m the mean row of the
/// sequence where centred, else 0, and s_jk what the estimator makes of x_jk W_k (draws / (r p_k), 1 / pi_k, 1 or 0),
///   V_j   = b + m W + sum_k s_jk (x_jk - m_k) W_k,
///   d_x_jk = s_jk W_k . d_v_j,   d_m = sum_j (d_v_j W^T - d_x_j), which each row of the mean takes its part of,
///   d_W_k = sum_j s_jk (x_jk - m_k) d_v_j + m_k sum_j d_v_j.
/// Rows made exactly have s = 1 and m = 0. The mean row stands beside the tokens as one more: row n_k + b of d_v takes
/// the sum of d_v of sequence b.
///
/// Products run over all k, dense: gathering the few that s leaves would run at a fraction of their speed.
template <class S>
class SampledGradients {
 public:
  using T = Accumulator<S>;

  /// `d_v`: n_k rows, and where centred another for each sequence, x cols(w). `exact[kv]`: the head is multiplied
  /// exactly.
  SampledGradients(const ConstView<S>& x, const ConstView<S>& w, const MonteCarloOptions& options,
                   const PlanArrays<T>& plan, const EncodingWeights<S>& weights, const unsigned char* exact,
                   Index n_real, const View<T>& d_v, const ValueGradientViews<S>& to, const Context& context,
                   int threads)
      : x_(x),
        w_(w),
        options_(options),
        plan_(plan),
        exact_(exact),
        n_real_(n_real),
        d_v_(d_v),
        to_(to),
        context_(context),
        weights_(weights),
        frame_(*context.workspace),
        threads_(threads),
        isa_(active_isa()),
        width_(weights_.d_v()),
        n_rows_(plan.n_k + (plan.centred ? plan.n_sequences : 0)) {}

  void run() {
    const Index size = n_rows_ * x_.cols;
    if (to_.wants_w()) rows_ = frame_.template take<T>(size);
    if (to_.wants_x()) {
      whole_ = drawn_ = frame_.template take<T>(size);
      if (plan_.centred) drawn_ = frame_.template take<T>(size);
      std::fill(whole_, whole_ + size, T(0));
      std::fill(drawn_, drawn_ + size, T(0));
    }
    for (Index kv = 0; kv < plan_.n_kv; ++kv) head(kv);
    if (to_.wants_x()) finish_x();
  }

 private:
  // Scratch of one thread.
  struct Worker {
    Worker(Scratch& scratch, Index d_in, Index d_v, Isa isa)
        : panel(scratch, d_v, isa), encoder(scratch, d_in, d_v, isa) {
      products = scratch.take<T>(block_tokens * d_in);
      row = scratch.take<T>((d_in + 15) / 16 * 16);
      list = scratch.take<Index>(block_tokens);
      listed = scratch.take<unsigned char>(block_tokens);
    }
    DensePanel<S> panel;
    RowEncoder<T> encoder;
    T* products;            // d_v_j W^T of each listed token of a block
    T* row;                 // x_j - m
    Index* list;            // listed tokens, counted from the first of the block
    unsigned char* listed;  // of each token of the block
  };

  Index samples(Index kv, Index j) const { return plan_.counts[kv * plan_.n_k + j]; }
  bool whole(Index kv, Index j) const { return j >= plan_.n_k || exact_[kv] != 0 || samples(kv, j) >= plan_.d_in; }
  T* row_of(T* rows, Index j) const { return rows + j * x_.cols; }

  void head(Index kv) {
    Workspace::Frame inside = frame_.nested();
    const View<T> d_v = d_v_.columns(kv * width_, width_);
    if (plan_.centred) sum_bases(d_v, kv);
    const TokenSet tokens = tokens_of(inside, d_v, kv);
    const ConstView<S> w = w_.columns(kv * width_, width_);
    PackedWeights<S> transposed_weights(transposed(w), isa_);
    if (to_.wants_x()) transposed_weights.pack(inside, threads_);
    if (exact_[kv] == 0 && options_.estimator == Estimator::with_replacement) {
      inverse_p_ = inside.take<T>(x_.cols);
      for (Index k = 0; k < x_.cols; ++k) inverse_p_[k] = static_cast<T>(weights_.rows(kv).inverse_p(k));
    }
    for_each_task((n_rows_ + block_tokens - 1) / block_tokens, threads_, inside,
                  [&](Scratch& scratch) { return Worker(scratch, x_.cols, width_, isa_); },
                  [&](Worker& worker, Index task) {
                    block(worker, task * block_tokens, tokens, view_of(d_v), transposed_weights, kv);
                  });
    if (to_.wants_w()) {
      multiply_transposed(ConstView<T>{rows_, n_rows_, x_.cols, x_.cols, 1}, view_of(d_v), tokens,
                          to_.d_w_v.columns(kv * width_, width_), *context_.workspace, threads_);
    }
    count(tokens, kv);
  }

  // What the mean row of each sequence gets through the rows that start from its product.
  void sum_bases(const View<T>& d_v, Index kv) const {
    fill(d_v.rows_from(plan_.n_k, plan_.n_sequences), T(0));
    for (Index j = 0; j < n_real_ && exact_[kv] == 0; ++j) {
      if (whole(kv, j)) continue;
      const Index b = plan_.n_k + plan_.sequence[j];
      for (Index c = 0; c < width_; ++c) d_v(b, c) += d_v(j, c);
    }
  }

  // Rows with a gradient that is not 0 and with some product.
  TokenSet tokens_of(Workspace::Frame& frame, const View<T>& d_v, Index kv) const {
    const TokenSet moved = moved_tokens(frame, view_of(d_v), n_rows_);
    Index* list = frame.take<Index>(moved.size);
    Index found = 0;
    for (Index t = 0; t < moved.size; ++t) {
      const Index j = moved[t];
      if (whole(kv, j) ? j < n_real_ || j >= plan_.n_k : samples(kv, j) > 0) list[found++] = j;
    }
    return found == n_rows_ ? TokenSet{0, found} : TokenSet{0, found, list};
  }

  void block(Worker& worker, Index first, const TokenSet& all, const ConstView<T>& d_v,
             const PackedWeights<S>& transposed_weights, Index kv) {
    const Index n = std::min(block_tokens, n_rows_ - first), from = tokens_below(all, first);
    const TokenSet tokens = all.part(from, tokens_below(all, first + n) - from);
    if (tokens.size == 0) return;
    std::fill(worker.listed, worker.listed + n, static_cast<unsigned char>(0));
    for (Index t = 0; t < tokens.size; ++t) {
      worker.list[t] = tokens[t] - first;
      worker.listed[tokens[t] - first] = 1;
    }
    if (to_.wants_x()) {
      const ConstView<T> rows{d_v.data + first * d_v.row_stride, n, d_v.cols, d_v.row_stride, d_v.col_stride};
      const Index width = DensePanel<S>::width(isa_);
      for (Index at = 0; at < tokens.size; at += width) {
        const Index size = std::min(width, tokens.size - at);
        worker.panel.begin(rows, tokens.list == nullptr ? TokenSet{tokens.first - first + at, size}
                                                        : TokenSet{0, size, worker.list + at});
        worker.panel.multiply(transposed_weights, Index(0), x_.cols, nullptr,
                              View<T>{worker.products, n, x_.cols, x_.cols, 1});
      }
    }
    for (Index t = 0; t < tokens.size; ++t) {
      const Index j = tokens[t];
      if (whole(kv, j)) {
        take_whole(worker, j, worker.products + (j - first) * x_.cols);
      } else if (options_.estimator != Estimator::with_replacement) {
        const EncodeToken<T> token{j, samples(kv, j), read_row(worker, j), nullptr, plan_.floors[kv * plan_.n_k + j]};
        take_chosen(worker, token, kv, worker.products + (j - first) * x_.cols);
      }
    }
    if (options_.estimator == Estimator::with_replacement && exact_[kv] == 0) take_drawn(worker, first, n, kv);
  }

  void take_whole(Worker& worker, Index j, const T* products) {
    const Index d_in = x_.cols;
    if (rows_ != nullptr) {
      const T* from = j < plan_.n_k ? TokenRows<S>(x_, isa_).row(j, worker.row) : plan_.means + (j - plan_.n_k) * d_in;
      std::copy(from, from + d_in, row_of(rows_, j));
    }
    if (whole_ == nullptr) return;
    T* sum = row_of(whole_, j);
    project_kernels<T>(isa_).finish_row(d_in, products, T(1), sum, sum);
  }

  // x_j - m; in the worker's row or in place.
  const T* read_row(Worker& worker, Index j) const {
    const T* row = TokenRows<S>(x_, isa_).row(j, worker.row);
    if (!plan_.centred) return row;
    project_kernels<T>(isa_).centre(plan_.d_in, row, plan_.means + plan_.sequence[j] * plan_.d_in, worker.row);
    return worker.row;
  }

  void take_chosen(Worker& worker, const EncodeToken<T>& token, Index kv, const T* products) {
    start_row(token.token);
    worker.encoder.visit_chosen(options_.estimator, weights_.norms(kv), token, options_.seed, draw_stream(kv, 0),
                                [&](Index k, T share) { take(token.token, k, share, token.y, products); });
  }

  // The listed tokens of a group share draws, of which each takes its first ones.
  void take_drawn(Worker& worker, Index first, Index n, Index kv) {
    const HeadWeights<T>& weights = weights_.rows(kv);
    const auto takes = [&](Index t) {
      return worker.listed[t] != 0 && !whole(kv, first + t) ? samples(kv, first + t) : 0;
    };
    for (Index g = 0; g < block_groups; ++g) {
      Index most = 0, size = 0;
      for (; size < group_tokens && group_member(g, size) < n; ++size)
        most = std::max(most, takes(group_member(g, size)));
      if (most == 0) continue;
      const std::int32_t* draws =
          worker.encoder.draws(weights, most, options_.seed, draw_stream(kv, first / block_tokens * block_groups + g));
      for (Index lane = 0; lane < size; ++lane) {
        const Index t = group_member(g, lane), r = takes(t);
        if (r == 0) continue;
        const T* y = read_row(worker, first + t);
        const T part = 1 / static_cast<T>(r);
        start_row(first + t);
        for (Index s = 0; s < r; ++s) {
          const Index k = draws[s];
          take(first + t, k, inverse_p_[k] * part, y, worker.products + t * x_.cols);
        }
      }
    }
  }

  void start_row(Index j) {
    if (rows_ != nullptr) std::fill(row_of(rows_, j), row_of(rows_, j) + x_.cols, T(0));
  }
  void take(Index j, Index k, T share, const T* y, const T* products) {
    if (rows_ != nullptr) row_of(rows_, j)[k] += share * y[k];
    if (drawn_ != nullptr) row_of(drawn_, j)[k] += share * products[k];
  }

  // Gives each row of a mean its part of the mean's gradient, and writes all.
  void finish_x() {
    const Index d_in = x_.cols;
    const ProjectKernels<T>& kernels = project_kernels<T>(isa_);
    if (plan_.centred) {
      for (Index j = 0; j < n_real_; ++j) {
        T* mean = row_of(whole_, plan_.n_k + plan_.sequence[j]);
        kernels.finish_row(d_in, row_of(drawn_, j), T(-1), mean, mean);
        kernels.finish_row(d_in, row_of(drawn_, j), T(1), row_of(whole_, j), row_of(whole_, j));
      }
    }
    for (Index j = 0; j < plan_.n_k; ++j) {
      T* row = row_of(whole_, j);
      if (plan_.centred && plan_.in_mean[j] != 0) {
        const Index b = plan_.sequence[j];
        kernels.finish_row(d_in, row_of(whole_, plan_.n_k + b), T(1) / static_cast<T>(plan_.n_in_mean[b]), row, row);
      }
      for (Index k = 0; k < d_in; ++k) to_.d_x(j, k) = static_cast<S>(row[k]);
    }
  }

  void count(const TokenSet& tokens, Index kv) const {
    if (context_.flops == nullptr) return;
    const double d_in = static_cast<double>(x_.cols),
                 passes = (to_.wants_x() ? 1.0 : 0.0) + (to_.wants_w() ? 1.0 : 0.0);
    double chosen = 0;
    for (Index t = 0; t < tokens.size; ++t) chosen += whole(kv, tokens[t]) ? 0 : 1;
    if (options_.estimator == Estimator::with_replacement) chosen = 0;
    context_.flops->add_products(Phase::backward_values,
                                 2.0 * passes * static_cast<double>(tokens.size) * d_in * static_cast<double>(width_));
    context_.flops->add_products(Phase::route, 2.0 * chosen * d_in);  // each choice multiplies |x_k| |W_k| again
  }

  ConstView<S> x_, w_;
  const MonteCarloOptions& options_;
  const PlanArrays<T>& plan_;
  const unsigned char* exact_;
  Index n_real_;
  View<T> d_v_;
  ValueGradientViews<S> to_;
  const Context& context_;
  const EncodingWeights<S>& weights_;
  Workspace::Frame frame_;
  int threads_;
  Isa isa_;
  Index width_, n_rows_;
  T* inverse_p_ = nullptr;  // of the head that is gone through, where tokens share draws
  T* rows_ = nullptr;       // what a head multiplies d_v by: s_jk (x_jk - m_k), x_j or m
  T* whole_ = nullptr;      // d_x through rows made exactly, and of mean rows
  T* drawn_ = nullptr;      // d_x through samples; the same memory where not centred
};

}  // namespace heed::detail
