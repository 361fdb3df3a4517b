#pragma once
#include "heed/core/types.hpp"

namespace heed::detail {

/// How many products every token of every key head gets, and what that was decided from. Arrays lie in a workspace;
/// those of all key heads have entry (kv, j) at [kv * n_k + j].
template <class T>
struct PlanArrays {
  Index n_k = 0, n_kv = 0, d_in = 0, n_sequences = 1;
  bool centred = false;
  Index* sequence = nullptr;      ///< of each token
  T* x_norm = nullptr;            ///< |x_j|, or |x_j - mean| where centred; not finite where the row is not
  T* means = nullptr;             ///< mean row of each sequence over its kept tokens; n_sequences x d_in
  T* largest = nullptr;           ///< (kv, j): max_i A_ij; 0 where the budget needs no weights
  T* norm = nullptr;              ///< (kv, j): |A[:, j]|_2, likewise
  unsigned char* kept = nullptr;  ///< (kv, j): 1 where some query sees the token
  Index* counts = nullptr;        ///< (kv, j): r_j; d_in means the exact product
  T* floors = nullptr;            ///< (kv, j): least |x_jk| |W_k| of the r_j largest, where the budget knows it; else 0
};

}  // namespace heed::detail
