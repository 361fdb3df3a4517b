#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>

#include "heed/approx/sample_plan.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/matrix_product.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"
#include "heed/sampling/head_weights.hpp"
#include "heed/sampling/monte_carlo_options.hpp"

namespace heed::detail {

/// The weights w: d_in x (n_kv * d_v) as the heads of a plan read them, in rows for samples and in blocks for exact
/// products, and the row from which each sampled row starts. Packed once a call; memory from a frame of its own.
template <class S>
class EncodingWeights {
 public:
  using T = Accumulator<S>;

  /// `exact[kv]`: the head is multiplied exactly.
  EncodingWeights(const ConstView<S>& w, const MonteCarloOptions& options, const PlanArrays<T>& plan,
                  const unsigned char* exact, Workspace& workspace, int threads)
      : w_(w), plan_(plan), exact_(exact), frame_(workspace), isa_(active_isa()), d_v_(w.cols / plan.n_kv) {
    pack(options, threads);
    share_norms(options);
    make_bases(workspace);
  }

  Index d_v() const { return d_v_; }
  /// Of heads that are sampled.
  const HeadWeights<T>& rows(Index kv) const { return rows_[kv]; }
  /// Of heads with some exact product.
  const PackedWeights<S>& blocks(Index kv) const { return blocks_[kv]; }
  /// The bias of a head; null without one.
  const T* bias(Index kv) const { return bias_ == nullptr ? nullptr : bias_ + kv * d_v_; }
  /// What the sampled rows of a head start from in sequence b: the bias, and the mean row's product.
  const T* base(Index b, Index kv) const { return base_ + b * w_.cols + kv * d_v_; }
  /// True where one choice of the largest products serves all heads.
  bool share_choice() const { return shared_norms_ != nullptr; }
  /// Norms of rows by which a head chooses its products.
  const T* norms(Index kv) const { return share_choice() ? shared_norms_ : rows_[kv].norms; }

 private:
  // Scratch of one thread that packs rows.
  struct Packing {
    double* share;
    std::uint32_t* order;
  };

  ConstView<S> columns(Index kv) const { return w_.columns(kv * d_v_, d_v_); }

  void pack(const MonteCarloOptions& options, int threads) {
    rows_ = frame_.template take<HeadWeights<T>>(plan_.n_kv);
    blocks_ = frame_.template take<PackedWeights<S>>(plan_.n_kv);
    base_ = frame_.template take<T>(plan_.n_sequences * w_.cols);
    bias_ = take_bias<T>(frame_, options.bias, w_.cols);
    for (Index kv = 0; kv < plan_.n_kv; ++kv) {
      new (rows_ + kv) HeadWeights<T>();
      new (blocks_ + kv) PackedWeights<S>(columns(kv), isa_);
      if (exact_[kv] == 0) rows_[kv].take(frame_, w_.rows, d_v_, tile_kernels<T>(isa_).lanes, options.estimator);
      if (exact_[kv] != 0 || plan_.centred || some_exact(kv)) blocks_[kv].pack(frame_, threads);
    }
    for_each_task(
        plan_.n_kv, threads, frame_,
        [&](Scratch& scratch) {
          double* share = scratch.take<double>(w_.rows);
          return Packing{share, scratch.take<std::uint32_t>(w_.rows)};
        },
        [&](const Packing& own, Index kv) {
          if (exact_[kv] == 0) rows_[kv].fill(columns(kv), isa_, own.share, own.order);
        });
  }

  bool some_exact(Index kv) const {
    const Index* counts = plan_.counts + kv * plan_.n_k;
    return std::any_of(counts, counts + plan_.n_k, [&](Index r) { return r >= plan_.d_in; });
  }

  // Budget::constant gives a token the same r in every head: one choice of the largest products, by the norms of whole
  // rows of w, serves all heads. Draws are each head's own.
  void share_norms(const MonteCarloOptions& options) {
    if (options.budget != Budget::constant || options.estimator != Estimator::largest) return;
    for (Index kv = 0; kv < plan_.n_kv; ++kv) {
      if (exact_[kv] != 0 || !std::equal(plan_.counts, plan_.counts + plan_.n_k, plan_.counts + kv * plan_.n_k)) return;
    }
    const Index lanes = tile_kernels<T>(isa_).lanes, size = (plan_.d_in + lanes - 1) / lanes * lanes;
    shared_norms_ = frame_.template take<T>(size);
    for (Index k = 0; k < size; ++k) {
      T square = 0;
      for (Index kv = 0; kv < plan_.n_kv; ++kv) square += rows_[kv].norms[k] * rows_[kv].norms[k];
      shared_norms_[k] = std::sqrt(square);
    }
  }

  void make_bases(Workspace& workspace) {
    for (Index b = 0; b < plan_.n_sequences; ++b) {
      for (Index c = 0; c < w_.cols; ++c) base_[b * w_.cols + c] = bias_ == nullptr ? T(0) : bias_[c];
    }
    if (!plan_.centred) return;
    const ConstView<T> means{plan_.means, plan_.n_sequences, plan_.d_in, plan_.d_in, 1};
    for (Index kv = 0; kv < plan_.n_kv; ++kv) {
      if (exact_[kv] != 0) continue;
      project_rows<S>(means, blocks_[kv], Index(0), d_v_, bias(kv),
                      View<T>{base_ + kv * d_v_, plan_.n_sequences, d_v_, w_.cols, 1}, workspace, 1);
    }
  }

  ConstView<S> w_;
  const PlanArrays<T>& plan_;
  const unsigned char* exact_;
  Workspace::Frame frame_;
  Isa isa_;
  Index d_v_;
  HeadWeights<T>* rows_ = nullptr;
  PackedWeights<S>* blocks_ = nullptr;
  T *base_ = nullptr, *bias_ = nullptr, *shared_norms_ = nullptr;
};

}  // namespace heed::detail
