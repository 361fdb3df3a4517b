#pragma once
#include <algorithm>
#include <cmath>

#include "heed/core/gradients.hpp"
#include "heed/core/types.hpp"
#include "heed/trees/routing_gradient.hpp"

namespace heed::detail {

/// Which leaves a token hears of when its routing learns, and what these tell the nodes of its tree. Leaves are named
/// by the bits in which their number differs from that of the token's own leaf: code 0 is the own leaf, and the others
/// are the h codes of one bit (RoutingGradient::flip: the leaf whose path has that one decision the other way), or all.
///
/// With u_l = dL/dg_l at leaf l of the set and s_v = sign(z_v), which on the own path is the decision that was taken:
///   a_l = sum of P_lv s_v over the path of l, P_lv = 1 where it goes to the second child of v and -1 to the first;
///   g = softmax(a) over the set;  dL/da_l = g_l (u_l - sum_m g_m u_m);  dL/ds_v = sum_l P_lv dL/da_l.
/// The forward pass is the one-hot g: this is its straight-through backward.
/// Source  Karthikeyan, Jain, Natarajan, Jain 2021, section 4; restricting g to a set of leaves is ours.
class LeafSignals {
 public:
  LeafSignals(Index height, RoutingGradient routing) : height_(height), all_(routing == RoutingGradient::all_leaves) {}

  /// Leaves of the set, the own one first.
  Index n_codes() const { return all_ ? Index(1) << height_ : height_ + 1; }
  Index code(Index c) const { return all_ || c == 0 ? c : Index(1) << (height_ - c); }

  /// Nodes on the paths to the set's leaves.
  Index n_nodes() const { return all_ ? (Index(1) << height_) - 1 : height_ * (height_ + 1) / 2; }
  /// True where tokens of all leaves have the same nodes.
  bool same_nodes() const { return all_; }
  /// Of the tokens in `leaf`: its path, then for each flipped decision what follows it on the path to that leaf.
  void nodes(Index leaf, Index* to) const {
    if (all_) {
      for (Index v = 0; v < n_nodes(); ++v) to[v] = v;
      return;
    }
    for (Index t = 0; t < height_; ++t) *to++ = node(leaf, t);
    for (Index t = 0; t < height_; ++t) {
      for (Index s = t + 1; s < height_; ++s) *to++ = node(leaf ^ code(t + 1), s);
    }
  }

  /// From u to dL/ds: tokens of the panel lie in `leaf`; u[c * n_tokens + token] is the signal of its leaf of code c.
  template <class T>
  void write(Index leaf, const T* u, Index n_tokens, const SignalPanel<T>& panel) const {
    if (all_) {
      write_all(leaf, u, n_tokens, panel);
    } else {
      write_flips(leaf, u, n_tokens, panel);
    }
  }

 private:
  // Number of the node `depth` decisions down the path to `leaf`.
  Index node(Index leaf, Index depth) const { return (Index(1) << depth) - 1 + (leaf >> (height_ - depth)); }
  // The decision that leads to `leaf` at this depth.
  template <class T>
  T sign(Index leaf, Index depth) const {
    return (leaf >> (height_ - 1 - depth) & 1) != 0 ? T(1) : T(-1);
  }
  template <class T>
  static T sign_of(T z) {
    return z >= 0 ? T(1) : T(-1);
  }

  template <class T>
  void write_flips(Index leaf, const T* u, Index n_tokens, const SignalPanel<T>& panel) const {
    const Index width = panel.width;
    for (Index i = 0; i < panel.tokens.size; ++i) {
      T* d_a = panel.room + i;  // of code c at [c * width]; first g, unscaled
      T sum = 1, mean = u[panel.tokens[i]];
      d_a[0] = 1;
      Index row = height_;  // of z and y
      for (Index t = 0; t < height_; ++t) {
        T disagree = 1;  // decisions on the path to this leaf that the token would not take
        for (Index s = t + 1; s < height_; ++s, ++row)
          disagree += sign_of(panel.z[row * width + i]) == sign<T>(leaf, s) ? T(0) : T(1);
        const T g = std::exp(-2 * disagree);  // a is height - 2 disagree
        d_a[(t + 1) * width] = g;
        sum += g;
        mean += g * u[(t + 1) * n_tokens + panel.tokens[i]];
      }
      mean /= sum;
      for (Index c = 0; c <= height_; ++c) d_a[c * width] *= (u[c * n_tokens + panel.tokens[i]] - mean) / sum;
      row = height_;
      T on_path = d_a[0];  // of the leaves behind a decision of the own path, from the last one up
      for (Index t = height_ - 1; t >= 0; --t) {
        panel.y[t * width + i] = sign<T>(leaf, t) * (on_path - d_a[(t + 1) * width]);
        on_path += d_a[(t + 1) * width];
      }
      for (Index t = 0; t < height_; ++t) {
        for (Index s = t + 1; s < height_; ++s, ++row)
          panel.y[row * width + i] = sign<T>(leaf, s) * d_a[(t + 1) * width];
      }
    }
  }

  // Rows of the room are the nodes of one level, from the leaves up or the root down.
  template <class T>
  void write_all(Index leaf, const T* u, Index n_tokens, const SignalPanel<T>& panel) const {
    const Index width = panel.width, n = panel.tokens.size, n_leaves = Index(1) << height_;
    T* const room = panel.room;
    std::fill_n(room, width, T(0));  // decisions on the path that the token would not take
    for (Index t = 0; t < height_; ++t) {
      for (Index v = (Index(1) << t) - 1; v >= 0; --v) {
        const bool own = leaf >> (height_ - t) == v;
        const T* z = panel.z + ((Index(1) << t) - 1 + v) * width;
        T *from = room + v * width, *first = room + 2 * v * width, *second = first + width;
        for (Index i = 0; i < n; ++i) {
          const T s = own ? sign<T>(leaf, t) : sign_of(z[i]), before = from[i];
          second[i] = before + (s > 0 ? T(0) : T(1));
          first[i] = before + (s > 0 ? T(1) : T(0));
        }
      }
    }
    for (Index i = 0; i < n; ++i) {
      T sum = 0, mean = 0;
      for (Index l = 0; l < n_leaves; ++l) {
        T& g = room[l * width + i];
        g = std::exp(-2 * g);
        sum += g;
        mean += g * u[(l ^ leaf) * n_tokens + panel.tokens[i]];
      }
      mean /= sum;
      for (Index l = 0; l < n_leaves; ++l)
        room[l * width + i] *= (u[(l ^ leaf) * n_tokens + panel.tokens[i]] - mean) / sum;
    }
    for (Index t = height_ - 1; t >= 0; --t) {
      for (Index v = 0; v < Index(1) << t; ++v) {
        T* y = panel.y + ((Index(1) << t) - 1 + v) * width;
        T *to = room + v * width, *first = room + 2 * v * width, *second = first + width;
        for (Index i = 0; i < n; ++i) {
          y[i] = second[i] - first[i];
          to[i] = second[i] + first[i];
        }
      }
    }
  }

  Index height_;
  bool all_;
};

}  // namespace heed::detail
