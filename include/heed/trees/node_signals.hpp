#pragma once
#include <algorithm>

#include "heed/core/types.hpp"

namespace heed::detail {

/// From what a loss says of the leaves of a tree to what it says of its decisions, for a panel of tokens. With the signs
/// s_v of a token's projections, the leaf scores are a = P s, P the path matrix of entries -1, 0 and 1, and its soft
/// leaves g = softmax(a); given u_l = dL/dg_l,
///   y = P^T dL/da,  dL/da_l = g_l (u_l - <g, u>).
/// All a of one token sum to the same below any node of a level, so a node sends sigma(2) of a token's share along its
/// sign and sigma(-2) against it: means of u upwards, shares downwards.
///
/// Shapes  u: 2^(h + 1) x width, leaf l in row 2^h + l; overwritten. room: 2^h x width. z, y: (2^h - 1) x width, nodes in
///         level order; h >= 1.
/// Cost    about 10 flops a node and token.
/// Source  Karthikeyan, Jain, Natarajan, Jain 2021, section 4: the dense gradient of a hard tree.
template <class T>
void leaves_to_nodes(T* u, T* room, const T* z, Index height, Index width, T* y) {
  const T along = T(0.88079707797788244), against = T(1) - along;  // sigma(2) = e / (e + 1 / e)
  const Index n_leaves = Index(1) << height;
  for (Index v = n_leaves - 1; v > 0; --v) {
    const T *sign = z + (v - 1) * width, *left = u + 2 * v * width, *right = left + width;
    T* mean = u + v * width;
    for (Index i = 0; i < width; ++i) {
      const T share = sign[i] >= 0 ? along : against;
      mean[i] = left[i] + share * (right[i] - left[i]);
    }
  }
  std::fill_n(room + width, width, T(1));
  for (Index v = 1; v < n_leaves; ++v) {
    const T *sign = z + (v - 1) * width, *left = u + 2 * v * width, *right = left + width, *root = u + width;
    const T* reach = room + v * width;
    T* to = y + (v - 1) * width;
    for (Index i = 0; i < width; ++i) {
      const T share = sign[i] >= 0 ? along : against;
      to[i] = reach[i] * (share * (right[i] - root[i]) - (T(1) - share) * (left[i] - root[i]));
    }
    if (2 * v >= n_leaves) continue;
    T *first = room + 2 * v * width, *second = first + width;
    for (Index i = 0; i < width; ++i) {
      const T share = sign[i] >= 0 ? along : against;
      first[i] = reach[i] * (T(1) - share);
      second[i] = reach[i] * share;
    }
  }
}

}  // namespace heed::detail
