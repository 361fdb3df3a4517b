#pragma once
#include <algorithm>
#include <cmath>

#include "heed/core/gradients.hpp"
#include "heed/core/types.hpp"
#include "heed/trees/routing_gradient.hpp"

namespace heed::detail {

/// Which leaves a token hears of when its routing learns, and what these tell the nodes of its tree. Column 0 of its
/// signals is the own leaf. RoutingGradient::flip: column t + 1 is the leaf it would be in if its decision at depth t
/// were the other one, and those behind it its own (flipped_leaves). RoutingGradient::all_leaves: column c is the leaf
/// whose number differs from that of the own one in the bits of c.
///
/// With u_l = dL/dg_l at leaf l of the set and s_v = sign(z_v), which on the own path is the decision that was taken:
///   a_l = sum of P_lv s_v over the path of l, P_lv = 1 where it goes to the second child of v and -1 to the first;
///   g = softmax(a) over the set;  dL/da_l = g_l (u_l - sum_m g_m u_m);  dL/ds_v = sum_l P_lv dL/da_l.
/// The forward pass is the one-hot g: this is its straight-through backward. Of all leaves, those of one flip have the
/// largest a after the own one: h - 2, against h.
/// Source  Karthikeyan, Jain, Natarajan, Jain 2021, section 4; restricting g to a set of leaves is ours.
class LeafSignals {
 public:
  LeafSignals(Index height, RoutingGradient routing) : height_(height), all_(routing == RoutingGradient::all_leaves) {}

  bool all() const { return all_; }
  Index n_columns() const { return all_ ? Index(1) << height_ : height_ + 1; }
  Index n_nodes() const { return (Index(1) << height_) - 1; }

  /// From u to dL/ds at all nodes: tokens of the panel lie in `leaf`; u[c * n_tokens + token] is column c.
  template <class T>
  void write(Index leaf, const T* u, Index n_tokens, const SignalPanel<T>& panel) const {
    if (all_) {
      write_all(leaf, u, n_tokens, panel);
    } else {
      for (Index i = 0; i < panel.tokens.size; ++i) write_flips(leaf, u, n_tokens, panel, i);
    }
  }

 private:
  // Number of the node `depth` decisions down the path to `leaf`.
  Index node(Index leaf, Index depth) const { return (Index(1) << depth) - 1 + (leaf >> (height_ - depth)); }
  // The decision that leads to `leaf` at this depth.
  bool goes_second(Index leaf, Index depth) const { return (leaf >> (height_ - 1 - depth) & 1) != 0; }

  template <class T>
  void write_flips(Index leaf, const T* u, Index n_tokens, const SignalPanel<T>& panel, Index i) const {
    const T* own = u + panel.tokens[i];
    const T flipped = std::exp(T(-2)), sum = 1 + static_cast<T>(height_) * flipped;
    T mean = own[0];
    for (Index c = 1; c <= height_; ++c) mean += flipped * own[c * n_tokens];
    mean /= sum;
    T on_path = (own[0] - mean) / sum;  // dL/da of the leaves that follow the path beyond depth t
    for (Index t = height_ - 1; t >= 0; --t) {
      const T d_a = flipped * (own[(t + 1) * n_tokens] - mean) / sum;
      const Index here = node(leaf, t);
      const bool second = goes_second(leaf, t);
      panel.y[here * panel.width + i] = second ? on_path - d_a : d_a - on_path;
      on_path += d_a;
      for (Index v = 2 * here + (second ? 1 : 2); v < n_nodes();) {  // the path to the flipped leaf
        const bool onwards = panel.z[v * panel.width + i] >= 0;
        panel.y[v * panel.width + i] = onwards ? d_a : -d_a;
        v = 2 * v + (onwards ? 2 : 1);
      }
    }
  }

  // Rows of the room are the nodes of one level, from the root down, then from the leaves up.
  template <class T>
  void write_all(Index leaf, const T* u, Index n_tokens, const SignalPanel<T>& panel) const {
    const Index width = panel.width, n = panel.tokens.size, n_leaves = Index(1) << height_;
    T* const room = panel.room;
    std::fill_n(room, width, T(0));  // decisions on the path that the token would not take: a = h - 2 of them
    for (Index t = 0; t < height_; ++t) {
      for (Index v = (Index(1) << t) - 1; v >= 0; --v) {
        const bool own = leaf >> (height_ - t) == v;
        const T* z = panel.z + ((Index(1) << t) - 1 + v) * width;
        T *from = room + v * width, *first = room + 2 * v * width, *second = first + width;
        for (Index i = 0; i < n; ++i) {
          const bool goes = own ? goes_second(leaf, t) : z[i] >= 0;
          const T before = from[i];
          second[i] = before + (goes ? T(0) : T(1));
          first[i] = before + (goes ? T(1) : T(0));
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
