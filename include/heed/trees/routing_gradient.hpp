#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <utility>

#include "heed/core/context.hpp"
#include "heed/core/flops.hpp"
#include "heed/core/pattern.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"
#include "heed/trees/route.hpp"
#include "heed/trees/safe_power.hpp"
#include "heed/trees/tree_sums.hpp"

namespace heed::detail {

/// Tokens that send signals to the same nodes of a tree.
struct SignalGroup {
  TokenSet tokens;
  const Index* nodes = nullptr;  ///< n_nodes numbers in level order, each once
  Index n_nodes = 0;
};

/// Some tokens of a group and their projections on its nodes; the signals go to `y`, which comes filled with zeros.
template <class T>
struct SignalPanel {
  Index group = 0;
  TokenSet tokens;
  Index width = 0;       ///< entries of a row of z and y, at least as many as tokens
  const T* z = nullptr;  ///< n_nodes x width: w_v . x + b_v, with the extra coordinate of lifted keys
  T* y = nullptr;        ///< n_nodes x width: dL/ds_v, s_v = sign(z_v)
  T* room = nullptr;     ///< (n_nodes + 1) x width, for whatever use
};

/// The tokens of one head in one role, and where their gradients are added.
template <class T, class S>
struct RoutedTokens {
  const Router<T>* router = nullptr;
  ConstView<S> x;
  TokenRole role = TokenRole::query;
  View<T> d_x{};
};

/// What one thread of a routing gradient owns for its signals: signals.make_worker(scratch), or nothing.
struct NoSignalWorker {};
template <class Signals>
auto make_signal_worker(const Signals& signals, Scratch& scratch) {
  if constexpr (requires { signals.make_worker(scratch); }) {
    return signals.make_worker(scratch);
  } else {
    return NoSignalWorker{};
  }
}

/// Counts `pairs` of a token and a node it signals to: its projection again, and the gradients of planes and tokens.
template <class T>
void count_routing_gradient(FlopCounter& flops, const Router<T>& router, double pairs, TokenRole role) {
  const double d = static_cast<double>(router.d), lift = router.lift != nullptr && role == TokenRole::key ? 1 : 0;
  flops.add_products(Phase::route, 2.0 * pairs * (d + lift));
  flops.add_products(Phase::backward_scores, pairs * (4.0 * d + 2.0 * lift));
}

/// What one thread owns while it goes from signals to planes, biases and tokens.
template <class T, class S>
class RoutingGradientPanel {
 public:
  RoutingGradientPanel(Scratch& scratch, const RoutedTokens<T, S>& in, Index most_nodes, Isa isa)
      : in_(in),
        tiles_(tile_kernels<T>(isa)),
        gradients_(gradient_kernels<T>(isa)),
        stored_(storage_kernels<T, KernelScalar<S>>(isa)),
        same_(storage_kernels<T, T>(isa)),
        d_(in.router->d),
        stride_(padded_width(d_)) {
    const Index width = full_width();
    planes_ = scratch.take<T>(most_nodes * stride_);
    sums_ = TreeSums<T>::take(scratch, most_nodes, d_);
    z_ = scratch.take<T>(most_nodes * width);
    y_ = scratch.take<T>(most_nodes * width);
    room_ = scratch.take<T>((most_nodes + 1) * width);
    rows_ = scratch.take<T>(width * stride_);
    x_ = scratch.take<T>(d_ * width);
    d_x_ = scratch.take<T>(d_ * width);
    for (T** row : {&extra_, &ones_, &ignored_, &reach_}) *row = scratch.take<T>(width);
  }

  /// Takes up to full_width() tokens at a time.
  Index full_width() const { return tiles_.lanes * tiles_.vectors; }

  /// Adds what `tokens`, some of those of group number `index`, give.
  template <class Signals>
  void add(Index index, const SignalGroup& group, const TokenSet& tokens, const Signals& signals,
           const TreeSums<T>& to) {
    const Router<T>& router = *in_.router;
    sums_.n_nodes = group.n_nodes;
    sums_.clear();
    for (Index n = 0; n < group.n_nodes; ++n) {
      std::copy_n(router.planes + group.nodes[n] * router.stride, d_, planes_ + n * stride_);
      std::fill_n(planes_ + n * stride_ + d_, stride_ - d_, T(0));
    }
    for (Index at = 0; at < tokens.size; at += full_width())
      add_panel(index, group, tokens.part(at, std::min(full_width(), tokens.size - at)), signals);
    for (Index n = 0; n < group.n_nodes && to.planes != nullptr; ++n) {
      T* plane = to.planes + group.nodes[n] * to.stride;
      for (Index c = 0; c < d_; ++c) plane[c] += sums_.planes[n * stride_ + c];
      to.biases[group.nodes[n]] += sums_.biases[n];
    }
  }

 private:
  bool lifts() const { return in_.router->lift != nullptr && in_.role == TokenRole::key; }

  template <class Signals>
  void add_panel(Index index, const SignalGroup& group, const TokenSet& tokens, const Signals& signals) {
    const Index n_nodes = group.n_nodes, n = tokens.size, vectors = (n + tiles_.lanes - 1) / tiles_.lanes,
                width = vectors * tiles_.lanes;
    load(tokens, width);
    std::fill_n(ignored_, width, T(0));
    tiles_.scores(planes_, stride_, n_nodes, x_, d_, width, 0, vectors, z_, ignored_, nullptr);
    for (Index v = 0; v < n_nodes; ++v) {
      const T bias = in_.router->biases[group.nodes[v]];
      const T weight = lifts() ? in_.router->lift[group.nodes[v]] : T(0);
      for (Index i = 0; i < width; ++i) z_[v * width + i] += lifts() ? weight * extra_[i] + bias : bias;
    }
    std::fill_n(y_, n_nodes * width, T(0));
    signals(SignalPanel<T>{index, tokens, width, z_, y_, room_});
    for (Index v = 0; v < n_nodes; ++v) {  // straight through the sign where |z| <= 1, not at all elsewhere
      T *y = y_ + v * width, sum = 0;
      const T* z = z_ + v * width;
      for (Index i = 0; i < width; ++i) y[i] = std::abs(z[i]) <= reach_[i] ? y[i] : T(0);
      for (Index i = 0; i < n; ++i) sum += y[i];
      sums_.biases[v] += sum;
    }
    gradients_.add_products(y_, width, n_nodes, rows_, stride_, n, stride_, sums_.planes, stride_);
    if (in_.d_x.data != nullptr) add_to_tokens(group, tokens, width, vectors);
  }

  // Rows of the tokens, as rows and transposed. A row that is not finite stands as zeros and reaches no node.
  void load(const TokenSet& tokens, Index width) {
    const auto* from =
        kernel_pointer(in_.x.data) + (tokens.list == nullptr ? tokens.first : Index(0)) * in_.x.row_stride;
    std::fill_n(rows_, width * stride_, T(0));
    stored_.gather(from, in_.x.row_stride, in_.x.col_stride, tokens.list, tokens.size, d_, rows_, stride_);
    std::fill_n(reach_, width, T(1));
    if (!tiles_.all_finite(rows_, stride_, tokens.size, d_)) {
      for (Index i = 0; i < tokens.size; ++i) {
        if (tiles_.all_finite(rows_ + i * stride_, stride_, 1, d_)) continue;
        std::fill_n(rows_ + i * stride_, d_, T(0));
        reach_[i] = T(-1);
      }
    }
    same_.transpose(rows_, stride_, 1, nullptr, tokens.size, nullptr, d_, x_, width, T(1), true);
    if (!lifts()) return;
    const T radius = in_.router->radius, power = safe_power(radius);
    std::fill_n(extra_, width, T(0));
    for (Index i = 0; i < tokens.size; ++i) {
      T rest = (radius * power) * (radius * power);
      for (Index c = 0; c < d_; ++c) rest -= (x_[c * width + i] * power) * (x_[c * width + i] * power);
      extra_[i] = rest > 0 ? std::sqrt(rest) / power : T(0);
    }
  }

  void add_to_tokens(const SignalGroup& group, const TokenSet& tokens, Index width, Index vectors) {
    std::fill_n(d_x_, d_ * width, T(0));
    std::fill_n(ones_, width, T(1));
    tiles_.values(planes_, stride_, tiles_.rows, group.n_nodes, y_, d_, width, 0, vectors, ones_, d_x_);
    for (Index i = 0; i < tokens.size; ++i) {
      T along = 0;  // d extra / d x = -x / extra
      if (lifts() && extra_[i] > 0) {
        for (Index v = 0; v < group.n_nodes; ++v) along += y_[v * width + i] * in_.router->lift[group.nodes[v]];
        along /= extra_[i];
      }
      for (Index c = 0; c < d_; ++c) in_.d_x(tokens[i], c) += d_x_[c * width + i] - along * rows_[i * stride_ + c];
    }
  }

  const RoutedTokens<T, S>& in_;
  const TileKernels<T>& tiles_;
  const GradientKernels<T>& gradients_;
  const StorageKernels<T, KernelScalar<S>>& stored_;
  const StorageKernels<T, T>& same_;
  Index d_, stride_;
  T *planes_, *z_, *y_, *room_, *rows_, *x_, *d_x_, *extra_, *ones_, *ignored_, *reach_;
  TreeSums<T> sums_;
};

/// The last step of every routing gradient. Given y_iv = dL/ds_v of token i at the nodes v its group names, where
/// s_v = sign(z_v) and z_v = w_v . x_i + b_v, the sign is taken straight through where |z_v| <= 1 and is flat beyond:
///   dL/dz_iv = [|z_iv| <= 1] y_iv,
///   d_w_v += sum_i dL/dz_iv x_i,  d_b_v += sum_i dL/dz_iv,  d_x_i += sum_v dL/dz_iv w_v.
/// A key of a lifted tree has z_v = w_v . x + u_v e + b_v with e = sqrt(radius^2 - |x|^2), which adds
/// -(x_i / e_i) sum_v dL/dz_iv u_v to d_x_i; u and radius are constants.
///
/// Shapes  in.x: n x d; in.d_x: n x d sums, or no data where it is not wanted; groups: disjoint sets of its rows;
///         signals(panel) writes panel.y (SignalPanel) and may run on several threads at once; where signals has
///         make_worker(scratch), signals(panel, worker) with that of the thread, to which the panels of a group come in
///         order but for leaps ahead; sums: n_nodes x d, without planes where they are not wanted.
/// Empty   a token whose row is not finite gives nothing.
/// Cost    6 d flops for each token and node of its group: 2 d in Phase::route, for z, and 4 d in
///         Phase::backward_scores; memory of up to 16 sums, fewer for large trees.
/// Threads sums are over the same tokens in the same order for any context.threads. The context brings a workspace.
/// Source  Karthikeyan, Jain, Natarajan, Jain 2021, section 4. The surrogate is clamp(z, -1, 1), of slope 1; their
///         optional factor, the mean of |z|, is left out.
template <class T, class S, class Signals>
void add_routing_gradient(const RoutedTokens<T, S>& in, std::span<const SignalGroup> groups, const Signals& signals,
                          const TreeSums<T>& sums, const Context& context) {
  constexpr Index piece = 512, most_slots = 16, slot_entries = Index(1) << 20;  // of 4 MiB of floats in all
  Index n_pieces = 0, most_nodes = 0;
  double pairs = 0;
  const auto pieces_of = [](const SignalGroup& group) { return (group.tokens.size + piece - 1) / piece; };
  for (const SignalGroup& group : groups) {
    n_pieces += pieces_of(group);
    most_nodes = std::max(most_nodes, group.n_nodes);
    pairs += static_cast<double>(group.tokens.size) * static_cast<double>(group.n_nodes);
  }
  if (n_pieces == 0 || most_nodes == 0) return;
  const bool wanted = sums.planes != nullptr;
  const Index n_slots = std::clamp<Index>(
      std::min(n_pieces, wanted ? slot_entries / (sums.n_nodes * sums.stride + 1) : n_pieces), 1, most_slots);
  Workspace::Frame frame(*context.workspace);
  TreeSums<T>* slots = frame.take<TreeSums<T>>(n_slots);
  for (Index s = 0; s < n_slots; ++s) {
    slots[s] = s == 0 || !wanted ? sums : TreeSums<T>::take(frame, sums.n_nodes, sums.d);
    if (s > 0 && wanted) slots[s].clear();
  }
  struct Thread {
    RoutingGradientPanel<T, S> panel;
    decltype(make_signal_worker(signals, std::declval<Scratch&>())) worker;
  };
  const int threads = threads_for(pairs * static_cast<double>(in.router->d), 1e5, thread_count(context.threads));
  for_each_task(
      n_slots, threads, frame,
      [&](Scratch& scratch) {
        return Thread{{scratch, in, most_nodes, active_isa()}, make_signal_worker(signals, scratch)};
      },
      [&](Thread& thread, Index slot) {
        const auto signal = [&](const SignalPanel<T>& panel) {
          if constexpr (std::is_same_v<decltype(thread.worker), NoSignalWorker>) {
            signals(panel);
          } else {
            signals(panel, thread.worker);
          }
        };
        Index first = 0;  // pieces before those of the group
        const Index low = n_pieces * slot / n_slots, high = n_pieces * (slot + 1) / n_slots;
        for (std::size_t g = 0; g < groups.size(); ++g) {
          const Index n = pieces_of(groups[g]), from = std::max(low - first, Index(0)), to = std::min(high - first, n);
          if (from < to) {
            const Index at = from * piece, end = std::min(to * piece, groups[g].tokens.size);
            thread.panel.add(static_cast<Index>(g), groups[g], groups[g].tokens.part(at, end - at), signal,
                             slots[slot]);
          }
          first += n;
        }
      });
  for (Index s = 1; s < n_slots && wanted; ++s) sums.add(slots[s]);
  if (context.flops != nullptr) count_routing_gradient(*context.flops, *in.router, pairs, in.role);
}

}  // namespace heed::detail
