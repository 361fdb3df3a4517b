#pragma once
#include <algorithm>
#include <cmath>

#include "heed/approx/detail/feature_panel.hpp"
#include "heed/core/floating.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/kernels/select.hpp"

namespace heed::detail {

/// The panels of one thread in a backward pass. With D_i = phi(q_i) . z the denominators and rows S_f followed by z_f,
/// the gradient by what is divided and by D_i together is the row
///   g_i = (d_out_i, -d_out_i . out_i) / D_i,
/// and, v_j followed by 1, the sums of queries run against those of keys: with R_f = sum_i phi(q_i)_f g_i,
///   d_phi(q_i) = S g_i,  d_phi(k_j) = R v_j,  d_v_j = phi(k_j) R (without its last entry).
template <class Map>
class FeatureGradientPanel : public FeaturePanel<Map> {
 public:
  using Base = FeaturePanel<Map>;
  using T = typename Base::T;
  using Base::hide;
  using Base::lanes_of;
  using Base::out;
  using Base::pairs;
  using Base::phi_of_keys;
  using Base::phi_of_queries;
  using Base::seen;
  using Base::values;
  using Base::vectors_of;

  FeatureGradientPanel(Scratch& scratch, const Map& map, Index d, Index d_v, Isa isa)
      : Base(scratch, map, d, d_v, isa) {
    d_phi_ = scratch.take<T>(map.size() * width_);
    g_ = scratch.take<T>(width_ * stride_);
    g_columns_ = scratch.take<T>(stride_ * width_);
    value_columns_ = scratch.take<T>(stride_ * width_);
    d_values_ = scratch.take<T>(width_ * stride_);
    d_pairs_ = scratch.take<T>(width_ * width_);
    turned_ = scratch.take<T>(width_ * width_);
    d_x_ = scratch.take<T>(map.depth() * width_);
    query_sums = scratch.take<T>(map.size() * stride_);
    query_references_ = scratch.take<T>(map.size());
  }

  /// Clears the sums over queries, which are relative to the references of `state` from here on.
  void clear_query_sums(const FeatureSums<T>& state) {
    std::fill_n(query_sums, state.count * stride_, T(0));
    for (Index f = 0; Map::has_rows && f < state.count; ++f) query_references_[f] = reference(state, f);
  }
  /// Makes them relative to references that are lower, or equal.
  void lower_query_sums(const FeatureSums<T>& state) {
    for (Index f = 0; Map::has_rows && f < state.count; ++f) {
      const T now = reference(state, f);
      if (now < query_references_[f]) {
        const T factor = std::exp(now - query_references_[f]);
        for (Index c = 0; c < stride_; ++c) query_sums[f * stride_ + c] *= factor;
      }
      query_references_[f] = now;
    }
  }
  void save_references(const FeatureSums<T>& state, T* to) const {
    for (Index f = 0; f < state.count; ++f) to[f] = reference(state, f);
  }
  void restore_references(const FeatureSums<T>& state, const T* from) const {
    for (Index f = 0; f < state.count; ++f) reference(state, f) = from[f];
  }

  /// Forward along the keys: features of queries [first, first + n), their denominators, and d_q. The first n_keys keys
  /// of the panel, whose values have been read, are no part of the sums: query i sees the first seen[i] of them.
  template <class Call>
  void go_through_queries(const FeatureSums<T>& state, const Call& call, Index first, Index n, Index n_keys,
                          T* denominators) {
    this->queries(state, call.q, first, n);
    tiles_.values(state.sums + d_v_, stride_, tiles_.rows, state.count, phi_of_queries, 1, width_, 0, vectors_of(n),
                  nullptr, out);
    if (n_keys > 0) this->multiply_pairs(state, n_keys, n);
    for (Index j = 0; j < n_keys; ++j) {
      for (Index i = 0; i < n; ++i) out[i] += pairs[j * width_ + i];
    }
    for (Index i = 0; i < n; ++i) denominators[first + i] = this->denominator(out[i]);
    read_gradients(call, first, n, denominators);
    tiles_.scores(state.sums, stride_, state.count, g_columns_, d_v_ + 1, width_, 0, vectors_of(n), d_phi_, ignored_,
                  nullptr);
    if (n_keys > 0) add_pairs_to_queries(state, n_keys, n);
    pull_back(FeatureSide::query, state, this->x_of_queries, phi_of_queries, call.d_q, {first, n});
  }

  /// Adds the queries that were gone through last, or read by read_queries, to the sums over queries.
  void add_queries(const FeatureSums<T>& state, Index n) {
    gradients_.add_products(phi_of_queries, width_, state.count, g_, stride_, n, stride_, query_sums, stride_);
  }

  /// Back along the keys: what the sums over queries give the keys of the panel, whose features are those of keys().
  template <class Call>
  void begin_keys(const FeatureSums<T>& state, const Call& call, const TokenSet& some) {
    const Index n = some.size;
    lower_query_sums(state);
    this->read_values(call.v, some);
    storage_kernels<T, T>(isa_).transpose(values, stride_, 1, nullptr, n, nullptr, d_v_ + 1, value_columns_, width_,
                                          T(1), true);
    tiles_.scores(query_sums, stride_, state.count, value_columns_, d_v_ + 1, width_, 0, vectors_of(n), d_phi_,
                  ignored_, nullptr);
    tiles_.values(query_sums, stride_, tiles_.rows, state.count, phi_of_keys, d_v_, width_, 0, vectors_of(n), nullptr,
                  out);
    for (Index j = 0; j < n; ++j) {
      for (Index c = 0; c < d_v_; ++c) call.d_v(some[j], c) += out[c * width_ + j];
    }
  }
  /// Then what queries [i, i + n) give them, each of which sees the first of these keys, as many as `seen` says; adds
  /// the queries to the sums.
  template <class Call>
  void add_block(const FeatureSums<T>& state, const Call& call, const TokenSet& some, Index i, Index n,
                 const T* denominators) {
    const Index n_keys = some.size;
    this->queries(state, call.q, i, n);
    this->multiply_pairs(state, n_keys, n);
    read_gradients(call, i, n, denominators);
    make_pair_gradients(n_keys, n);
    std::fill_n(d_values_, n_keys * stride_, T(0));
    if (tiles_.all_finite(phi_of_queries, width_, state.count, n) && tiles_.all_finite(g_, stride_, n, d_v_ + 1)) {
      storage_kernels<T, T>(isa_).transpose(d_pairs_, width_, 1, nullptr, n_keys, nullptr, n, turned_, width_, T(1),
                                            true);
      gradients_.add_products(phi_of_queries, width_, state.count, turned_, width_, n, lanes_of(n_keys), d_phi_,
                              width_);
      gradients_.add_products(pairs, width_, n_keys, g_, stride_, n, stride_, d_values_, stride_);
    } else {  // hidden pairs are skipped, not multiplied by 0
      for (Index t = 0; t < n; ++t) {
        for (Index j = 0; j < seen[t]; ++j) {
          for (Index f = 0; f < state.count; ++f)
            d_phi_[f * width_ + j] += phi_of_queries[f * width_ + t] * d_pairs_[j * width_ + t];
          for (Index c = 0; c < d_v_; ++c) d_values_[j * stride_ + c] += pairs[j * width_ + t] * g_[t * stride_ + c];
        }
      }
    }
    for (Index j = 0; j < n_keys; ++j) {
      for (Index c = 0; c < d_v_; ++c) call.d_v(some[j], c) += d_values_[j * stride_ + c];
    }
    add_queries(state, n);
  }
  template <class Call>
  void end_keys(const FeatureSums<T>& state, const Call& call, const TokenSet& some) {
    pull_back(FeatureSide::key, state, this->x_of_keys, phi_of_keys, call.d_k, some);
  }

  T* query_sums;  // features x stride: R

 private:
  using Base::d_;
  using Base::d_v_;
  using Base::gradients_;
  using Base::ignored_;
  using Base::isa_;
  using Base::map_;
  using Base::stride_;
  using Base::tiles_;
  using Base::width_;

  T& reference(const FeatureSums<T>& state, Index f) const { return state.rows[(f + 1) * map_.depth() - 1]; }

  // g_i as rows and as columns; 0 for a query without a denominator.
  template <class Call>
  void read_gradients(const Call& call, Index first, Index n, const T* denominators) {
    using Stored = KernelScalar<typename Call::Query>;
    storage_kernels<T, Stored>(isa_).gather(kernel_pointer(call.d_out.data) + first * call.d_out.row_stride,
                                            call.d_out.row_stride, call.d_out.col_stride, nullptr, n, d_v_, g_,
                                            stride_);
    for (Index i = 0; i < n; ++i) {
      T* row = g_ + i * stride_;
      const T denominator = denominators[first + i], inverse = 1 / denominator;
      row[d_v_] = -call.mean[first + i];
      for (Index c = 0; c <= d_v_; ++c) row[c] = is_zero(denominator) ? T(0) : row[c] * inverse;
      std::fill(row + d_v_ + 1, row + stride_, T(0));
    }
    storage_kernels<T, T>(isa_).transpose(g_, stride_, 1, nullptr, n, nullptr, d_v_ + 1, g_columns_, width_, T(1),
                                          true);
  }

  // d_pairs[j][i] = v_j . g_i, v_j with its 1; 0 where hidden.
  void make_pair_gradients(Index n_keys, Index n) {
    tiles_.scores(values, stride_, n_keys, g_columns_, d_v_ + 1, width_, 0, vectors_of(n), d_pairs_, ignored_, nullptr);
    hide(d_pairs_, n_keys, n);
  }

  void add_pairs_to_queries(const FeatureSums<T>& state, Index n_keys, Index n) {
    make_pair_gradients(n_keys, n);
    if (tiles_.all_finite(phi_of_keys, width_, state.count, n_keys)) {
      gradients_.add_products(phi_of_keys, width_, state.count, d_pairs_, width_, n_keys, lanes_of(n), d_phi_, width_);
      return;
    }
    for (Index i = 0; i < n; ++i) {
      for (Index j = 0; j < seen[i]; ++j) {
        for (Index f = 0; f < state.count; ++f)
          d_phi_[f * width_ + i] += phi_of_keys[f * width_ + j] * d_pairs_[j * width_ + i];
      }
    }
  }

  // From features to tokens: adds to the rows `some` of `to`.
  void pull_back(FeatureSide side, const FeatureSums<T>& state, const T* x, const T* phi, const View<T>& to,
                 const TokenSet& some) {
    const Index n = some.size;
    const T factor = map_.factor(side);
    const T* d_x = d_phi_;
    if constexpr (Map::has_rows) {
      for (Index f = 0; f < state.count; ++f) {
        for (Index i = f * width_; i < f * width_ + lanes_of(n); ++i) d_phi_[i] *= phi[i];
      }
      const Index columns = side == FeatureSide::key ? d_ + 1 : d_;
      tiles_.values(state.rows, map_.depth(), tiles_.rows, state.count, d_phi_, columns, width_, 0, vectors_of(n),
                    nullptr, d_x_);
      d_x = d_x_;
      for (Index c = 0; c < d_ && side == FeatureSide::key; ++c) {
        for (Index i = 0; i < n; ++i) d_x_[c * width_ + i] -= x[c * width_ + i] * d_x_[d_ * width_ + i];
      }
    } else {
      map_.pull_back(width_, lanes_of(n), x, phi, d_phi_);
    }
    for (Index i = 0; i < n; ++i) {
      for (Index c = 0; c < d_; ++c) to(some[i], c) += factor * d_x[c * width_ + i];
    }
  }

  T* d_phi_;              // features x width
  T *g_, *g_columns_;     // width x stride, stride x width
  T* value_columns_;      // stride x width
  T* d_values_;           // width x stride
  T *d_pairs_, *turned_;  // keys x width, queries x width
  T* d_x_;                // depth x width
  T* query_references_;   // features
};

}  // namespace heed::detail
