#pragma once
#include <algorithm>

#include "heed/core/types.hpp"

namespace heed::detail {

/// What a decision's soft leaves send along its sign: sigma(2) = e / (e + 1 / e).
template <class T>
inline constexpr T share_along_sign = T(0.88079707797788244);

/// Shares of the second child at every node for a panel of tokens, from the signs of their projections z; on a token's
/// own path from its leaf, which decides where rounding may not.
///
/// Shapes  z: (2^h - 1) x width, nodes in level order; leaf_of(i): of the panel's n <= width tokens; shares: 2^h x
///         width, node v (as in PathSums) in row v.
template <class T, class LeafOf>
void shares_of_signs(const T* z, Index height, Index width, Index n, const LeafOf& leaf_of, T* shares) {
  const T along = share_along_sign<T>, against = T(1) - along;
  const Index n_leaves = Index(1) << height;
  for (Index at = width; at < n_leaves * width; ++at) shares[at] = z[at - width] >= 0 ? along : against;
  for (Index i = 0; i < n; ++i) {
    for (Index node = n_leaves + leaf_of(i); node > 1; node /= 2)
      shares[node / 2 * width + i] = node % 2 == 1 ? along : against;
  }
}

/// From what a loss says of the leaves of a tree to what it says of its decisions, for a panel of tokens. With the
/// signs s_v of a token's projections, the leaf scores are a = P s, P the path matrix of entries -1, 0 and 1, and its
/// soft leaves g = softmax(a); given u_l = dL/dg_l,
///   y = P^T dL/da,  dL/da_l = g_l (u_l - <g, u>).
/// All a of one token sum to the same below any node of a level, so a node sends sigma(2) of a token's share along its
/// sign and sigma(-2) against it: means of u upwards, shares downwards.
///
/// Shapes  u: 2^(h + 1) x width, leaf l in row 2^h + l; overwritten. shares: of shares_of_signs(). y: (2^h - 1) x
///         width, nodes in level order; h >= 1.
/// Cost    about 10 flops a node and token.
/// Source  Karthikeyan, Jain, Natarajan, Jain 2021, section 4: the dense gradient of a hard tree.
template <class T>
void leaves_to_nodes(T* u, const T* shares, Index height, Index width, T* y) {
  const Index n_leaves = Index(1) << height;
  for (Index v = n_leaves - 1; v > 0; --v) {
    const T *share = shares + v * width, *first = u + 2 * v * width, *second = first + width;
    T* mean = u + v * width;
    for (Index i = 0; i < width; ++i) mean[i] = first[i] + share[i] * (second[i] - first[i]);
  }
  const T* root = u + width;
  for (Index v = 1; v < n_leaves; ++v) {  // what reaches a node stands in its row of y until that is written
    const T *first = u + 2 * v * width, *second = first + width;
    const T* share = shares + v * width;
    T* to = y + (v - 1) * width;
    for (Index i = 0; i < width; ++i) {
      const T reach = v == 1 ? T(1) : to[i];
      const T to_second = reach * share[i], to_first = reach - to_second;
      to[i] = to_second * (second[i] - root[i]) - to_first * (first[i] - root[i]);
      if (2 * v < n_leaves) {
        y[(2 * v - 1) * width + i] = to_first;
        y[2 * v * width + i] = to_second;
      }
    }
  }
}

}  // namespace heed::detail
