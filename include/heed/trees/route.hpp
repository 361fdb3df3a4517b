#pragma once
#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "heed/core/context.hpp"
#include "heed/core/types.hpp"
#include "heed/core/view.hpp"
#include "heed/core/workspace.hpp"
#include "heed/engine/head_call.hpp"
#include "heed/engine/tasks.hpp"
#include "heed/kernels/select.hpp"
#include "heed/trees/safe_power.hpp"

namespace heed {

/// What a token is to a tree: keys may have one coordinate more than queries (TreeLift).
enum class TokenRole { query, key };

namespace detail {

/// Entries of a plane as the kernels read it: whole vectors of every instruction set.
inline Index padded_width(Index d) { return (d + 15) / 16 * 16; }

/// The planes and biases of one call. Views the tree, or a frame.
template <class T>
struct Router {
  const T* planes = nullptr;  // nodes x stride, padded with zeros
  Index stride = 0;
  const T* biases = nullptr;
  const T* lift = nullptr;  // null: none
  T radius = 0;
  Index height = 0;
  Index d = 0;

  Index n_nodes() const { return (Index(1) << height) - 1; }
};

/// Of n_tokens in this role: a key of a lifted tree has a coordinate more.
template <class T>
double route_flops(const Router<T>& router, Index n_tokens, TokenRole role) {
  const Index width = router.d + (router.lift != nullptr && role == TokenRole::key ? 1 : 0);
  return 2.0 * static_cast<double>(n_tokens) * static_cast<double>(router.height) * static_cast<double>(width);
}

/// Rows to be routed.
template <class T, class S>
struct RouteJob {
  const Router<T>* router = nullptr;
  ConstView<S> tokens;
  Index n_tokens = 0;  // the first of them, or as many as `list` names
  TokenRole role = TokenRole::query;
  Index* leaf = nullptr;        // of each token, whatever is routed
  const Index* list = nullptr;  // the tokens to be routed; null: 0, 1, 2, ...
};

constexpr Index route_rows = 128;  // a task: short enough to share out, and its rows stay in L1 for all levels

/// Scratch of one thread: rows as the kernel reads them.
template <class T>
struct RouteScratch {
  RouteScratch(Scratch& scratch, Index d)
      : rows(scratch.take<T>(route_rows * d)),
        extra(scratch.take<T>(route_rows)),
        leaf(scratch.take<Index>(route_rows)) {}
  T* rows;
  T* extra;
  Index* leaf;
};

/// Calls run(kernels, data, row_stride) on rows [first, first + n), in place or as a copy in `scratch`.
template <class T, class S, class Run>
void with_rows(const ConstView<S>& tokens, Index first, Index n, const RouteScratch<T>& scratch, const Run& run) {
  const Isa isa = active_isa();
  const auto* data = kernel_pointer(tokens.data) + first * tokens.row_stride;
  if (tokens.col_stride == 1) {
    run(route_kernels<T, KernelScalar<S>>(isa), data, tokens.row_stride);
    return;
  }
  storage_kernels<T, KernelScalar<S>>(isa).gather(data, tokens.row_stride, tokens.col_stride, nullptr, n, tokens.cols,
                                                  scratch.rows, tokens.cols);
  run(route_kernels<T, T>(isa), scratch.rows, tokens.cols);
}

/// extra[r] = sqrt(radius^2 - ||k_{j + r}||^2) for R keys from j on, 0 for a longer one; power: safe_power(radius). The
/// sums of several keys do not wait for one another.
template <int R, class T, class S>
void lift_block(const ConstView<S>& keys, Index j, T radius, T power, T* extra) {
  T rest[static_cast<std::size_t>(R)];
  std::fill_n(rest, R, (radius * power) * (radius * power));
  for (Index c = 0; c < keys.cols; ++c) {
    for (int r = 0; r < R; ++r) {
      const T x = static_cast<T>(keys(j + r, c)) * power;
      rest[r] -= x * x;
    }
  }
  for (int r = 0; r < R; ++r) extra[r] = rest[r] > 0 ? std::sqrt(rest[r]) / power : T(0);
}

/// The same of n keys, and zeros up to a whole vector.
template <class T, class S>
void lift_rows(const ConstView<S>& keys, Index first, Index n, T radius, T* extra) {
  const T power = safe_power(radius);
  Index j = 0;
  for (; j + 8 <= n; j += 8) lift_block<8>(keys, first + j, radius, power, extra + j);
  for (; j < n; ++j) lift_block<1>(keys, first + j, radius, power, extra + j);
  std::fill(extra + n, extra + padded_width(n), T(0));
}

/// Threads worth waking for routing: one for about ten microseconds of it.
inline int route_threads(double flops, int threads) { return threads_for(flops, 2e5, threads); }

/// Routes the tokens of all jobs. They share a width.
template <class T, class S>
void route_all(std::span<const RouteJob<T, S>> jobs, Workspace::Frame& frame, int threads) {
  Index n_tasks = 0;
  double flops = 0;
  for (const RouteJob<T, S>& job : jobs) {
    n_tasks += (job.n_tokens + route_rows - 1) / route_rows;
    flops += route_flops(*job.router, job.n_tokens, job.role);
  }
  const Index width = jobs.front().tokens.cols;
  for_each_task(
      n_tasks, route_threads(flops, threads), frame, [&](Scratch& scratch) { return RouteScratch<T>(scratch, width); },
      [&](const RouteScratch<T>& scratch, Index task) {
        const RouteJob<T, S>* job = jobs.data();
        for (Index own = 0; task >= (own = (job->n_tokens + route_rows - 1) / route_rows); ++job) task -= own;
        const Router<T>& router = *job->router;
        const Index first = task * route_rows, n = std::min(route_rows, job->n_tokens - first);
        const auto route = [&](const auto& tokens, Index from, Index* leaf) {
          const bool lifts = router.lift != nullptr && job->role == TokenRole::key;
          if (lifts) lift_rows(tokens, from, n, router.radius, scratch.extra);
          with_rows(tokens, from, n, scratch, [&](const auto& kernels, const auto* rows, Index stride) {
            kernels.route(rows, stride, n, router.d, router.planes, router.stride, router.biases,
                          lifts ? router.lift : nullptr, scratch.extra, router.height, leaf);
          });
        };
        if (job->list == nullptr) return route(job->tokens, first, job->leaf + first);
        const ConstView<S>& all = job->tokens;
        const Index* list = job->list + first;
        storage_kernels<T, KernelScalar<S>>(active_isa())
            .gather(kernel_pointer(all.data), all.row_stride, all.col_stride, list, n, width, scratch.rows, width);
        route(ConstView<T>{scratch.rows, n, width, width, 1}, Index(0), scratch.leaf);
        for (Index t = 0; t < n; ++t) job->leaf[list[t]] = scratch.leaf[t];
      });
}

}  // namespace detail
}  // namespace heed
