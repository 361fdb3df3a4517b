#pragma once
#include "heed/core/types.hpp"

namespace heed {

/// What a call of MonteCarloValues decides before it samples: how many products each token gets, and why. S: scalar of
/// the values.
template <class S>
struct SamplePlan {
  Matrix<Index> counts;           ///< r_j of (token, key head); d_in means the exact product
  Matrix<double> importance;      ///< max_i A_ij of (token, key head); 0 for Budget::constant, which needs no weights
  Matrix<unsigned char> kept;     ///< 1 where some query of the head sees the token, else 0
  Vector<unsigned char> exact;    ///< 1 for a key head all of whose rows are multiplied exactly: sampling is no faster
  Vector<Accumulator<S>> x_norm;  ///< |x_j|, or |x_j - mean row| where centred; 0 for tokens no query sees
  Index d_in = 0;

  /// Mean r_j / d_in over the kept tokens of all key heads: the products that sampling takes over those of the exact
  /// product.
  double real_share() const { return share(true); }
  /// The same over all positions, padding included: the published accounting, which flatters padded batches.
  double padded_share() const { return share(false); }

 private:
  double share(bool real_only) const {
    double spent = 0, tokens = 0;
    for (Index j = 0; j < counts.rows(); ++j) {
      for (Index kv = 0; kv < counts.cols(); ++kv) {
        spent += static_cast<double>(counts(j, kv));
        tokens += real_only ? static_cast<double>(kept(j, kv)) : 1.0;
      }
    }
    return tokens == 0 || d_in == 0 ? 0.0 : spent / (tokens * static_cast<double>(d_in));
  }
};

namespace detail {

/// How many products every token of every key head gets, and what that was decided from. Arrays lie in a workspace;
/// those of all key heads have entry (kv, j) at [kv * n_k + j].
template <class T>
struct PlanArrays {
  Index n_k = 0, n_kv = 0, d_in = 0, n_sequences = 1;
  bool centred = false;
  Index* sequence = nullptr;         ///< of each token
  T* x_norm = nullptr;               ///< |x_j|, or |x_j - mean| where centred; not finite where the row is not
  T* means = nullptr;                ///< mean row of each sequence over its kept tokens; n_sequences x d_in
  unsigned char* in_mean = nullptr;  ///< of each token where centred: 1 where it is part of the mean row
  Index* n_in_mean = nullptr;        ///< of each sequence where centred: how many are
  T* largest = nullptr;              ///< (kv, j): max_i A_ij; 0 where the budget needs no weights
  T* norm = nullptr;                 ///< (kv, j): |A[:, j]|_2, likewise
  unsigned char* kept = nullptr;     ///< (kv, j): 1 where some query sees the token
  Index* counts = nullptr;           ///< (kv, j): r_j; d_in means the exact product
  T* floors = nullptr;  ///< (kv, j): least |x_jk| |W_k| of the r_j largest, where the budget knows it; else 0
};

}  // namespace detail
}  // namespace heed
